"""The share of each pack that the client's snapshots need."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from shardcast.backup.server.chunk_sets import ChunkSet
from shardcast.backup.server.chunk_table import needed_set, place_of

MOSTLY_DEAD = 0.5
"""Minimum share of unneeded bytes for rewriting a pack."""


@dataclass(frozen=True)
class PackUse:
    """Needed bytes of a pack.

    Attributes:
        pack: the pack's number.
        size: the pack's bytes.
        is_whole: whether the pack is not known to be damaged.
        live: bytes of chunks needed by snapshots.
    """

    pack: int
    size: int
    is_whole: bool
    live: int

    @property
    def is_mostly_dead(self) -> bool:
        """Whether copying the needed chunks elsewhere is worth the work."""
        return self.is_whole and 0 < self.live < (1 - MOSTLY_DEAD) * self.size


def measure_packs(database: sqlite3.Connection, client: int, now: float) -> tuple[list[PackUse], ChunkSet]:
    """Return the needed bytes of each pack of a client, and the chunks needed by the client's snapshots.

    Packs sent by runs under way are omitted: the snapshots that need them are still to come.
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
