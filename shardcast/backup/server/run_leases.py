"""The lease of a run, renewed for as long as a request of the run is being answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shardcast.backup.server.backup_store import BackupStore
from shardcast.backup.server.refusals import BackupRefused
from shardcast.backup.server.runs import LEASE_SECONDS, ActiveRun, find_run, renew_run
from shardcast.concurrency import background_task
from shardcast.errors import LocalDiskError


@asynccontextmanager
async def held_run(store: BackupStore, client: int, name: str) -> AsyncIterator[ActiveRun]:
    """Yield a run of a client; the run's lease is renewed inside the block.

    Raises:
        BackupRefused: the run has ended, or belongs to another client.
    """
    run = await store.database.read(find_run, client, name, store.clock())
    if run.needs_renewal(store.clock()):
        await store.database.write(renew_run, run, store.clock())
    async with background_task(_keep_renewing(store, run)):
        yield run


async def _keep_renewing(store: BackupStore, run: ActiveRun) -> None:
    """Renew the lease until the run ends."""
    while True:
        await asyncio.sleep(LEASE_SECONDS / 3)
        try:
            await store.database.write(renew_run, run, store.clock())
        except LocalDiskError:
            continue  # the request itself meets the same disk, and tells
        except BackupRefused:
            return
