"""A payload ─▶ shards: read, cut, hashed, stored and announced in one pass."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import BinaryIO

from shardcast.concurrency import ThreadPool
from shardcast.digest import Hasher, PieceDigests, new_hasher
from shardcast.disk_errors import disk_errors, is_full
from shardcast.errors import PayloadChanged
from shardcast.protocol.manifest import Header, Manifest, Shard, close_manifest, header_line, shard_line
from shardcast.sharding.chunk_source import ChunkSource
from shardcast.sharding.payload_hasher import ChunkRing
from shardcast.sharding.publication import Cancelled, PayloadDescription, PublishProgress, ReserveBytes
from shardcast.store.open_version import OpenVersion
from shardcast.temporary_files import create_private

_MAX_SYNCING = 4
"""Maximum shards being synced while the next one is cut."""


def cut(
    source: ChunkSource,
    opened: OpenVersion,
    header: Header,
    *,
    description: PayloadDescription,
    progress: PublishProgress,
    reserve: ReserveBytes,
) -> Manifest:
    """Cut a payload into the shards of an open version, and make them durable.

    This thread reads, writes and hashes pieces while a second one hashes the whole payload, a third one each
    shard, a fourth one makes finished shards durable, and a fifth one does the source's own hashing.

    Args:
        source: the payload.
        opened: the version.
        header: the manifest's first line.
        description: how the payload is hashed.
        progress: kept up to date; its ``cancelled`` is read before each chunk.
        reserve: called before each chunk is stored.

    Returns:
        The version's manifest; readers have all its lines but the last.

    Raises:
        Cancelled: ``progress.cancelled`` was set.
        NoRoom: ``reserve`` refused.
        PayloadChanged: bytes said to be those of an earlier version are others.
        LocalDiskError: the disk failed.
        OSError: the payload cannot be read.
    """
    with ExitStack() as stack:
        cutter = _Cutter(source, opened, header, progress=progress, reserve=reserve, stack=stack)
        return cutter.cut(description.digests)


class _Cutter:
    """The cutting of one payload, with its helping threads."""

    def __init__(
        self,
        source: ChunkSource,
        opened: OpenVersion,
        header: Header,
        *,
        progress: PublishProgress,
        reserve: ReserveBytes,
        stack: ExitStack,
    ) -> None:
        self._source = source
        self._opened = opened
        self._header = header
        self._progress = progress
        self._reserve = reserve
        self._whole_thread, self._shard_thread, self._source_thread, self._disk_thread = (
            stack.enter_context(ThreadPool(1, name))
            for name in ("shardcast-whole", "shardcast-shard", "shardcast-parts", "shardcast-fsync")
        )
        self._ring = ChunkRing()
        self._syncing: deque[Future[None]] = deque()
        self._whole: dict[str, Hasher] = {}
        self._shards: list[Shard] = []
        self._offset = 0
        self._ended = False

    def cut(self, algorithms: Iterable[str]) -> Manifest:
        """Cut the whole payload, and return its manifest; ``algorithms`` are those of the whole digest."""
        known = self._source.known_digests()
        if known is None:
            self._whole = {name: new_hasher(name) for name in algorithms}
        for line in chain([header_line(self._header)], self._source.first_lines()):
            self._opened.live.add(line)
        while not self._ended:
            target = self._source.shard_size(self._offset)
            if not target and self._shards:
                break
            shard = self._known_shard(target) or self._new_shard(target)
            if shard:
                self._announce(shard)
        self._ring.wait()
        self._wait_for_syncing(0)
        digests = known or {name: hasher.hexdigest() for name, hasher in self._whole.items()}
        return close_manifest(self._header, self._shards, digests, self._opened.live.raw)

    def _known_shard(self, size: int) -> Shard | None:
        """Link the next shard from an earlier version if its bytes are known; else return None.

        The bytes are still read if the whole digest needs them.

        Raises:
            PayloadChanged: the bytes differ from the known ones.
        """
        number = len(self._shards) + 1
        known = self._source.known_shard(number)
        if known is None:
            return None
        adopted = self._opened.adopted.has(number)
        if not adopted and not self._opened.files.publish_known(known):
            return None
        if self._whole:
            length, pieces = self._read(size, None, None)
            if (length, pieces) != (known.size, known.pieces):
                raise PayloadChanged(
                    f"can't broadcast {self._header.name}: the bytes of shard {number} are others than in "
                    "the last version, though sizes and times of its files are the same; publish it with "
                    "--checksum (checksum=True)"
                )
        else:
            self._progress.done = self._offset + known.size
        if not adopted:
            self._syncing.append(
                self._disk_thread.submit(self._opened.files.fsync_shard, number, known.sha256 or "")
            )
        return known

    def _new_shard(self, target: int) -> Shard | None:
        """Cut the next shard; None where the payload has ended."""
        number = len(self._shards) + 1
        # The first shard's digest is the whole digest so far: one hash less, and the shard is announced
        # sooner.
        is_whole = not self._shards and bool(self._whole)
        single = self._whole["sha256"] if is_whole else new_hasher("sha256")
        with _part(self._opened, number) as part:
            length, pieces = self._read(target, None if is_whole else single, part)
        if self._shards and not length:  # the payload ended where a shard does
            return None
        hashing = self._whole_thread if is_whole else self._shard_thread
        sha256 = hashing.submit(single.hexdigest).result()
        if not self._opened.adopted.has(number):
            self._opened.files.publish_shard(number, sha256)
            self._syncing.append(self._disk_thread.submit(self._opened.files.fsync_shard, number, sha256))
        return Shard(number, self._offset, length, sha256, pieces)

    def _check_not_cancelled(self) -> None:
        """Check that publishing was not cancelled.

        Raises:
            Cancelled: ``progress.cancelled`` was set.
        """
        if self._progress.cancelled:
            raise Cancelled(f"the broadcast of {self._header.version} was cancelled")

    def _read(self, target: int, single: Hasher | None, part: BinaryIO | None) -> tuple[int, bytes]:
        """Read a shard, hash its pieces and the whole, and ``single`` if given; write the shard to ``part``.

        Returns:
            The bytes read, and the digests of the pieces.
        """
        pieces, length = PieceDigests(self._header.piece_size), 0
        while length < target:
            self._check_not_cancelled()
            chunk = self._ring.take()[: target - length]
            self._wait_for_syncing(_MAX_SYNCING)
            count = self._source.fill(chunk, self._offset + length)
            if not count:
                self._check_not_cancelled()  # a cancelled source gives nothing more, and has not shrunk
                self._ended = True  # a stream ended, or a file shrank, which the caller notices
                break
            chunk = chunk[:count]
            self._reserve(self._offset + length + count)
            work = []
            if self._whole:
                work.append(self._whole_thread.submit(_update, tuple(self._whole.values()), chunk))
            if single:
                work.append(self._shard_thread.submit(_update, (single,), chunk))
            if further := self._source.hashing(chunk):
                work.append(self._source_thread.submit(further))
            self._ring.put(work)
            pieces.update(chunk)
            if part:
                _write_all(part, chunk, self._opened)
            length += count
            self._progress.done = self._offset + length
        return length, pieces.finish()

    def _announce(self, shard: Shard) -> None:
        """Add a shard's line to the manifest, and the lines after it."""
        behind = self._source_thread.submit(self._source.lines_behind, shard.number).result()
        for line in chain([shard_line(shard)], behind):
            self._opened.live.add(line)
        self._shards.append(shard)
        self._progress.shards = shard.number
        self._offset = shard.end

    def _wait_for_syncing(self, max_left: int) -> None:
        """Wait until all but ``max_left`` shards are durable."""
        while self._syncing and (self._syncing[0].done() or len(self._syncing) > max_left):
            self._syncing.popleft().result()


@contextmanager
def _part(opened: OpenVersion, number: int) -> Iterator[BinaryIO | None]:
    """Open the temporary file of a shard; None where the shard is a part of an adopted file."""
    if opened.adopted.has(number):
        yield None
        return
    file = opened.files.part(number)
    with disk_errors("could not write", file):
        file.unlink(missing_ok=True)
        with os.fdopen(create_private(file), "wb", 0) as part:
            yield part


def _update(hashers: Iterable[Hasher], chunk: memoryview) -> None:
    """Hash a chunk; in a hashing thread."""
    for hasher in hashers:
        hasher.update(chunk)


def _write_all(file: BinaryIO, chunk: memoryview, opened: OpenVersion) -> None:
    """Write a chunk; on a full disk have room made, and go on where the write stopped."""
    while chunk:
        try:
            chunk = chunk[file.write(chunk) :]
        except OSError as error:
            if not is_full(error) or not opened.make_room(len(chunk), error):
                raise
