"""Where each chunk of a client lies, by client and id: a client learns nothing of others.

A chunk lies in a pack of the client, or in a pack of another client with which it is shared (``sharing.py``).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from shardcast.backup.packs import PackedChunk
from shardcast.backup.server.chunk_sets import ChunkSet
from shardcast.backup.wire import NOWHERE, ChunkLocation

_BATCH = 500
"""Ids in one statement."""
_SHIFT = 40
"""Bits of a chunk's number within the client's chunks; the higher bits are the client's number."""
_MASK = (1 << _SHIFT) - 1
THERE = "state = 'whole'"
"""The condition on a pack under which its chunks are available."""


class FoundChunk(NamedTuple):
    """An available chunk of a client.

    Attributes:
        id: the chunk's id.
        number: the chunk's number within the client's chunks.
    """

    id: bytes
    number: int


def find_there(database: sqlite3.Connection, client: int, ids: Sequence[bytes]) -> set[bytes]:
    """Return those of the ids whose chunks the client has in whole packs; condemned packs do not count."""
    rows = _select(database, "id", f"AND {THERE}", client, ids)
    return {row[0] for row in rows}


def find_numbers(
    database: sqlite3.Connection, client: int, run: int, ids: Sequence[bytes]
) -> list[FoundChunk]:
    """Return those of the chunks available to a run: in whole packs, or packs condemned after its begin."""
    rows = _select(
        database,
        "id, chunk.number",
        f"AND ({THERE} OR state = 'condemned' AND condemned_run > ?)",
        client,
        ids,
        run,
    )
    return [FoundChunk(row[0], row[1] & _MASK) for row in rows]


def numbers_of(database: sqlite3.Connection, client: int, ids: Sequence[bytes]) -> list[int]:
    """Return the numbers of chunks, wherever they lie; unknown ids have none."""
    return [row[0] & _MASK for row in _select(database, "chunk.number", "", client, ids)]


def locate(database: sqlite3.Connection, client: int, ids: Sequence[bytes]) -> list[ChunkLocation]:
    """Return where each of the chunks lies, in the order of the ids; ``NOWHERE`` for an unknown or lost one.

    Chunks in damaged packs are located, too: a reader verifies each chunk by its id.
    """
    rows = _select(database, "id, digest, offset, length", "AND state <> 'lost'", client, ids)
    found = {row[0]: ChunkLocation(*row[1:]) for row in rows}
    return [found.get(chunk, NOWHERE) for chunk in ids]


def add_chunks(database: sqlite3.Connection, client: int, pack: int, chunks: Sequence[PackedChunk]) -> int:
    """Record the chunks of a whole pack, and return the number of chunks that were not available before.

    An available chunk stays in its pack; a chunk of a damaged, lost or condemned pack moves here, and keeps
    its number.
    """
    (first,) = database.execute("SELECT next_chunk FROM client WHERE number = ?", (client,)).fetchone()
    added = database.executemany(
        "INSERT INTO chunk (number, client, id, pack, offset, length) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (client, id) DO UPDATE SET pack = excluded.pack, offset = excluded.offset, "
        "length = excluded.length WHERE (SELECT state FROM pack WHERE number = chunk.pack) <> 'whole'",
        (
            (number_of(client, first + place), client, chunk.id, pack, chunk.offset, chunk.length)
            for place, chunk in enumerate(chunks)
        ),
    )
    database.execute("UPDATE client SET next_chunk = ? WHERE number = ?", (first + len(chunks), client))
    return added.rowcount


def number_of(client: int, place: int) -> int:
    """Return the number of a chunk in the database, from its number within the client's chunks."""
    return client << _SHIFT | place


def place_of(number: int) -> int:
    """Return the number of a chunk within the client's chunks, from its number in the database."""
    return number & _MASK


def bad_chunks(database: sqlite3.Connection, client: int) -> Iterator[FoundChunk]:
    """Yield a client's chunks in damaged and lost packs."""
    rows = database.execute(
        "SELECT id, chunk.number FROM pack JOIN chunk ON chunk.pack = pack.number "
        "WHERE chunk.client = ? AND state IN ('damaged', 'lost')",
        (client,),
    )
    for chunk, number in rows:
        yield FoundChunk(chunk, number & _MASK)


class NeededChunks:
    """The chunks needed by the snapshots of some clients.

    Attributes:
        clients: numbers of the clients.
    """

    def __init__(self, database: sqlite3.Connection, clients: Sequence[int]) -> None:
        """Read the lists of all snapshots of the clients.

        Raises:
            IntegrityError: a list is damaged.
        """
        self.clients = clients
        self._sets = {client: ChunkSet() for client in clients}
        self._newest = 0
        self.read_newer(database)

    def read_newer(self, database: sqlite3.Connection) -> None:
        """Add the chunks needed by snapshots that arrived since the last reading.

        Raises:
            IntegrityError: a list is damaged.
        """
        rows = database.execute(
            "SELECT number, id, client, needs FROM snapshot "
            f"WHERE client IN ({marks(self.clients)}) AND number > ? ORDER BY number",
            (*self.clients, self._newest),
        )
        for number, snapshot, client, data in rows:
            self._sets[client].unite(ChunkSet.decode(data, snapshot))
            self._newest = number

    def __contains__(self, number: int) -> bool:
        """Return whether a chunk is needed, by its number in the database; other clients' chunks are."""
        needed = self._sets.get(number >> _SHIFT)
        return needed is None or place_of(number) in needed


def marks(values: Sequence[Any]) -> str:
    """Return the question marks of a list of values in a statement."""
    return ",".join("?" * len(values))


def _select(
    database: sqlite3.Connection,
    columns: str,
    condition: str,
    client: int,
    ids: Sequence[bytes],
    *values: Any,
) -> Iterator[tuple[Any, ...]]:
    """Yield columns of the chunks with these ids, in no order."""
    for batch in batches(ids):
        yield from database.execute(
            f"SELECT {columns} FROM chunk JOIN pack ON pack.number = chunk.pack "
            f"WHERE chunk.client = ? AND id IN ({marks(batch)}) {condition}",
            (client, *batch, *values),
        )


def batches(ids: Sequence[bytes]) -> Iterable[Sequence[bytes]]:
    """Yield ids in batches of one statement."""
    return (ids[start : start + _BATCH] for start in range(0, len(ids), _BATCH))
