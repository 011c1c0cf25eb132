"""A payload ─▶ shards: read, cut, hashed, stored and announced in one pass."""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

from shardcast.concurrency import ThreadPool
from shardcast.digest import Hasher, PieceDigests, new_hasher
from shardcast.disk_errors import disk_errors, is_full
from shardcast.protocol.manifest import Header, Shard, header_line, shard_line
from shardcast.sharding.payload_hasher import ChunkRing
from shardcast.sharding.publication import Cancelled, PayloadDescription, PublishProgress, ReserveBytes
from shardcast.store.open_version import OpenVersion
from shardcast.temporary_files import create_private

_MAX_SYNCING = 4
"""Shards that become durable while the next one is cut."""
_POLL_INTERVAL = 0.2
"""Seconds that a paused writer delays a cancellation at most."""


def cut(
    payload: BinaryIO,
    size: int,
    opened: OpenVersion,
    header: Header,
    *,
    description: PayloadDescription,
    progress: PublishProgress,
    reserve: ReserveBytes,
) -> tuple[list[Shard], dict[str, str]]:
    """Cut a payload into the shards of an open version, and make them durable.

    This thread reads, writes and hashes pieces while a second one hashes the whole payload, a third one each
    shard, and a fourth one makes finished shards durable.

    Args:
        payload: the payload, unbuffered.
        size: bytes to read at most.
        opened: the version.
        header: the manifest's first line.
        description: how the payload is cut and hashed.
        progress: kept up to date; its ``cancelled`` is read before each chunk.
        reserve: called before each chunk is stored.

    Returns:
        The shards, and the whole digests in hex by their algorithms.

    Raises:
        Cancelled: ``progress.cancelled`` was set.
        NoRoom: ``reserve`` refused.
        LocalDiskError: the disk failed.
        OSError: the payload can't be read.
    """
    whole = {name: new_hasher(name) for name in description.digests}
    shards: list[Shard] = []
    with ExitStack() as stack:
        whole_thread, shard_thread, disk_thread = (
            stack.enter_context(ThreadPool(1, name))
            for name in ("shardcast-whole", "shardcast-shard", "shardcast-fsync")
        )
        ring = ChunkRing()
        syncing: deque[Future[None]] = deque()

        def wait_for_syncing(max_left: int) -> None:
            """Wait until all but ``max_left`` shards are durable."""
            while syncing and (syncing[0].done() or len(syncing) > max_left):
                syncing.popleft().result()

        opened.live.add(header_line(header))
        offset = 0
        while offset < size or not shards:
            number = len(shards) + 1
            # The first shard's digest is the whole digest so far: with one hash less it is announced sooner.
            single = new_hasher("sha256") if shards else whole["sha256"]
            hashing = shard_thread if shards else whole_thread
            pieces = PieceDigests(header.piece_size)
            length = 0
            with _part(opened, number) as part:
                while length < (target := min(description.shard_size, size - offset)):
                    if progress.cancelled:
                        raise Cancelled(f"{header.version} was called off")
                    chunk = ring.take()[: target - length]
                    wait_for_syncing(_MAX_SYNCING)
                    count = _fill(payload, chunk, offset + length, progress)
                    if not count:
                        size = offset + length  # a stream ended, or a file shrank, which the caller notices
                        break
                    chunk = chunk[:count]
                    reserve(offset + length + count)
                    work = [whole_thread.submit(_update, tuple(whole.values()), chunk)]
                    if shards:
                        work.append(shard_thread.submit(_update, (single,), chunk))
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
            opened.live.add(shard_line(shards[-1]))
            progress.shards = number
            offset += length
        ring.wait()
        wait_for_syncing(0)
    return shards, {name: hasher.hexdigest() for name, hasher in whole.items()}


def _fill(payload: BinaryIO, chunk: memoryview, position: int, progress: PublishProgress) -> int:
    """Read from ``position`` on until ``chunk`` is full, the payload ends, or publishing is cancelled.

    A payload ends at ``progress.size``: a pipe has no end of its own while any process has it open for
    writing, such as a child that its writer forked.

    Returns:
        The number of bytes read.
    """
    filled, poll = 0, select.poll()
    poll.register(payload, select.POLLIN)

    def over() -> bool:
        """Return whether to read no more: cancelled, or at the payload's known end."""
        return progress.cancelled or progress.size == position + filled

    while filled < len(chunk):
        while not over() and not poll.poll(_POLL_INTERVAL * 1000):
            pass  # poll, rather than a read that blocks, lets a paused writer's broadcast be cancelled
        count = 0 if over() else payload.readinto(chunk[filled:])  # type: ignore[attr-defined]
        if not count:
            break
        filled += count
    return filled


def at_end(payload: BinaryIO) -> bool:
    """Return whether one more read gives nothing; a file whose read would wait is not at its end."""
    poll = select.poll()
    poll.register(payload, select.POLLIN)
    return bool(poll.poll(0)) and not payload.read(1)


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
