"""Shards that are here already ─▶ their digests, and the manifest of those that old nodes gave."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from shardcast.digest import PieceDigests, new_hasher
from shardcast.disk_errors import disk_errors
from shardcast.protocol.manifest import Header, Manifest, Shard, complete, piece_size_for
from shardcast.sharding.chunks import CHUNK_SIZE
from shardcast.sharding.publication import Cancelled
from shardcast.store.interfaces import Span


class PayloadHasher:
    """The digests of shards that are here already, as their bytes are read in order.

    ``digests`` are the algorithms of the whole digest. Where ``piece_size`` is given, each shard's own
    digests are computed too, so that a manifest can be made of what old nodes gave.
    """

    def __init__(self, digests: Iterable[str], piece_size: int | None = None) -> None:
        self._whole = {name: new_hasher(name) for name in digests}
        self._piece_size = piece_size
        self._single = new_hasher("sha256")
        self._pieces = PieceDigests(piece_size or 1)
        self._length = 0
        self.shards: list[Shard] = []

    def update(self, chunk: memoryview) -> None:
        """Take the next bytes of a shard."""
        for hasher in self._whole.values():
            hasher.update(chunk)
        if self._piece_size:
            self._single.update(chunk)
            self._pieces.update(chunk)
        self._length += len(chunk)

    def end_shard(self) -> None:
        """The shard ends here."""
        if self._piece_size:
            offset = self.shards[-1].end if self.shards else 0
            digests = self._single.hexdigest(), self._pieces.finish()
            self.shards.append(Shard(len(self.shards) + 1, offset, self._length, *digests))
            self._single = new_hasher("sha256")
        self._length = 0

    def digests(self) -> dict[str, str]:
        """The whole digests so far."""
        return {name: hasher.hexdigest() for name, hasher in self._whole.items()}

    def manifest(self, version: str) -> Manifest:
        """A manifest of what was read. It says nothing that two nodes could say differently of the same
        bytes, so that every middle below an old origin makes the same one."""
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
        return complete(header, self.shards, self.digests())


def survey(version: str, spans: Iterable[Span], digests: Iterable[str], stop: Callable[[], bool]) -> Manifest:
    """Read shards that are here and make their manifest; blocks on the disk.

    Raises:
        LocalDiskError: one can't be read.
        Cancelled: ``stop()`` said so.
    """
    spans = list(spans)
    work = PayloadHasher(digests, piece_size_for(max(span.length for span in spans)))
    buffer = memoryview(bytearray(CHUNK_SIZE))
    for span in spans:
        with disk_errors("could not read", span.path), span.path.open("rb", buffering=0) as file:
            file.seek(span.offset)
            left = span.length
            while left:
                count = file.readinto(buffer[: min(left, CHUNK_SIZE)])
                if not count or stop():
                    raise Cancelled(f"the survey of {version} was called off")
                work.update(buffer[:count])
                left -= count
        work.end_shard()
    return work.manifest(version)
