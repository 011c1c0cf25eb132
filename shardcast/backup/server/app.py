"""The backup server as a node: its store, its routes, its start and end."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Self

from aiohttp import web

from shardcast.access.server_access import ServerAccess
from shardcast.backup.wire import ABOUT_PATH, FORMAT, NAME
from shardcast.server.application import application, serve
from shardcast.server.binding import EVERY_ADDRESS
from shardcast.server.bounds import Bounds
from shardcast.server.scoped_routes import add_route


@dataclass(frozen=True)
class BackupServerSettings:
    """The settings of a backup server.

    Attributes:
        store_dir: its folder, made where it doesn't exist.
        append_only: whether a client needs the admin key to forget snapshots.
    """

    store_dir: Path
    _: KW_ONLY
    append_only: bool = False


@dataclass(frozen=True)
class BackupServerNode:
    """A running backup server.

    Attributes:
        url: where it listens.
    """

    url: str

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        settings: BackupServerSettings,
        host: str = EVERY_ADDRESS,
        port: int = 0,
        *,
        bounds: Bounds | None = None,
        access: ServerAccess | None = None,
    ) -> AsyncIterator[Self]:
        """Run a backup server.

        Args:
            settings: what it keeps, and for whom.
            host: the address to listen on.
            port: the port; 0 for a free one.
            bounds: of its listener.
            access: rules of its listener.

        Raises:
            AddressTaken: the address can't be bound.
        """

        async def about(request: web.Request) -> web.StreamResponse:
            return web.json_response({"format": FORMAT, "name": NAME, "append_only": settings.append_only})

        def add_routes(app: web.Application) -> None:
            add_route(app, "GET", ABOUT_PATH, about, scope=None)

        app = application(secrets.token_hex(8), add_routes, as_sent=True, bounds=bounds, access=access)
        async with serve(app, host, port, guarded=True) as url:
            yield cls(url)
