"""Chunks read from a backup server, several of a pack in one range, each verified by id."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from shardcast.backup.encoding import decode_chunk
from shardcast.backup.ids import MAX_ENCODED, ChunkKind, chunk_id
from shardcast.backup.packs import MAX_PACK
from shardcast.backup.wire import MAX_IDS, NO_PACK, ChunkLocation
from shardcast.errors import IntegrityError, ServerBusy, ServerLacks

RANGE_BYTES = 4 << 20
"""Bytes of a pack read at once; a single chunk may have more."""
_GAP = 64 << 10
"""Maximum bytes between two chunks of one range; reading these bytes is cheaper than a second request."""
_CACHE_BYTES = 64 << 20
"""Bytes of listings kept in memory."""
_AHEAD_BYTES = 4 << 20
"""Encoded bytes of listings read ahead."""


class ChunkServer(Protocol):
    """Requests for chunks."""

    url: str

    def abort(self) -> None:
        """Cut off the requests of all threads."""

    def locate(self, ids: Sequence[bytes]) -> Sequence[ChunkLocation]:
        """Return where chunks lie."""

    def read_range(self, pack: bytes, offset: int, length: int) -> bytes:
        """Return bytes of a pack.

        Raises:
            ServerLacks: the pack is not there, or not any more.
        """


@dataclass(frozen=True, slots=True)
class PackRange:
    """A part of a pack with wanted chunks.

    Attributes:
        pack: SHA-256 of the pack.
        offset: of the part.
        length: bytes of the part.
        chunks: the id and the location in the pack of each wanted chunk.
    """

    pack: bytes
    offset: int
    length: int
    chunks: Sequence[tuple[bytes, ChunkLocation]]


class ChunkReader:
    """Reads chunks of one client; for any number of threads.

    Attributes:
        url: of the server.
        id_key: the key of the client's ids.
    """

    def __init__(self, server: ChunkServer, id_key: bytes) -> None:
        """Read from a server; ``id_key`` is the key of the client's ids."""
        self._server = server
        self.url = server.url
        self.id_key = id_key
        self._lock = threading.Lock()
        self._cache: OrderedDict[bytes, bytes] = OrderedDict()
        self._cached_bytes = 0

    def abort(self) -> None:
        """Cut off the requests of all threads: nothing more is read."""
        self._server.abort()

    # Data: in the order of the packs, for few requests with many chunks each

    def plan(self, ids: Iterable[bytes]) -> tuple[list[PackRange], list[bytes]]:
        """Return the ranges with the wanted chunks, and the ids missing at the server.

        Raises:
            IntegrityError: the server names an impossible location.
            ShardcastError: the server does not answer.
        """
        wanted = list(dict.fromkeys(ids))
        found: list[tuple[bytes, ChunkLocation]] = []
        for start in range(0, len(wanted), MAX_IDS):
            batch = wanted[start : start + MAX_IDS]
            found.extend(zip(batch, self._server.locate(batch), strict=True))
        missing = [chunk for chunk, place in found if place.pack == NO_PACK]
        present = [self._checked(chunk, place) for chunk, place in found if place.pack != NO_PACK]
        return list(join_ranges(present)), missing

    def _checked(self, chunk: bytes, place: ChunkLocation) -> tuple[bytes, ChunkLocation]:
        """Return a chunk and its location after checking the location's bounds.

        Raises:
            IntegrityError: no chunk can lie there.
        """
        if not 1 <= place.length <= MAX_ENCODED or place.offset + place.length > MAX_PACK:
            raise IntegrityError(
                f"{self.url}: the server names an impossible place for chunk {chunk.hex()[:16]}: "
                f"{place.length} bytes at {place.offset} of a pack"
            )
        return chunk, place

    def fetch(self, kind: ChunkKind, part: PackRange) -> Iterator[tuple[bytes, bytes | IntegrityError]]:
        """Yield the id and the plain bytes of each wanted chunk of a range; an error for a damaged chunk.

        Raises:
            ServerLacks: the pack was deleted; ``plan`` returns the new locations.
            UsageError: a chunk is compressed, and the package zstandard is not installed.
            ShardcastError: the server does not answer.
        """
        data = memoryview(self._server.read_range(part.pack, part.offset, part.length))
        for chunk, place in part.chunks:
            start = place.offset - part.offset
            yield chunk, self._verified(kind, chunk, data[start : start + place.length], part.pack)

    def fetch_moved(self, kind: ChunkKind, part: PackRange) -> Iterator[tuple[bytes, bytes | IntegrityError]]:
        """Yield as ``fetch`` does; if the pack was deleted, look up the chunks once more and read them there.

        A prune may move chunks to another pack during a restore. A pack named by the server and still missing
        counts as damage.

        Raises:
            ShardcastError: the server does not answer.
        """
        try:
            yield from self.fetch(kind, part)
            return
        except ServerBusy:
            raise
        except ServerLacks:
            parts, missing = self.plan(chunk for chunk, _ in part.chunks)
        for chunk in missing:
            yield chunk, self._gone(chunk)
        for moved in parts:
            try:
                yield from self.fetch(kind, moved)
            except ServerBusy:
                raise
            except ServerLacks:
                yield from ((chunk, self._gone(chunk)) for chunk, _ in moved.chunks)

    def _gone(self, chunk: bytes) -> IntegrityError:
        return IntegrityError(f"{self.url}: chunk {chunk.hex()[:16]} is not there any more")

    def _verified(
        self, kind: ChunkKind, chunk: bytes, encoded: memoryview, pack: bytes
    ) -> bytes | IntegrityError:
        """Return the plain bytes of a chunk, or the error of a damaged one."""
        try:
            plain = decode_chunk(encoded)
        except IntegrityError as error:
            return IntegrityError(f"{self.url}: pack {pack.hex()[:16]}: {error}")
        if chunk_id(self.id_key, kind, plain) != chunk:
            return IntegrityError(
                f"{self.url}: pack {pack.hex()[:16]} has other bytes for chunk {chunk.hex()[:16]}"
            )
        return plain

    # Listings: small, and read again and again

    def read(self, kind: ChunkKind, chunk: bytes) -> bytes:
        """Return the plain bytes of a chunk; they stay in memory for the next call.

        Raises:
            IntegrityError: the chunk is damaged or lost.
            ShardcastError: the server does not answer.
        """
        kept = self._kept(chunk)
        if kept is not None:
            return kept
        parts, missing = self.plan([chunk])
        if missing:
            raise IntegrityError(
                f"{self.url}: chunk {chunk.hex()[:16]} of this snapshot is missing at the server; "
                "`shardcast backup check` lists the hurt snapshots; the next backup sends missing bytes"
            )
        for part in parts:
            for _, plain in self.fetch_moved(kind, part):
                if isinstance(plain, IntegrityError):
                    raise plain
                self._keep(chunk, plain)
                return plain
        raise AssertionError("a chunk that is there lies in a range")

    def read_ahead(self, kind: ChunkKind, chunks: Iterable[bytes]) -> None:
        """Read chunks needed soon, up to a few megabytes; damage is raised later by ``read``.

        Raises:
            ShardcastError: the server does not answer.
        """
        wanted = [chunk for chunk in chunks if self._kept(chunk) is None]
        if len(wanted) < 2:
            return
        parts, _ = self.plan(wanted)
        room = _AHEAD_BYTES
        for part in parts:
            room -= part.length
            if room < 0:
                return
            for chunk, plain in self.fetch_moved(kind, part):
                if isinstance(plain, bytes):
                    self._keep(chunk, plain)

    def _kept(self, chunk: bytes) -> bytes | None:
        with self._lock:
            if chunk in self._cache:
                self._cache.move_to_end(chunk)
            return self._cache.get(chunk)

    def _keep(self, chunk: bytes, plain: bytes) -> None:
        with self._lock:
            if chunk not in self._cache:
                self._cache[chunk] = plain
                self._cached_bytes += len(plain)
            while self._cached_bytes > _CACHE_BYTES and len(self._cache) > 1:
                self._cached_bytes -= len(self._cache.popitem(last=False)[1])


def join_ranges(
    chunks: Iterable[tuple[bytes, ChunkLocation]], *, most: int = RANGE_BYTES, gap: int = _GAP
) -> Iterator[PackRange]:
    """Yield ranges of packs that cover all chunks; neighbours share a range.

    Args:
        chunks: each with its location.
        most: maximum bytes of a range with several chunks.
        gap: maximum bytes between two chunks of a range.
    """
    pack, start, end = NO_PACK, 0, 0
    inside: list[tuple[bytes, ChunkLocation]] = []
    for chunk, place in sorted(chunks, key=lambda pair: pair[1]):
        after = place.offset + place.length
        if inside and place.pack == pack and place.offset - end <= gap and max(end, after) - start <= most:
            inside.append((chunk, place))
            end = max(end, after)
            continue
        if inside:
            yield PackRange(pack, start, end - start, inside)
        pack, start, end, inside = place.pack, place.offset, after, [(chunk, place)]
    if inside:
        yield PackRange(pack, start, end - start, inside)
