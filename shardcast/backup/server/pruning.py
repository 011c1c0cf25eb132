"""Pruning: condemn packs that no snapshot needs, rewrite packs with few needed chunks, and sweep.

Needed chunks come from the snapshots' lists. Packs without any go first: their deletion takes no space.
Needed chunks of other packs are copied only while the disk has space.
"""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import asdict, dataclass, field
from typing import Any

from shardcast.backup.server.accounts import client_groups
from shardcast.backup.server.backup_store import BackupStore
from shardcast.backup.server.chunk_table import NeededChunks
from shardcast.backup.server.pack_use import PackUse, measure_packs
from shardcast.backup.server.rewriting import Rewritten, rewrite_packs
from shardcast.backup.server.runs import next_run, oldest_run
from shardcast.backup.server.sweeping import GRACE_SECONDS, Swept, sweep
from shardcast.disk_errors import is_full
from shardcast.errors import LocalDiskError


@dataclass
class PruneReport:
    """Report of a prune.

    Attributes:
        dry_run: whether the report is only a plan.
        deleted: packs deleted.
        condemned: packs to be deleted after the grace time, and after the backups under way.
        rewritten: packs whose needed chunks were copied into new ones.
        no_room: whether packs were not rewritten for lack of disk space.
        waits_for_run: whether a backup under way delays the deletion of condemned packs.
        kept_bytes: bytes of the remaining packs.
    """

    dry_run: bool
    deleted: Swept = field(default_factory=Swept)
    condemned: Swept = field(default_factory=Swept)
    rewritten: Rewritten = field(default_factory=Rewritten)
    no_room: bool = False
    waits_for_run: bool = False
    kept_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON."""
        return asdict(self)


async def prune(store: BackupStore, grace: float = GRACE_SECONDS, *, dry_run: bool = False) -> PruneReport:
    """Delete chunks that no snapshot needs; the caller holds the lock of the one prune at a time.

    Args:
        store: the store.
        grace: seconds from a pack's condemnation to its deletion.
        dry_run: only plan.

    Raises:
        LocalDiskError: the disk failed; finished steps are not undone.
        IntegrityError: a snapshot's list is damaged; no further pack is deleted, neither of that client and
            those it shares with nor of the clients after them.
    """
    report = PruneReport(dry_run)
    if not dry_run:
        report.deleted += await _with_spare(store, grace)
    for clients in await store.database.read(client_groups):
        needed, uses = await store.database.read(_measure, clients, store.clock())
        dead = [use for use in uses if not use.live]
        mostly = [use for use in uses if use.is_mostly_dead]
        report.condemned += Swept(len(dead), sum(use.size for use in dead))
        if dry_run:
            report.rewritten += Rewritten(len(mostly), sum(use.size - use.live for use in mostly))
            continue
        await store.database.write(condemn, [use.pack for use in dead], store.clock())
        report.deleted += await sweep(store, grace)  # what goes at once makes room for the rewriting
        done = await rewrite_packs(store, mostly, needed)
        report.rewritten += done
        report.no_room = report.no_room or done.packs < len(mostly)
    if not dry_run:
        report.deleted += await sweep(store, grace)
        await asyncio.to_thread(store.spare.keep)
    report.condemned, report.waits_for_run, report.kept_bytes = await store.database.read(
        _left, store.clock(), report.condemned if dry_run else Swept()
    )
    return report


async def _with_spare(store: BackupStore, grace: float) -> Swept:
    """Sweep, also packs of a killed prune; if the disk is full, release the spare blocks and sweep again."""
    try:
        return await sweep(store, grace, prune_is_dead=True)
    except LocalDiskError as error:
        if not is_full(error) or not await asyncio.to_thread(store.spare.give):
            raise
        return await sweep(store, grace, prune_is_dead=True)


def condemn(database: sqlite3.Connection, packs: list[int], now: float) -> None:
    """Mark packs as condemned now: later runs miss their chunks, and ``sweep`` deletes the packs."""
    run = next_run(database)
    database.executemany(
        "UPDATE pack SET state = 'condemned', condemned_at = ?, condemned_run = ? "
        "WHERE number = ? AND state IN ('whole', 'damaged', 'lost')",
        ((now, run, pack) for pack in packs),
    )


def _measure(
    database: sqlite3.Connection, clients: list[int], now: float
) -> tuple[NeededChunks, list[PackUse]]:
    """Return the chunks needed by the snapshots of some clients, and the use of these clients' packs."""
    needed = NeededChunks(database, clients)
    return needed, list(measure_packs(database, needed, now))


def _left(database: sqlite3.Connection, now: float, planned: Swept) -> tuple[Swept, bool, int]:
    """Return the condemned packs, whether a run delays their deletion, and the bytes of the other packs.

    ``planned`` are the packs to condemn in a dry run.
    """
    count, size = database.execute(
        "SELECT count(*), coalesce(sum(size), 0) FROM pack WHERE state = 'condemned'"
    ).fetchone()
    oldest = oldest_run(database, now)
    kept_back = oldest is not None and (
        database.execute(
            "SELECT 1 FROM pack WHERE state = 'condemned' AND condemned_run > ? LIMIT 1", (oldest,)
        ).fetchone()
        is not None
    )
    (kept,) = database.execute(
        "SELECT coalesce(sum(size), 0) FROM pack WHERE state IN ('whole', 'damaged')"
    ).fetchone()
    return Swept(count, size) + planned, kept_back, int(kept) - planned.bytes
