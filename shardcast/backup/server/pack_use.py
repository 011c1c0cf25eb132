"""The share of each pack that snapshots need."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from shardcast.backup.server.chunk_table import NeededChunks, marks

MOSTLY_DEAD = 0.5
"""Minimum share of unneeded bytes for rewriting a pack."""


@dataclass(frozen=True)
class PackUse:
    """Needed bytes of a pack.

    Attributes:
        pack: the pack's number.
        client: the number of the client that the pack counts for.
        size: the pack's bytes.
        is_whole: whether the pack is not known to be damaged or lost.
        live: bytes of chunks needed by snapshots.
        chunks: number of these chunks.
    """

    pack: int
    client: int
    size: int
    is_whole: bool
    live: int
    chunks: int

    @property
    def is_mostly_dead(self) -> bool:
        """Whether the pack is whole, and needed chunks are some of its bytes, but less than half."""
        return self.is_whole and 0 < self.live < (1 - MOSTLY_DEAD) * self.size


def measure_packs(database: sqlite3.Connection, needed: NeededChunks, now: float) -> Iterator[PackUse]:
    """Yield the needed bytes of each pack of the clients of ``needed``, by number.

    Arriving and condemned packs are omitted, and packs sent by runs under way: the snapshots that need them
    are still to come.
    """
    rows = database.execute(
        "SELECT pack.number, pack.client, size, state = 'whole', chunk.number, offset, length FROM pack "
        "LEFT JOIN chunk ON chunk.pack = pack.number "
        f"WHERE pack.client IN ({marks(needed.clients)}) AND state IN ('whole', 'damaged', 'lost') "
        "AND (run IS NULL OR run NOT IN (SELECT number FROM run WHERE expires > ?)) ORDER BY pack.number",
        (*needed.clients, now),
    )
    for _, chunks in groupby(rows, itemgetter(0)):
        yield _use(list(chunks), needed)


def _use(rows: list[tuple[Any, ...]], needed: NeededChunks) -> PackUse:
    """Return the use of a pack from the rows of its chunks, of which several clients may share one."""
    pack, client, size, whole, *_ = rows[0]
    live = {offset: length for *_, chunk, offset, length in rows if chunk is not None and chunk in needed}
    return PackUse(pack, client, size, bool(whole), sum(live.values()), len(live))
