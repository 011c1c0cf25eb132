"""How much of each pack the snapshots of its client need."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from shardcast.backup.server.chunk_sets import ChunkSet
from shardcast.backup.server.chunk_table import needed_set, place_of

MOSTLY_DEAD = 0.5
"""Share of a pack's bytes that must be dead for it to be rewritten."""


@dataclass(frozen=True)
class PackUse:
    """How much of a pack snapshots need.

    Attributes:
        pack: its number.
        size: its bytes.
        is_whole: whether its bytes are right, as far as is known.
        live: bytes of its chunks that snapshots need.
    """

    pack: int
    size: int
    is_whole: bool
    live: int

    @property
    def is_mostly_dead(self) -> bool:
        """Whether its live chunks are worth being copied elsewhere."""
        return self.is_whole and 0 < self.live < (1 - MOSTLY_DEAD) * self.size


def measure_packs(database: sqlite3.Connection, client: int, now: float) -> tuple[list[PackUse], ChunkSet]:
    """Return how much of each pack of a client its snapshots need, and the chunks that they need.

    Packs of runs that are under way are left out: their snapshots come yet.
    """
    needed, _ = needed_set(database, client)
    live = dict[int, int]()
    rows = database.execute("SELECT number, pack, length FROM chunk WHERE client = ?", (client,))
    for number, pack, length in rows:
        if place_of(number) in needed:
            live[pack] = live.get(pack, 0) + length
    packs = database.execute(
        "SELECT number, size, state = 'whole' FROM pack "
        "WHERE client = ? AND state IN ('whole', 'damaged', 'lost') "
        "AND (run IS NULL OR run NOT IN (SELECT number FROM run WHERE expires > ?)) ORDER BY number",
        (client, now),
    )
    return [PackUse(pack, size, bool(whole), live.get(pack, 0)) for pack, size, whole in packs], needed
