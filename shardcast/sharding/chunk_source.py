"""The bytes of a payload and the ends of its shards, from files and streams."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterable, Mapping
from typing import BinaryIO, Protocol

from shardcast.protocol.manifest import Shard
from shardcast.sharding.publication import PublishProgress

_POLL_INTERVAL = 0.2
"""Maximum delay of a cancellation by a paused writer, in seconds."""


class ChunkSource(Protocol):
    """A payload to be read once, in order, by one thread."""

    def shard_size(self, offset: int) -> int:
        """Return the maximum bytes of the shard beginning at ``offset``; 0 at the payload's end.

        Called once for each shard, in order.
        """

    def fill(self, chunk: memoryview, position: int) -> int:
        """Read from ``position`` on until ``chunk`` is full, the payload ends, or publishing is cancelled.

        Returns:
            The number of bytes read.
        """

    def known_shard(self, number: int) -> Shard | None:
        """Return a shard whose bytes are known to be those of an earlier version; None for others."""

    def known_digests(self) -> Mapping[str, str] | None:
        """Return the digests of a wholly known payload; None for others."""

    def hashing(self, chunk: memoryview) -> Callable[[], None] | None:
        """Return more work on the last filled chunk, for a separate thread; None for none."""

    def first_lines(self) -> Iterable[bytes]:
        """Return the lines of the manifest between the header and the first shard."""

    def lines_behind(self, number: int) -> Iterable[bytes]:
        """Return the manifest lines after that of a shard; in the thread of ``hashing``, after its work."""


class ByteSource:
    """A file or a stream, cut into shards of one size."""

    def __init__(self, payload: BinaryIO, size: int, shard_size: int, progress: PublishProgress) -> None:
        """Read nothing yet.

        Args:
            payload: the payload, unbuffered.
            size: maximum bytes to read.
            shard_size: bytes of a shard.
            progress: its ``cancelled`` and ``size`` are read.
        """
        self._payload = payload
        self._size = size
        self._shard_size = shard_size
        self._progress = progress

    def shard_size(self, offset: int) -> int:
        """Return the bytes of a whole shard, or the rest."""
        return min(self._shard_size, self._size - offset)

    def fill(self, chunk: memoryview, position: int) -> int:
        """Read the next bytes.

        A payload ends at ``progress.size``: a pipe does not end while any process has the pipe open for
        writing, for example a child forked by the writer.
        """
        filled, poll = 0, select.poll()
        poll.register(self._payload, select.POLLIN)

        def over() -> bool:
            """Return whether to read no more: cancelled, or at the payload's known end."""
            return self._progress.cancelled or self._progress.size == position + filled

        while filled < len(chunk):
            while not over() and not poll.poll(_POLL_INTERVAL * 1000):
                pass  # poll, rather than a read that blocks, lets a paused writer's broadcast be cancelled
            count = 0 if over() else self._payload.readinto(chunk[filled:])  # type: ignore[attr-defined]
            if not count:
                break
            filled += count
        return filled

    def known_shard(self, number: int) -> None:
        """Return None: files and streams are read."""

    def known_digests(self) -> None:
        """Return None: the digests are computed."""

    def hashing(self, chunk: memoryview) -> None:
        """Return None: no more digests are needed than those of the shards and the whole."""

    def first_lines(self) -> Iterable[bytes]:
        """Return no line."""
        return ()

    def lines_behind(self, number: int) -> Iterable[bytes]:
        """Return no line."""
        return ()


def at_end(payload: BinaryIO) -> bool:
    """Return whether one more read gives nothing, and take a byte if there is one; False if it would wait."""
    poll = select.poll()
    poll.register(payload, select.POLLIN)
    return bool(poll.poll(0)) and not payload.read(1)
