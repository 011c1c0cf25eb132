"""Digests and manifests of stored shards, and buffers for hashers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future

from shardcast.digest import PieceDigests, new_hasher
from shardcast.disk_errors import disk_errors
from shardcast.protocol.manifest import Header, Manifest, Shard, build_manifest, piece_size_for
from shardcast.sharding.publication import Cancelled
from shardcast.store.interfaces import Span

CHUNK_SIZE = 1 << 20
"""Bytes read, hashed and written at a time."""
_CHUNKS = 16
"""Chunks in memory at once: read, hashed or written."""


class ChunkRing:
    """A bounded number of buffers, each reused after the end of the work on its bytes: fresh memory is slow.

    One thread takes buffers, fills them and hands them in together with the work on their bytes; at most
    ``_CHUNKS`` of ``CHUNK_SIZE`` bytes exist, so a fast reader waits for slow hashers.
    """

    def __init__(self) -> None:
        """Allocate nothing yet."""
        self._busy: deque[tuple[memoryview, list[Future[None]]]] = deque()
        self._allocated = 0
        self._current = memoryview(b"")

    def take(self) -> memoryview:
        """Return a free buffer; if all are in use, wait for the oldest work.

        Raises:
            Exception: any error of this work.
        """
        if self._allocated < _CHUNKS:
            self._allocated += 1
            self._current = memoryview(bytearray(CHUNK_SIZE))
        else:
            self._current, work = self._busy.popleft()
            for future in work:
                future.result()
        return self._current

    def put(self, work: list[Future[None]]) -> None:
        """Hand in the last taken buffer, to be reused after the end of ``work``."""
        self._busy.append((self._current, work))

    def wait(self) -> None:
        """Wait for all work.

        Raises:
            Exception: whatever the work raised.
        """
        for _, work in self._busy:
            for future in work:
                future.result()


class PayloadHasher:
    """The digests of a payload with stored shards, from its bytes in order.

    Attributes:
        shards: the finished shards, with their digests; empty without a piece size.
    """

    def __init__(self, digests: Iterable[str], piece_size: int | None = None) -> None:
        """Begin a payload.

        Args:
            digests: algorithms of the whole digest.
            piece_size: bytes of a piece, to compute each shard's own digests too, for a manifest of shards
                received from old nodes; None not to.
        """
        self.shards: list[Shard] = []
        self._whole = {name: new_hasher(name) for name in digests}
        self._piece_size = piece_size
        self._single = new_hasher("sha256")
        self._pieces = PieceDigests(piece_size or 1)
        self._length = 0

    def update(self, chunk: memoryview) -> None:
        """Hash the next bytes of a shard."""
        for hasher in self._whole.values():
            hasher.update(chunk)
        if self._piece_size:
            self._single.update(chunk)
            self._pieces.update(chunk)
        self._length += len(chunk)

    def end_shard(self) -> None:
        """End a shard; the next bytes are those of the next shard."""
        if self._piece_size:
            offset = self.shards[-1].end if self.shards else 0
            digests = self._single.hexdigest(), self._pieces.finish()
            self.shards.append(Shard(len(self.shards) + 1, offset, self._length, *digests))
            self._single = new_hasher("sha256")
        self._length = 0

    def digests(self) -> dict[str, str]:
        """Return the whole digests so far, in hex, by their algorithms."""
        return {name: hasher.hexdigest() for name, hasher in self._whole.items()}

    def manifest(self, version: str) -> Manifest:
        """Return the manifest of the hashed shards.

        For the same bytes all nodes write the same manifest, so every middle below an old origin makes the
        same one.
        """
        assert self._piece_size
        shard_size = self.shards[0].size or None
        header = Header(
            version,
            None,
            f"{version}.bin",
            size=self.shards[-1].end,
            shard_size=shard_size,
            piece_size=self._piece_size,
        )
        return build_manifest(header, self.shards, self.digests())


def hash_payload(
    version: str, spans: Iterable[Span], digests: Iterable[str], stop: Callable[[], bool]
) -> Manifest:
    """Read stored shards, and return their manifest; blocks on the disk.

    Args:
        version: the version's name.
        spans: the places of the shards, in order.
        digests: algorithms of the whole digest.
        stop: called after each chunk; returns whether to end.

    Raises:
        LocalDiskError: a shard cannot be read.
        Cancelled: ``stop()`` was true, or a file became shorter.
    """
    spans = list(spans)
    hasher = PayloadHasher(digests, piece_size_for(max(span.length for span in spans)))
    buffer = memoryview(bytearray(CHUNK_SIZE))
    for span in spans:
        with disk_errors("could not read", span.path), span.path.open("rb", buffering=0) as file:
            file.seek(span.offset)
            left = span.length
            while left:
                count = file.readinto(buffer[: min(left, CHUNK_SIZE)])
                if stop():
                    raise Cancelled(f"the survey of {version} was cancelled")
                if not count:
                    raise Cancelled(f"{span.path} became shorter while it was read")
                hasher.update(buffer[:count])
                left -= count
        hasher.end_shard()
    return hasher.manifest(version)
