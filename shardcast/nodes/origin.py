"""The origin: publishes payloads and serves them."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from aiohttp import web

from shardcast.access.server_access import ServerAccess
from shardcast.addresses import Network
from shardcast.blobs.server.shards import add_digest_routes
from shardcast.blobs.version_blobs import VersionBlobs
from shardcast.constants import HTTP_PORT, MAX_DISTRIBUTION_FOLDERS, SHARD_SIZE
from shardcast.fair_limit import describe_limits
from shardcast.nodes.legacy_import import import_legacy_versions
from shardcast.nodes.open_data_dir import cancel_and_raise, open_data_dir
from shardcast.nodes.publisher import Confirm, PendingBroadcast, Publisher
from shardcast.nodes.sharing_settings import checked_site
from shardcast.nodes.status import Status
from shardcast.nodes.swarm_server import count_members, find_version, running_tracker
from shardcast.nodes.upload_table import UploadBounds, UploadTable
from shardcast.nodes.waiting import CopiesWait, ShutdownWait
from shardcast.protocol.feed import Position
from shardcast.server.application import application, serve, serve_on_socket
from shardcast.server.binding import EVERY_ADDRESS
from shardcast.server.bounds import Bounds, owner_bounds
from shardcast.server.downstream import Downstream
from shardcast.server.hand_outs import HandOuts
from shardcast.server.routes.feed import add_feed_routes
from shardcast.server.routes.health import add_health_routes
from shardcast.server.routes.lease import add_lease_routes
from shardcast.server.routes.next_range import add_next_range_routes
from shardcast.server.routes.pins import add_pin_routes
from shardcast.server.routes.publish import add_publish_routes
from shardcast.server.routes.report import add_report_routes
from shardcast.server.routes.running import add_running_routes
from shardcast.server.routes.swarm import add_swarm_routes
from shardcast.server.routes.uploads import add_upload_routes
from shardcast.server.routes.versions import add_version_routes
from shardcast.server.routes.waiting import add_waiting_routes
from shardcast.server.routes.withdraw import add_withdraw_routes
from shardcast.store.versions import VersionFolders

log = logging.getLogger(__name__)

DIGESTS = {"sha256": ("sha256",), "blake3": ("sha256", "blake3")}
"""The whole digests in manifests, by the digest shown in the distribution list."""


@asynccontextmanager
async def publishing(data_dir: Path) -> AsyncIterator[Publisher]:
    """Yield a publisher for a data directory without a running origin.

    Retention is that of the last origin there.

    Raises:
        DataDirInUse: another process holds the directory.
        LocalDiskError: the directory can't be used.
    """
    async with open_data_dir(data_dir, "broadcast") as folders:
        publisher = Publisher(folders)
        try:
            yield publisher
        finally:
            await publisher.close()


class Origin:
    """A running origin.

    Attributes:
        url: address of the listener.
        folders: the versions kept and served.
    """

    def __init__(self, url: str, folders: VersionFolders, publisher: Publisher) -> None:
        self.url = url
        self.folders = folders
        self._publisher = publisher

    async def publish(
        self,
        path: Path,
        shard_size: int | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        copy: bool = True,
        confirm: Confirm | None = None,
        exclude: Sequence[str] = (),
        mtimes: bool = True,
        checksum: bool = False,
    ) -> PendingBroadcast:
        """Start to broadcast a payload; see ``Publisher.publish``."""
        return await self._publisher.publish(
            path,
            shard_size,
            metadata=metadata,
            copy=copy,
            confirm=confirm,
            exclude=exclude,
            mtimes=mtimes,
            checksum=checksum,
        )

    async def publish_stream(
        self,
        source: BinaryIO,
        name: str,
        shard_size: int | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
    ) -> PendingBroadcast:
        """Start to broadcast a stream; see ``Publisher.publish_stream``."""
        return await self._publisher.publish_stream(source, name, shard_size, metadata=metadata)

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        data_dir: Path,
        host: str = EVERY_ADDRESS,
        port: int = HTTP_PORT,
        *,
        keep: int = MAX_DISTRIBUTION_FOLDERS,
        shard_size: int = SHARD_SIZE,
        first_version: int = 1,
        listed_digest: str = "sha256",
        max_bytes: int | None = None,
        bounds: Bounds | None = None,
        access: ServerAccess | None = None,
        takes_uploads: bool = False,
        upload_bounds: UploadBounds | None = None,
        advertise_networks: Sequence[Network] = (),
        site: str | None = None,
        started: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[Origin]:
        """Run an origin while the block runs.

        Args:
            data_dir: the origin's data directory.
            host: the address to listen at.
            port: the port to listen at; 0 for any.
            keep: complete versions to keep.
            shard_size: bytes of a shard, unless a broadcast names another size.
            first_version: the lowest number to give; later numbers follow the highest one ever given.
            listed_digest: a key of ``DIGESTS``.
            max_bytes: for all versions together; None for no bound.
            bounds: on the requests of clients.
            access: rules of the listener; None where all may send requests.
            takes_uploads: whether payloads from elsewhere are published.
            upload_bounds: on these; the defaults where None.
            advertise_networks: networks in which a swarm's members can advertise addresses other than their
                own.
            site: the name of the origin's site; None to guess from the address reached by a node.
            started: the command and options of the start, for programs that attach later
                (``control.running``).

        Raises:
            DataDirInUse: another process holds the data directory.
            LocalDiskError: the data directory can't be used.
            NodeFailed: the address can't be bound.
            UsageError: the site is malformed.
        """
        site = checked_site(site)
        async with AsyncExitStack() as stack:
            folders = await stack.enter_async_context(
                open_data_dir(data_dir, "origin", keep=keep, max_bytes=max_bytes)
            )
            publisher = Publisher(folders, shard_size, first_version, DIGESTS[listed_digest])
            node_id, directory = secrets.token_hex(8), folders.data_dir
            if directory.is_new:
                log.info(
                    "new data directory %s: its line of versions has the origin id %s",
                    directory.root,
                    directory.origin_id,
                )
            downstream = Downstream(node_id)
            limits = describe_limits(upload=bounds.uploads if bounds else None)
            status = Status("origin", node_id, folders, downstream)
            hand_outs = HandOuts(folders, site=site)
            routes: list[Callable[[web.Application], None]] = [
                partial(add_version_routes, shelf=folders),
                partial(add_digest_routes, shards=VersionBlobs(folders)),
                partial(
                    add_feed_routes,
                    shelf=folders,
                    node_id=node_id,
                    position=lambda: Position(directory.origin_id, 0, highest=folders.line.highest),
                ),
                partial(add_lease_routes, shelf=folders),
                partial(add_next_range_routes, shelf=folders, hand_outs=hand_outs),
                partial(add_report_routes, downstream=downstream),
                partial(
                    add_health_routes,
                    status=lambda: status.as_dict(directory.origin_id, 0) | {"limits": limits},
                    get_missing=lambda: folders.unready_reason,
                ),
            ]
            # Also without the upload route, so that left uploads expire.
            uploads = UploadTable(folders, publisher, upload_bounds)
            await stack.enter_async_context(uploads.running())
            if takes_uploads:
                routes.append(partial(add_upload_routes, uploads=uploads))
            tracker = await stack.enter_async_context(running_tracker(folders, advertise_networks))
            if tracker:
                tracker.on_announced = hand_outs.note_member
                status.count_members = partial(count_members, folders, tracker)
                routes.append(partial(add_swarm_routes, tracker=tracker, find=partial(find_version, folders)))
            # as_sent: an unpacked report could grow without bound, and no node compresses reports.
            app = application(node_id, *routes, as_sent=True, bounds=bounds, access=access)
            url = await stack.enter_async_context(serve(app, host, port))
            running = {"url": url, "keep": keep, **(started or {})}
            control_routes = (
                partial(add_running_routes, running=running),
                partial(add_publish_routes, publisher=publisher, pipes=directory.checked_own),
                partial(add_pin_routes, versions=folders),
                partial(add_withdraw_routes, versions=folders),
                partial(
                    add_waiting_routes,
                    finish=lambda wait: ShutdownWait(folders, downstream, wait).reason,
                    copies=lambda version, copies: CopiesWait(folders, downstream, version, copies).count,
                ),
            )
            control = application(node_id, *control_routes, bounds=owner_bounds())
            await stack.enter_async_context(serve_on_socket(control, folders.data_dir.root))
            importing = asyncio.ensure_future(import_legacy_versions(folders, folders.unsurveyed))
            stack.push_async_callback(cancel_and_raise, importing)
            stack.push_async_callback(publisher.close)
            yield cls(url, folders, publisher)
