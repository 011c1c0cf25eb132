"""A manifest as it grows: whoever reads it waits for its next lines."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Sequence

from shardcast.concurrency import Notifier
from shardcast.errors import ShardcastError, VersionAborted
from shardcast.protocol.manifest import Header, Manifest, Shard
from shardcast.protocol.manifest_reader import Aborted, ManifestError, ManifestReader
from shardcast.protocol.shard_table import ShardTable


class LiveManifest:
    """The manifest of one version, from its first line to its last.

    A thread adds lines while the event loop reads. What is read only grows, and only by lines that were found
    right: ``raw`` is extended in one step, the table behind ``shards`` by one shard at a time, ``header`` and
    ``whole`` are set once. Lines are parsed in ``_reader``, which nobody else looks at: some lines of a wrong
    portion are taken there before it is found wrong, and then it begins anew. ``_adding`` lets one thread at
    a time add. The shards of lines are there before the lines are, and ``whole`` is last.

    Attributes:
        version: whose it is.
        raw: the lines that are there, verbatim; empty for what was put together from old nodes' answers.
        whole: the manifest; None until its closing line is there.
        error: why no more lines come.
        aborted: why its publisher gave it up, if it did.
    """

    def __init__(self, version: str) -> None:
        self.version = version
        self.raw: bytes | bytearray = bytearray()
        self.whole: Manifest | None = None
        self.error: ShardcastError | None = None
        self.aborted: str | None = None
        self._reader = ManifestReader(version)
        self._header: Header | None = None
        self._shards = ShardTable()
        self._adding = threading.Lock()
        self._notifier = Notifier()

    @classmethod
    def of(cls, manifest: Manifest) -> LiveManifest:
        """One that is whole already."""
        live = cls(manifest.version)
        live.raw = manifest.raw
        live.whole = manifest
        return live

    @property
    def header(self) -> Header:
        """Its first line, which must be there."""
        whole = self.whole
        header = whole.header if whole else self._header
        assert header
        return header

    @property
    def begun(self) -> bool:
        """Whether its first line is there."""
        return self.whole is not None or self._header is not None

    @property
    def shards(self) -> Sequence[Shard]:
        """Those whose lines are there."""
        whole = self.whole
        return whole.shards if whole else self._shards

    @property
    def size(self) -> int:
        """Bytes of the payload, as far as is known."""
        if self.begun and self.header.size is not None:
            return self.header.size
        shards = self.shards
        return shards[-1].end if shards else 0

    @property
    def ended(self) -> bool:
        return self.whole is not None or self.error is not None

    def add(self, lines: bytes) -> None:
        """Take whole lines.

        Raises:
            ManifestError: they are not a manifest's, or break a bound.
            Aborted: they say that publishing was given up.
        """
        with self._adding:
            reader = self._reader
            try:
                reader.feed(lines)
            except Aborted as error:
                self.abort(error.why)
                raise
            except ManifestError:  # others may have the right lines
                self._reader = ManifestReader(self.version)
                self._reader.feed(bytes(self.raw))
                raise
            self._header = reader.header
            self._shards.extend(reader.shards[len(self._shards) :])
            self.raw += lines
            if reader.digests is not None:
                self.whole = reader.manifest()
        self._notifier.notify()

    def abort(self, why: str) -> None:
        """Its publisher gave it up."""
        if not self.ended:
            self.aborted = why
            self.fail(VersionAborted(f"{self.version} was given up by its publisher: {why}"))

    def fail(self, error: ShardcastError) -> None:
        """No more lines come, and this is why."""
        if not self.ended:
            self.error = error
            self._notifier.notify()

    def resume(self) -> None:
        """Lines come again."""
        self.error = None

    async def change(self, length: int) -> None:
        """Wait until there is more than so many bytes, or the end."""
        await self._notifier.wait_for(lambda: len(self.raw) > length or self.ended)

    async def first_line(self) -> Header:
        """
        Raises:
            ShardcastError: none comes.
        """
        await self._notifier.wait_for(lambda: self.begun or self.ended)
        if not self.begun:
            assert self.error
            raise self.error
        return self.header

    async def broken(self) -> None:
        """Wait until it is known that it will never be whole.

        Raises:
            ShardcastError: why.
        """
        await self._notifier.wait_for(lambda: self.error is not None)
        assert self.error
        raise self.error

    async def as_they_come(self) -> AsyncIterator[Shard]:
        """The shards, each as soon as its line is there.

        Raises:
            ShardcastError: no more lines come, though it is not whole.
        """
        count = 0
        while True:
            await self._notifier.wait_for(lambda: len(self.shards) > count or self.ended)  # noqa: B023  it is now's
            while count < len(self.shards):
                yield self.shards[count]
                count += 1
            if self.whole and count == len(self.whole.shards):
                return
            if self.error:
                raise self.error
