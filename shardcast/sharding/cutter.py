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
from shardcast.protocol.manifest import Header, Manifest, Shard, close_manifest, header_line, shard_line
from shardcast.sharding.chunk_source import ChunkSource
from shardcast.sharding.payload_hasher import ChunkRing
from shardcast.sharding.publication import Cancelled, PayloadDescription, PublishProgress, ReserveBytes
from shardcast.store.open_version import OpenVersion
from shardcast.temporary_files import create_private

_MAX_SYNCING = 4
"""Shards that become durable while the next one is cut."""


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
    shard, a fourth one makes finished shards durable, and a fifth one hashes what the source wants hashed.

    Args:
        source: the payload.
        opened: the version.
        header: the manifest's first line.
        description: how the payload is hashed.
        progress: kept up to date; its ``cancelled`` is read before each chunk.
        reserve: called before each chunk is stored.

    Returns:
        The version's manifest, whose lines readers have but for the last one.

    Raises:
        Cancelled: ``progress.cancelled`` was set.
        NoRoom: ``reserve`` refused.
        LocalDiskError: the disk failed.
        OSError: the payload can't be read.
    """
    whole = {name: new_hasher(name) for name in description.digests}
    shards: list[Shard] = []
    with ExitStack() as stack:
        whole_thread, shard_thread, source_thread, disk_thread = (
            stack.enter_context(ThreadPool(1, name))
            for name in ("shardcast-whole", "shardcast-shard", "shardcast-parts", "shardcast-fsync")
        )
        ring = ChunkRing()
        syncing: deque[Future[None]] = deque()

        def wait_for_syncing(max_left: int) -> None:
            """Wait until all but ``max_left`` shards are durable."""
            while syncing and (syncing[0].done() or len(syncing) > max_left):
                syncing.popleft().result()

        for line in chain([header_line(header)], source.first_lines()):
            opened.live.add(line)
        offset, ended = 0, False
        while not ended and ((target := source.shard_size(offset)) or not shards):
            number = len(shards) + 1
            # The first shard's digest is the whole digest so far: with one hash less it is announced sooner.
            single = new_hasher("sha256") if shards else whole["sha256"]
            hashing = shard_thread if shards else whole_thread
            pieces = PieceDigests(header.piece_size)
            length = 0
            with _part(opened, number) as part:
                while length < target:
                    if progress.cancelled:
                        raise Cancelled(f"{header.version} was called off")
                    chunk = ring.take()[: target - length]
                    wait_for_syncing(_MAX_SYNCING)
                    count = source.fill(chunk, offset + length)
                    if not count:
                        ended = True  # a stream ended, or a file shrank, which the caller notices
                        break
                    chunk = chunk[:count]
                    reserve(offset + length + count)
                    work = [whole_thread.submit(_update, tuple(whole.values()), chunk)]
                    if shards:
                        work.append(shard_thread.submit(_update, (single,), chunk))
                    if further := source.hashing(chunk):
                        work.append(source_thread.submit(further))
                    ring.put(work)
                    pieces.update(chunk)
                    if part:
                        _write_all(part, chunk, opened)
                    length += count
                    progress.done = offset + length
            if shards and not length:  # the payload ended where a shard does
                break
            sha256 = hashing.submit(single.hexdigest).result()
            shards.append(Shard(number, offset, length, sha256, pieces.finish()))
            if not opened.adopted.present:
                opened.files.publish_shard(number, sha256)
                syncing.append(disk_thread.submit(opened.files.fsync_shard, number, sha256))
            behind = source_thread.submit(source.lines_behind, number).result()
            for line in chain([shard_line(shards[-1])], behind):
                opened.live.add(line)
            progress.shards = number
            offset += length
        ring.wait()
        wait_for_syncing(0)
    digests = {name: hasher.hexdigest() for name, hasher in whole.items()}
    return close_manifest(header, shards, digests, opened.live.raw)


@contextmanager
def _part(opened: OpenVersion, number: int) -> Iterator[BinaryIO | None]:
    """Open the temporary file of a shard; None where the shard is a part of an adopted payload."""
    if opened.adopted.present:
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
