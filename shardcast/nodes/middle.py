"""The middle: keeps and serves the versions of its upstreams."""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from shardcast.access.client_access import ClientAccess
from shardcast.access.nonces import Nonces
from shardcast.access.server_access import ServerAccess
from shardcast.addresses import Network
from shardcast.blobs.server.shards import add_digest_routes
from shardcast.blobs.version_blobs import VersionBlobs
from shardcast.concurrency import background_task, in_thread
from shardcast.constants import CHECK_INTERVAL, HTTP_PORT, MAX_DISTRIBUTION_FOLDERS
from shardcast.fair_limit import FairLimit, describe_limits
from shardcast.nodes.fetch_loop import FetchLoop
from shardcast.nodes.line_keeper import LineOnDisk
from shardcast.nodes.memberships import Memberships
from shardcast.nodes.open_data_dir import cancel_and_raise, open_data_dir
from shardcast.nodes.shared_folders import SharedFolders
from shardcast.nodes.sharing import Sharing
from shardcast.nodes.sharing_settings import advertised_place, checked_site
from shardcast.nodes.sharing_status import describe_sharing
from shardcast.nodes.status import Status, describe_transfer, describe_upstreams
from shardcast.nodes.swarm_server import count_members, find_version, running_tracker, versions_to_share
from shardcast.peer.announcing import SwarmClient
from shardcast.peer.server import Peer
from shardcast.peer.session import open_session
from shardcast.protocol.feed import Position
from shardcast.protocol.report import Node, newest_reportable
from shardcast.protocol.wire import version_name
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
from shardcast.server.routes.report import add_report_routes
from shardcast.server.routes.swarm import add_check_route, add_swarm_routes
from shardcast.server.routes.swarm_stream import add_swarm_stream_routes
from shardcast.server.routes.versions import add_version_routes
from shardcast.server.swarm_tracker import SwarmTracker
from shardcast.store.versions import VersionFolders
from shardcast.upstream.announcer import MemberIdentity
from shardcast.upstream.follow import Following
from shardcast.upstream.report import send_reports


class Middle:
    """A running middle.

    Attributes:
        url: address of the listener.
        folders: the versions kept and served.
    """

    def __init__(
        self,
        node_id: str,
        folders: VersionFolders,
        peers: Sequence[Peer],
        *,
        interval: float,
        limits: Mapping[str, int | None],
        origin_id: str | None = None,
    ) -> None:
        self.url = ""
        self.folders = folders
        self._node_id, self._name = node_id, socket.gethostname()
        self._downstream = Downstream(node_id)
        self._status = Status("middle", node_id, folders, self._downstream)
        self._following = Following(
            peers, interval, node_id=node_id, memory=LineOnDisk(folders), accepted=origin_id
        )
        self._interval = interval
        self._memberships: Memberships | None = None
        self._sharing: Sharing | None = None
        self._shared: SharedFolders | None = None
        self._limits = limits
        self._fetch_loop = FetchLoop(folders, self._following, peers, node_id)

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        upstreams: Sequence[str],
        data_dir: Path,
        host: str = EVERY_ADDRESS,
        port: int = HTTP_PORT,
        *,
        check_interval: float = CHECK_INTERVAL,
        keep: int = MAX_DISTRIBUTION_FOLDERS,
        max_bytes: int | None = None,
        origin_id: str | None = None,
        bounds: Bounds | None = None,
        access: ServerAccess | None = None,
        upstream_access: ClientAccess | None = None,
        downloads: FairLimit | None = None,
        advertise_networks: Sequence[Network] = (),
        site: str | None = None,
        advertise: str | None = None,
    ) -> AsyncIterator[Middle]:
        """Run a middle while the block runs.

        Args:
            upstreams: base URLs of the servers to follow.
            data_dir: the middle's data directory.
            host: the address to listen at.
            port: the port to listen at; 0 for any.
            check_interval: seconds until an upstream without a feed is asked again, and failed versions are
                tried again.
            keep: complete versions to keep.
            max_bytes: for all versions together; None for no bound.
            origin_id: the only line of versions to accept; None for any.
            bounds: on the requests of clients.
            access: rules of the listener; None where all may send requests.
            upstream_access: tokens and TLS shown to the upstreams.
            downloads: limit of received bytes; None for no limit.
            advertise_networks: networks in which a swarm's members can advertise addresses other than their
                own.
            site: the name of the middle's site; None to guess from its addresses.
            advertise: ``HOST[:PORT]`` at which members of a swarm reach the middle, if upstreams see another
                address; None for none.

        Raises:
            DataDirInUse: another process holds the data directory.
            LocalDiskError: the data directory can't be used.
            NodeFailed: the address can't be bound.
            UsageError: an upstream is not https, and TLS is required; the site or the advertised address is
                malformed.
        """
        if upstream_access:
            upstream_access.check_servers(upstreams)
        site = checked_site(site)
        async with AsyncExitStack() as stack:
            folders = await stack.enter_async_context(
                open_data_dir(data_dir, "middle", keep=keep, max_bytes=max_bytes, resume=True)
            )
            session = await stack.enter_async_context(
                open_session(access=upstream_access, downloads=downloads)
            )
            node_id = secrets.token_hex(8)
            peers = [Peer(url, session) for url in upstreams]
            limits = describe_limits(upload=bounds.uploads if bounds else None, download=downloads)
            middle = cls(node_id, folders, peers, interval=check_interval, origin_id=origin_id, limits=limits)
            hand_outs = HandOuts(folders, own_pieces=middle._handed, site=site)
            routes: list[Callable[[web.Application], None]] = [
                partial(add_version_routes, shelf=folders),
                partial(add_digest_routes, shards=VersionBlobs(folders)),
                partial(add_feed_routes, shelf=folders, node_id=node_id, position=middle.place),
                partial(add_lease_routes, shelf=folders),
                partial(add_next_range_routes, shelf=folders, hand_outs=hand_outs),
                partial(add_report_routes, downstream=middle._downstream),
                partial(add_health_routes, status=middle.status, get_missing=middle.missing),
            ]
            tracker = await stack.enter_async_context(running_tracker(folders, advertise_networks))
            nonces = Nonces()
            if tracker:
                tracker.on_announced = hand_outs.note_member
                middle._status.count_members = partial(count_members, folders, tracker)
                routes.append(partial(add_swarm_routes, tracker=tracker, find=partial(find_version, folders)))
                routes.append(partial(add_check_route, nonces=nonces))
                routes.append(partial(add_swarm_stream_routes, accept=middle._accept_stream))
            # as_sent: an unpacked report could grow without bound, and no node compresses reports.
            app = application(node_id, *routes, as_sent=True, bounds=bounds, access=access)
            middle.url = await stack.enter_async_context(serve(app, host, port))
            control = application(node_id, partial(add_pin_routes, versions=folders), bounds=owner_bounds())
            await stack.enter_async_context(serve_on_socket(control, folders.data_dir.root))
            if tracker:
                own_port = urlsplit(middle.url).port or 0
                identity = await in_thread(
                    partial(
                        MemberIdentity.new,
                        port=own_port,
                        advertise=advertised_place(advertise, own_port) if advertise else None,
                        site=site,
                        certificate=partial(_certificate, access),
                        nonces=nonces,
                    )
                )
                clients = [SwarmClient(session, url) for url in upstreams]
                middle._join_swarms(tracker, identity, clients)
                uploads = bounds.uploads if bounds else None
                sharing = Sharing(session, identity, uploads=uploads)
                stack.push_async_callback(sharing.end)
                middle._share(sharing)
            working = asyncio.ensure_future(middle._work())
            stack.push_async_callback(middle._fetch_loop.stop)
            stack.push_async_callback(cancel_and_raise, working)
            yield middle

    def status(self) -> dict[str, Any]:
        """Return the middle's state, for ``/status``."""
        followers, fetcher = self._following.followers, self._fetch_loop.fetcher
        heard = [follower.last_news_at for follower in followers if follower.last_news_at is not None]
        place = self.place()
        return {
            **self._status.as_dict(place.origin, place.distance),
            "limits": self._limits,
            "seconds_since_contact": round(time.monotonic() - max(heard), 1) if heard else None,
            "upstreams": describe_upstreams(followers),
            "transfers": [describe_transfer(transfer) for transfer in fetcher.transfers],
            "sharing": describe_sharing(self._sharing) if self._sharing else [],
            "disk_failure": fetcher.failures.disk,
            "lacking": [
                {"version": version_name(number), "why": why}
                for number, why in sorted(fetcher.failures.no_room.items())
            ],
        }

    def missing(self) -> str | None:
        """Return in words the reason for ``/ready`` to wait; None when the middle has caught up."""
        return self.folders.unready_reason or self._fetch_loop.behind()

    def place(self) -> Position:
        """Return where the middle stands, as far as is known."""
        return self._fetch_loop.place

    def _describe(self) -> Node:
        """Return the description of this middle, for reports."""
        has = newest_reportable([listing.version for listing in self.folders.listings])
        opened = map(self.folders.opened, sorted(self.folders.open_numbers))
        coming = {version_name(version.number): version.verified_bytes for version in opened if version}
        return Node(self._node_id, "middle", self._name, has, coming, origin=self.place().origin)

    def _join_swarms(
        self, tracker: SwarmTracker, identity: MemberIdentity, clients: Sequence[SwarmClient]
    ) -> None:
        """Announce this middle, and the members below, to the upstreams from the start of ``_work`` on."""
        tracker.relay.own_key = identity.key.public
        self._memberships = Memberships(
            identity,
            clients,
            partial(versions_to_share, self.folders, tracker),
            relay=tracker.relay,
            is_asked=self._has_feed,
        )

    def _share(self, sharing: Sharing) -> None:
        """Share the versions of all memberships from the start of ``_work`` on."""
        assert self._memberships is not None
        self._sharing = sharing
        self._shared = SharedFolders(self.folders, sharing, self._memberships)
        self._fetch_loop.fetcher.sharing = self._shared

    def _handed(self, version: str) -> int | None:
        """Return the number of pieces of a version handed to this middle by its upstreams; None for all."""
        return self._shared.handed(version) if self._shared else None

    async def _accept_stream(self, transport: asyncio.Transport) -> None:
        """Accept a stream opened by a neighbour, once versions are shared here."""
        if self._sharing:
            await self._sharing.streams.accept(transport)

    def _has_feed(self, url: str) -> bool:
        """Return whether an upstream has a feed, as servers with swarms do."""
        return any(follower.peer.url == url and follower.hello for follower in self._following.followers)

    async def _work(self) -> None:
        """Follow the upstreams, report to them, and fetch; for ever."""
        async with (
            self._following as following,
            background_task(send_reports(following, self._describe, self._downstream)),
            background_task(self._memberships.run()) if self._memberships else nullcontext(),
            background_task(self._shared.run()) if self._shared else nullcontext(),
        ):
            await self._fetch_loop.run(self._interval)


def _certificate(access: ServerAccess | None) -> str | None:
    """Return the SHA-256 of the certificate of a listener now; None for plain HTTP."""
    return access.tls.digest() if access and access.tls else None
