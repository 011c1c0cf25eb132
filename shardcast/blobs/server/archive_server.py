"""The archive as a node: a store behind its routes, and optionally a mirror of other servers."""

from __future__ import annotations

import asyncio
import errno
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from functools import partial
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, Self

from shardcast.access.client_access import ClientAccess
from shardcast.access.server_access import ServerAccess
from shardcast.blobs.access_stats import AccessStats, archive_folder, stats_file
from shardcast.blobs.client.remote import RemoteStore
from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.directory.incoming_folder import IncomingFolder
from shardcast.blobs.directory.layout import make_own_folder
from shardcast.blobs.directory.staging import staging_area
from shardcast.blobs.interface import BlobStore
from shardcast.blobs.mirror.mirror_store import MirrorStore
from shardcast.blobs.server.archive_routes.context import ArchiveContext, Staging
from shardcast.blobs.server.archive_routes.routes import add_archive_routes
from shardcast.directories import make_folder
from shardcast.disk_errors import disk_errors
from shardcast.errors import LocalDiskError, UsageError
from shardcast.fair_limit import FairLimit, describe_limits
from shardcast.peer.session import open_session
from shardcast.server.application import application, serve
from shardcast.server.binding import EVERY_ADDRESS
from shardcast.server.bounds import Bounds
from shardcast.server.routes.health import add_health_routes

log = logging.getLogger(__name__)

MAX_BLOB = 1 << 32
"""Default maximum bytes of a blob."""


class ArchiveNode:
    """A running archive.

    Attributes:
        url: address of the listener.
        push_url: address for pushes without a token; None where they need one everywhere.
        mirror: fetches missing blobs; None for an archive without a mirror.
    """

    def __init__(self, url: str, push_url: str | None, mirror: MirrorStore | None) -> None:
        self.url = url
        self.push_url = push_url
        self.mirror = mirror

    @classmethod
    @asynccontextmanager
    async def on_directory(cls, directory: Path, **settings: Any) -> AsyncIterator[Self]:
        """Serve a directory of blobs, made if missing; ``settings`` as of ``running``.

        A directory on a read-only mount is served unchanged, and takes no pushes; with a mirror this fails.

        Raises:
            WrongStore: the directory's blobs are kept under another digest.
            UsageError, LocalDiskError, NodeFailed: as of ``running``.
        """
        async with AsyncExitStack() as stack:
            own, stage = archive_folder(directory), None
            try:
                with disk_errors("could not make", directory):
                    make_folder(directory)
                store = await asyncio.to_thread(BlobDirectory, directory, "sha256", writable=True)
                stack.push_async_callback(store.close)
                await store.prepare()
                with disk_errors("could not make", own):
                    make_own_folder(own)
                incoming = await asyncio.to_thread(IncomingFolder, str(own))
                stack.callback(incoming.close)
                stage = partial(staging_area, store, incoming)
            except LocalDiskError as error:
                if error.errno != errno.EROFS or settings.get("mirror"):
                    raise
                log.warning("%s takes no pushes: its file system is mounted read-only", directory)
                store = await asyncio.to_thread(BlobDirectory, directory, "sha256")
            yield await stack.enter_async_context(cls.running(store, stage, own, **settings))

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        store: BlobStore,
        stage: Callable[[], AbstractAsyncContextManager[Staging]] | None,
        own: Path,
        *,
        host: str = EVERY_ADDRESS,
        port: int = 3000,
        authorized_port: int | None = None,
        authorized_host: str = "127.0.0.1",
        token: str | None = None,
        mirror: Sequence[str] = (),
        max_blob: int = MAX_BLOB,
        bounds: Bounds | None = None,
        access: ServerAccess | None = None,
        mirror_access: ClientAccess | None = None,
        downloads: FairLimit | None = None,
    ) -> AsyncIterator[Self]:
        """Serve a store of SHA-256.

        Args:
            store: the blobs.
            stage: opens a place for a push into the store to become whole; None for a read-only store.
            own: the folder of the access statistics.
            host: the address to listen on.
            port: for everybody; 0 for a free one.
            authorized_port: port for pushes without a token; None for nowhere.
            authorized_host: the address of this port.
            token: allows pushes at any port; None for no token.
            mirror: base URLs of servers to fetch a missing, requested blob from.
            max_blob: maximum bytes of a blob.
            bounds: bounds of the listeners.
            access: rules of the listeners; None to allow requests from all.
            mirror_access: access to the servers of ``mirror``.
            downloads: limit of bytes fetched from them; None for no limit.

        Raises:
            UsageError: the store has another digest, or an entry of ``mirror`` is no address, or not https
                although TLS is required.
            NodeFailed: an address can't be bound.
        """
        if store.algorithm != "sha256":
            raise UsageError(f"an archive's keys are SHA-256, and this store uses {store.algorithm}")
        started, node_id = time.monotonic(), secrets.token_hex(8)
        async with AsyncExitStack() as stack:
            access_stats = AccessStats(stats_file(own))
            stack.push_async_callback(access_stats.close)
            upstream: MirrorStore | None = None
            if mirror:
                session = await stack.enter_async_context(
                    open_session(access=mirror_access, downloads=downloads)
                )
                servers = [RemoteStore(url, session, max_size=max_blob) for url in mirror]
                upstream = MirrorStore(store, servers, node_id, max_length=max_blob)
                stack.push_async_callback(upstream.close)
            context = ArchiveContext(
                store, access_stats, stage, max_blob=max_blob, token=token, upstream=upstream
            )

            def status() -> dict[str, Any]:
                return {
                    "role": "archive",
                    "node": node_id,
                    "software": f"shardcast {installed('shardcast')}",
                    "seconds_up": round(time.monotonic() - started, 1),
                    "hits": context.hits,
                    "limits": describe_limits(upload=bounds.uploads if bounds else None, download=downloads),
                    "mirror_of": list(mirror),
                    "mirror": asdict(upstream.counts) if upstream else None,
                }

            async def listen(host: str, port: int, push: bool) -> str:
                routes = (
                    partial(add_health_routes, status=status, get_missing=lambda: None),
                    partial(add_archive_routes, context=context, push=push),
                )
                app = application(node_id, *routes, as_sent=True, bounds=bounds, access=access)
                return await stack.enter_async_context(serve(app, host, port))

            url = await listen(host, port, push=False)
            push_url = None
            if authorized_port is not None:
                push_url = await listen(authorized_host, authorized_port, push=True)
            yield cls(url, push_url, upstream)
