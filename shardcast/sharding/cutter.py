"""A payload ─▶ shards: read, cut, hashed, stored and told of, in one pass."""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

from shardcast.concurrency import Threads
from shardcast.digest import Hasher, PieceDigests, new_hasher
from shardcast.disk_errors import disk_errors, is_full
from shardcast.protocol.manifest import Header, Shard, header_line, shard_line
from shardcast.sharding.chunks import Ring
from shardcast.sharding.publication import Cancelled, PayloadDescription, PublishProgress, ReserveBytes
from shardcast.store.open_version import OpenVersion
from shardcast.temporary_files import create_private

_MOST_SETTLING = 4
"""Shards that become durable while the next one is cut."""
_PATIENCE = 0.2
"""Seconds that a writer may pause between two looks at whether it was called off."""


def cut(
    payload: BinaryIO,
    size: int,
    opened: OpenVersion,
    header: Header,
    description: PayloadDescription,
    progress: PublishProgress,
    claim: ReserveBytes,
) -> tuple[list[Shard], dict[str, str]]:
    """Three things happen at once: this thread reads, writes and hashes pieces, one hashes the whole,
    one hashes shards; and one more makes finished shards durable."""
    whole = {name: new_hasher(name) for name in description.digests}
    shards: list[Shard] = []
    with ExitStack() as stack:
        whole_thread, shard_thread, disk_thread = (
            stack.enter_context(Threads(1, name))
            for name in ("shardcast-whole", "shardcast-shard", "shardcast-fsync")
        )
        ring = Ring()
        settling: deque[Future[None]] = deque()

        def settled(most: int) -> None:
            """Wait until all but ``most`` shards are durable."""
            while settling and (settling[0].done() or len(settling) > most):
                settling.popleft().result()

        opened.live.add(header_line(header))
        offset = 0
        while offset < size or not shards:
            number = len(shards) + 1
            # The first shard's digest is the whole one's so far: so it is cut, and on its way, the sooner.
            single = new_hasher("sha256") if shards else whole["sha256"]
            hashing = shard_thread if shards else whole_thread
            pieces = PieceDigests(header.piece_size)
            length = 0
            with _part(opened, number) as part:
                while length < (target := min(description.shard_size, size - offset)):
                    if progress.cancelled:
                        raise Cancelled(f"{header.version} was called off")
                    chunk = ring.take()[: target - length]
                    settled(_MOST_SETTLING)
                    count = _fill(payload, chunk, offset + length, progress)
                    if not count:
                        size = offset + length  # a stream ends, a file shrank; the caller sees that
                        break
                    chunk = chunk[:count]
                    claim(offset + length + count)
                    work = [whole_thread.submit(_update, tuple(whole.values()), chunk)]
                    if shards:
                        work.append(shard_thread.submit(_update, (single,), chunk))
                    ring.put(work)
                    pieces.update(chunk)
                    if part:
                        _write_all(part, chunk, opened)
                    length += count
                    progress.done = offset + length
            if shards and not length:  # it ended where a shard does
                break
            sha256 = hashing.submit(single.hexdigest).result()
            shards.append(Shard(number, offset, length, sha256, pieces.finish()))
            if not opened.adopted.present:
                opened.files.publish_shard(number, sha256)
                settling.append(disk_thread.submit(opened.files.fsync_shard, number, sha256))
            opened.live.add(shard_line(shards[-1]))
            progress.shards = number
            offset += length
        ring.wait()
        settled(0)
    return shards, {name: hasher.hexdigest() for name, hasher in whole.items()}


def _fill(payload: BinaryIO, chunk: memoryview, position: int, progress: PublishProgress) -> int:
    """Read from ``position`` on until ``chunk`` is full, the payload ends, or it is called off; how many
    bytes came.

    The end is where ``progress.size`` says. A pipe has none while anybody has it open for writing, such as a
    process that its writer forked.
    """
    filled, poll = 0, select.poll()
    poll.register(payload, select.POLLIN)

    def over() -> bool:
        return progress.cancelled or progress.size == position + filled

    while filled < len(chunk):
        while not over() and not poll.poll(_PATIENCE * 1000):
            pass  # a writer that pauses keeps nobody from calling it off
        count = 0 if over() else payload.readinto(chunk[filled:])  # type: ignore[attr-defined]
        if not count:
            break
        filled += count
    return filled


def at_end(payload: BinaryIO) -> bool:
    """Return whether one more read gives nothing. A file whose read would wait for more is not at its end."""
    poll = select.poll()
    poll.register(payload, select.POLLIN)
    return bool(poll.poll(0)) and not payload.read(1)


@contextmanager
def _part(opened: OpenVersion, number: int) -> Iterator[BinaryIO | None]:
    """Where a shard is written; None where it is a part of an adopted payload."""
    if opened.adopted.present:
        yield None
        return
    file = opened.files.part(number)
    with disk_errors("could not write", file):
        file.unlink(missing_ok=True)
        with os.fdopen(create_private(file), "wb", 0) as part:
            yield part


def _update(hashers: Iterable[Hasher], chunk: memoryview) -> None:
    for hasher in hashers:
        hasher.update(chunk)


def _write_all(file: BinaryIO, chunk: memoryview, opened: OpenVersion) -> None:
    while chunk:
        try:
            chunk = chunk[file.write(chunk) :]
        except OSError as error:
            if not is_full(error) or not opened.make_room(len(chunk), error):
                raise
