"""The backup server as a node: store, routes, start and end."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from shardcast.access.server_access import ServerAccess
from shardcast.backup.encoding import check_decoder
from shardcast.backup.server.backup_store import BackupStore
from shardcast.backup.server.routes.accounts import add_account_routes
from shardcast.backup.server.routes.answers import json_refusal
from shardcast.backup.server.routes.chunks import add_chunk_routes
from shardcast.backup.server.routes.runs import add_run_routes
from shardcast.backup.server.routes.snapshots import add_snapshot_routes
from shardcast.backup.server.state import BackupRules, BackupServerState
from shardcast.backup.server.store_folder import ROLE, StoreFolder
from shardcast.backup.server.sweeping import sweep
from shardcast.concurrency import background_task, in_thread
from shardcast.errors import IntegrityError, LocalDiskError
from shardcast.server.application import application, serve
from shardcast.server.binding import EVERY_ADDRESS
from shardcast.server.bounds import Bounds
from shardcast.server.guard import REFUSAL_ANSWER
from shardcast.server.routes.health import add_health_routes
from shardcast.store.directory_lock import DirectoryLock

log = logging.getLogger(__name__)

SWEEP_SECONDS = 60.0
"""Seconds between two sweeps of condemned packs."""


@dataclass(frozen=True)
class BackupServerNode:
    """A running backup server.

    Attributes:
        url: the listener's URL.
        state: store and rules.
    """

    url: str
    state: BackupServerState

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        store_dir: Path,
        rules: BackupRules | None = None,
        host: str = EVERY_ADDRESS,
        port: int = 0,
        *,
        bounds: Bounds | None = None,
        access: ServerAccess | None = None,
    ) -> AsyncIterator[Self]:
        """Run a backup server.

        Args:
            store_dir: the store's folder, made if missing.
            rules: limits for clients; None for the defaults.
            host: the address to listen on.
            port: the port; 0 for a free one.
            bounds: of the listener.
            access: rules of the listener; clients show their own keys in any case.

        Raises:
            DataDirInUse: another process serves the folder.
            LocalDiskError, WrongStore: the folder cannot be used.
            AddressTaken: the address cannot be bound.
            UsageError: clients share chunks, and the package to verify them is not installed.
        """
        if rules is not None and rules.dedupe_clients:
            check_decoder()
        folder = StoreFolder(store_dir)
        async with AsyncExitStack() as stack:
            await asyncio.to_thread(folder.make)
            if folder.is_open_to_others:
                log.warning("%s can be read by other users of this machine; chmod 700 it", store_dir)
            lock = await in_thread(folder.lock, undo=DirectoryLock.release)
            stack.callback(lock.release)
            store = await in_thread(BackupStore, folder)
            stack.push_async_callback(store.close)
            await store.packs.prepare()
            await asyncio.to_thread(store.spare.keep)
            state = BackupServerState(
                store, rules or BackupRules(), await asyncio.to_thread(folder.read_admin_key)
            )
            app = _application(state, bounds, access)
            url = await stack.enter_async_context(serve(app, host, port, guarded=True))
            await stack.enter_async_context(background_task(_sweep_forever(store)))
            yield cls(url, state)


def _application(
    state: BackupServerState, bounds: Bounds | None, access: ServerAccess | None
) -> web.Application:
    """Return the application over a state."""
    started, node_id = time.monotonic(), secrets.token_hex(8)

    def status() -> Mapping[str, Any]:
        return {
            "role": ROLE,
            "node": node_id,
            "software": f"shardcast {installed('shardcast')}",
            "seconds_up": round(time.monotonic() - started, 1),
            "append_only": state.rules.append_only,
        }

    routes = (
        partial(add_health_routes, status=status, get_missing=lambda: None),
        partial(add_account_routes, state=state),
        partial(add_run_routes, state=state),
        partial(add_chunk_routes, state=state),
        partial(add_snapshot_routes, state=state),
    )
    app = application(node_id, *routes, as_sent=True, bounds=bounds, access=access)
    app[REFUSAL_ANSWER] = json_refusal
    return app


async def _sweep_forever(store: BackupStore) -> None:
    """Remove condemned packs after their grace time, and files of killed uploads, now and each minute.

    A failure is logged; the next sweep tries again.
    """
    while True:
        try:
            await sweep(store)
        except (LocalDiskError, IntegrityError) as error:
            log.error("could not delete condemned packs: %s", error)
        await asyncio.sleep(SWEEP_SECONDS)
