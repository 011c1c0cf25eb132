"""A manifest growing line by line, and the wait for further lines."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Sequence
from typing import Self

from shardcast.concurrency import Notifier
from shardcast.errors import ShardcastError, VersionAborted
from shardcast.protocol.manifest import Header, Manifest, Shard
from shardcast.protocol.manifest_reader import Aborted, ManifestError, ManifestReader
from shardcast.protocol.shard_table import ShardTable


class LiveManifest:
    """The manifest of one version, from its first line to its last.

    A thread adds lines while the event loop reads. The readable parts only grow, and only by right lines:
    ``raw`` is extended in one step, the table behind ``shards`` by one shard at a time, ``header`` and
    ``manifest`` are set once. Lines are parsed in ``_reader``, used by ``add`` alone: of a wrong portion,
    ``_reader`` has taken some lines before the fault is found, and then a new reader begins. ``_adding`` lets
    one thread at a time add. The shards of lines are set before the lines, and ``manifest`` is last.

    Attributes:
        version: the version's name.
        raw: the lines so far, verbatim; empty for a manifest put together from old nodes' answers.
        manifest: the manifest; None before its closing line.
        error: the reason for no more lines; None while they may come.
        aborted: the reason of the publisher, or of a server, for giving the version up; None for none.
    """

    def __init__(self, version: str) -> None:
        self.version = version
        self.raw: bytes | bytearray = bytearray()
        self.manifest: Manifest | None = None
        self.error: ShardcastError | None = None
        self.aborted: str | None = None
        self._reader = ManifestReader(version, keeps_lines=False)
        self._header: Header | None = None
        self._shards = ShardTable()
        self._adding = threading.Lock()
        self._notifier = Notifier()

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Return a live manifest, whole from the beginning."""
        live = cls(manifest.version)
        live.raw = manifest.raw
        live.manifest = manifest
        return live

    @property
    def header(self) -> Header:
        """The first line; it must be there."""
        whole = self.manifest
        header = whole.header if whole else self._header
        assert header
        return header

    @property
    def has_header(self) -> bool:
        """Whether the first line is there."""
        return self.manifest is not None or self._header is not None

    @property
    def shards(self) -> Sequence[Shard]:
        """The shards whose lines are there."""
        whole = self.manifest
        return whole.shards if whole else self._shards

    @property
    def size(self) -> int:
        """Bytes of the payload, if known; else of the shards so far."""
        if self.has_header and self.header.size is not None:
            return self.header.size
        shards = self.shards
        return shards[-1].end if shards else 0

    @property
    def final_size(self) -> int | None:
        """Bytes of the payload; None while more may come."""
        is_known = self.manifest is not None or (self.has_header and self.header.size is not None)
        return self.size if is_known else None

    @property
    def ended(self) -> bool:
        """Whether the manifest is whole, or no more lines come."""
        return self.manifest is not None or self.error is not None

    def add(self, lines: bytes) -> None:
        """Add whole lines, and wake the readers; for any thread.

        Raises:
            ManifestError: the lines are not the next ones of a manifest, or break a bound; none of them
                counts.
            Aborted: the lines report an aborted publication.
        """
        with self._adding:
            reader = self._reader
            try:
                reader.feed(lines)
            except Aborted as error:
                self.abort(error.why)
                raise
            except ManifestError:  # another server may have the right lines
                self._reader = ManifestReader(self.version, keeps_lines=False)
                self._reader.feed(bytes(self.raw))
                raise
            self._header = reader.header
            self._shards.extend(reader.shards[len(self._shards) :])
            self.raw += lines
            if reader.digests is not None:
                self.raw = bytes(self.raw)
                self.manifest = reader.manifest(self.raw)
        self._notifier.notify()

    def finish(self, manifest: Manifest) -> None:
        """End with a complete manifest beginning with the lines so far, and wake the readers."""
        with self._adding:
            if not self.manifest:
                self._header, self.raw, self.manifest = manifest.header, manifest.raw, manifest
        self._notifier.notify()

    def abort(self, why: str) -> None:
        """End the manifest of a version given up, by its publisher or by a server, for the reason ``why``."""
        if not self.ended:
            self.aborted = why
            self.fail(VersionAborted(f"{self.version} was aborted before it was complete: {why}"))

    def fail(self, error: ShardcastError) -> None:
        """End the manifest with an ``error``, raised to readers after the last line."""
        if not self.ended:
            self.error = error
            self._notifier.notify()

    def resume(self) -> None:
        """Expect lines again, after ``fail``."""
        self.error = None

    async def wait_for_more(self, length: int) -> None:
        """Wait until there are more than ``length`` bytes, or the manifest has ended."""
        await self._notifier.wait_for(lambda: len(self.raw) > length or self.ended)

    async def wait_header(self) -> Header:
        """Wait for the first line, and return it.

        Raises:
            ShardcastError: no line comes.
        """
        await self._notifier.wait_for(lambda: self.has_header or self.ended)
        if not self.has_header:
            assert self.error
            raise self.error
        return self.header

    async def wait_first_shard(self) -> None:
        """Wait for the line of the first shard, behind all lines with entries of a folder.

        Raises:
            ShardcastError: none comes.
        """
        await self._notifier.wait_for(lambda: len(self.shards) > 0 or self.ended)
        if not self.shards and self.error:
            raise self.error

    async def wait_ended(self) -> Manifest | None:
        """Wait for the end of the lines; return the manifest, or None for an incomplete one."""
        await self._notifier.wait_for(lambda: self.ended)
        return self.manifest

    async def wait_failed(self) -> None:
        """Wait until no more lines come, though the manifest is not whole.

        Raises:
            ShardcastError: always; why no more lines come.
        """
        await self._notifier.wait_for(lambda: self.error is not None)
        assert self.error
        raise self.error

    async def iterate_shards(self) -> AsyncIterator[Shard]:
        """Yield the shards, each as soon as its line has come.

        Raises:
            ShardcastError: no more lines come, though the manifest is incomplete.
        """
        count = 0
        while True:
            await self._notifier.wait_for(lambda: len(self.shards) > count or self.ended)  # noqa: B023  it is now's
            while count < len(self.shards):
                yield self.shards[count]
                count += 1
            if self.manifest and count == len(self.manifest.shards):
                return
            if self.error:
                raise self.error
