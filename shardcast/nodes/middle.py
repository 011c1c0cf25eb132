"""The middle: keeps what its upstreams offer, and serves it."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from shardcast.blobs.server.shards import add_shards_by_digest
from shardcast.blobs.version_blobs import VersionBlobs
from shardcast.concurrency import beside, cancel
from shardcast.constants import CHECK_INTERVAL, HTTP_PORT, MAX_DISTRIBUTION_FOLDERS, STALL_WHEN_OTHERS_CAN
from shardcast.errors import NoServerReachable, ShardcastError, TransferFailed, VersionWithdrawn
from shardcast.nodes.adopting import adopt
from shardcast.nodes.fetching import VersionFetcher
from shardcast.nodes.holding import end, holding
from shardcast.nodes.line_keeper import LineKeeper, LineOnDisk
from shardcast.nodes.status import Status, describe_transfer, describe_upstreams
from shardcast.peer.server import Peer
from shardcast.peer.session import open_session
from shardcast.policy.fetch_order import missing_versions, versions_to_fetch, versions_to_start
from shardcast.policy.standing import Standing
from shardcast.protocol.feed import Place
from shardcast.protocol.report import Node, newest
from shardcast.protocol.wire import version_name, version_number
from shardcast.server.application import application, listening, listening_on_socket
from shardcast.server.binding import EVERY_ADDRESS
from shardcast.server.bounds import Bounds, for_owner
from shardcast.server.downstream import Downstream
from shardcast.server.routes.below import add_below
from shardcast.server.routes.feed import add_feed
from shardcast.server.routes.health import add_health
from shardcast.server.routes.lease import add_lease
from shardcast.server.routes.pins import add_pins
from shardcast.server.routes.versions import add_versions
from shardcast.store.versions import VersionFolders
from shardcast.upstream.abandon import NoProgress, if_withdrawn, unless
from shardcast.upstream.follow import Following
from shardcast.upstream.offers import open_versions
from shardcast.upstream.report import report

log = logging.getLogger(__name__)

_MOST_OPEN = 3
"""Open versions that are fetched at once."""


class Middle:
    """A middle that runs.

    Attributes:
        url: where it listens.
        folders: what it keeps and serves.
    """

    def __init__(
        self,
        node_id: str,
        folders: VersionFolders,
        peers: Sequence[Peer],
        interval: float,
        origin_id: str | None = None,
    ) -> None:
        self.url = ""
        self.folders = folders
        self._node_id, self._name = node_id, socket.gethostname()
        self._below = Downstream(node_id)
        self._status = Status("middle", node_id, folders, self._below)
        self._peers = {peer.url: peer for peer in peers}
        self._following = Following(
            peers, interval, node_id=node_id, memory=LineOnDisk(folders), accepted=origin_id
        )
        self._interval = interval
        self._relaying = VersionFetcher(folders, self._following, self._tell)
        self._line = LineKeeper(folders, self._following, self._relaying, self._peers, self._stop)
        self._doubted: set[str] = set()  # upstreams that offered what could not be had
        self._told: set[str] = set()
        self._making: dict[int, asyncio.Task[None]] = {}  # open versions, while they are fetched
        self._makers: dict[int, list[str]] = {}  # and from which upstreams

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        upstreams: Sequence[str],
        data_dir: Path,
        host: str = EVERY_ADDRESS,
        port: int = HTTP_PORT,
        check_interval: float = CHECK_INTERVAL,
        keep: int = MAX_DISTRIBUTION_FOLDERS,
        max_bytes: int | None = None,
        origin_id: str | None = None,
        bounds: Bounds | None = None,
    ) -> AsyncIterator[Middle]:
        """Run a middle that follows its upstreams (base URLs). One that has no feed it asks every
        ``check_interval`` seconds, and as often it tries again what failed. ``max_bytes`` bounds what all its
        versions take together. ``origin_id``: the only line of versions to accept.
        ``bounds``: what its clients may do.

        Raises:
            DataDirInUse: another process holds the data directory.
            LocalDiskError: it can't be used.
            NodeFailed: the address can't be bound.
        """
        async with AsyncExitStack() as stack:
            folders = await stack.enter_async_context(
                holding(data_dir, "middle", keep, max_bytes, resume=True)
            )
            session = await stack.enter_async_context(open_session())
            node_id = secrets.token_hex(8)
            peers = [Peer(url, session) for url in upstreams]
            middle = cls(node_id, folders, peers, check_interval, origin_id)
            doors = (
                partial(add_versions, shelf=folders),
                partial(add_shards_by_digest, shards=VersionBlobs(folders)),
                partial(add_feed, shelf=folders, node_id=node_id, place=middle.place),
                partial(add_lease, shelf=folders),
                partial(add_below, below=middle._below),
                partial(add_health, status=middle.status, behind=middle.behind),
            )
            # Nobody sends reports that grow when unpacked.
            app = application(node_id, *doors, as_sent=True, bounds=bounds)
            middle.url = await stack.enter_async_context(listening(app, host, port))
            control = application(node_id, partial(add_pins, versions=folders), bounds=for_owner())
            await stack.enter_async_context(listening_on_socket(control, folders.data_dir.root))
            working = asyncio.ensure_future(middle._work())
            stack.push_async_callback(middle._stop)
            stack.push_async_callback(end, working)
            yield middle

    def status(self) -> dict[str, Any]:
        """Its state, for ``/status``."""
        heard = [one.heard_at for one in self._following.followers if one.heard_at is not None]
        place = self.place()
        return {
            **self._status.now(place.origin, place.distance),
            "seconds_since_contact": round(time.monotonic() - max(heard), 1) if heard else None,
            "upstreams": describe_upstreams(self._following.followers),
            "transfers": [describe_transfer(transfer) for transfer in self._relaying.transfers],
            "disk_failure": self._relaying.disk_failure,
            "lacking": [
                {"version": version_name(number), "why": why}
                for number, why in sorted(self._relaying.no_room.items())
            ],
        }

    def _describe(self) -> Node:
        """This middle, for reports."""
        has = newest([one.version for one in self.folders.listings])
        opened = [one for number in sorted(self.folders.open_numbers) if (one := self.folders.opened(number))]
        coming = {version_name(one.number): one.bytes_here for one in opened}
        return Node(self._node_id, "middle", self._name, has, coming, origin=self.place().origin)

    def behind(self) -> str | None:
        """What it has yet to get, for ``/ready``; None when it has caught up."""
        if self.folders.unready:
            return self.folders.unready
        try:
            standing = self._following.heard()
        except ShardcastError as error:
            return f"no news of what there is: {error}"
        if standing.change:
            return f"changing over to the line {standing.change.origin or 'without an origin id'}"
        newest = sorted(standing.listed)[-self.folders.keep :]
        here = self.folders.complete_numbers
        lacking = self._relaying.no_room
        # What has no room beside newer versions is not waited for.
        passed_over = {number for number in lacking if number < max(here, default=0)}
        # Nor is what an upstream lists and does not serve, until another one offers it or it comes.
        doubted = {n for n, servers in self._offers(standing).items() if self._is_doubted(n, servers)}
        missing = sorted(set(missing_versions(newest, here, (), self.folders.keep)) - passed_over - doubted)
        if not missing:
            return None
        why = next((f": {lacking[number]}" for number in reversed(missing) if number in lacking), "")
        return f"{', '.join(map(version_name, missing))} not here yet{why}"

    def _is_doubted(self, number: int, servers: Sequence[str]) -> bool:
        """Return whether a version came from none of its servers when they were asked for it."""
        return bool(servers) and self._relaying.unserved.get(number, frozenset()).issuperset(servers)

    def place(self) -> Place:
        """Where it stands, as far as is known."""
        return self._line.place

    async def _work(self) -> None:
        """Fetch what the upstreams offer, for as long as it runs."""
        async with (
            self._following as following,
            beside(report(following, self._describe, self._below)),
            beside(self._keep_up()),
        ):
            await following.settled()
            tried = time.monotonic()
            while True:
                seen = following.changes
                try:
                    await adopt(self.folders, list(self.folders.untrusted))
                    while await self._look():
                        await following.look_again()
                        seen = following.changes
                except (NoServerReachable, TransferFailed) as error:
                    self._tell(f"what is here is served on, and the upstreams are asked again: {error}")
                except ShardcastError as error:
                    log.error("%s", error)
                except Exception:
                    log.exception("a look at the upstreams failed")
                try:
                    await asyncio.wait_for(following.change(seen), tried + self._interval - time.monotonic())
                except TimeoutError:
                    tried = time.monotonic()
                    self._relaying.failed.clear()
                    self._doubted.clear()

    async def _stop(self) -> None:
        """End the transfers of open versions."""
        await cancel(list(self._making.values()))

    async def _keep_up(self) -> None:
        """Withdrawals, new numbers and open versions don't wait for what is being fetched; for ever."""
        while True:
            seen = self._following.changes
            try:
                if self.folders.held:
                    standing = await self._line.believe()  # also while none tells: then this node is silent
                    if not standing.change:
                        self._begin_open(standing)
            except ShardcastError as error:
                log.error("%s", error)
            except Exception:
                log.exception("a look at what the upstreams tell failed")
            await self._following.change(seen)

    async def _look(self) -> bool:
        """Fetch the first version on offer that is wanted; False when none is."""
        if not self.folders.held:
            return False
        for url, peer in list(self._peers.items()):
            if peer.node_id == self._node_id:
                log.warning("%s is this very middle, and is not asked", url)
                del self._peers[url]
                await self._following.drop(url)
        self._following.heard()
        standing = await self._line.believe()
        if standing.change:
            return await self._line.change(standing.change)
        window, here = self._window(standing), self.folders.complete_numbers
        self._relaying.forget_room_of({*self._relaying.no_room} - {*window, *standing.opened})
        self._begin_open(standing)
        opened = open_versions(self._following)
        for number in self.folders.open_numbers - {*window, *self._making}:
            made = self.folders.opened(number)
            given_up = made and not made.live.whole and number not in opened
            too_old = number < max(here, default=0) - self.folders.keep
            if given_up or too_old or number in self._offers(standing):
                await self.folders.discard(number)
        for number in self._due(standing):
            await self._fetch_or_leave(number, standing)
            return True
        return False

    def _offers(self, standing: Standing) -> dict[int, tuple[str, ...]]:
        """The servers that have each of the versions that count."""
        return {n: servers for n, servers in standing.group.complete.items() if n in standing.listed}

    def _window(self, standing: Standing) -> list[int]:
        folders = self.folders
        here, under_way = folders.complete_numbers, folders.open_numbers
        return versions_to_fetch(
            self._offers(standing), here, under_way, keep=folders.keep, suspect=self._doubted
        )

    def _due(self, standing: Standing) -> list[int]:
        """The complete versions to fetch, first things first."""
        done_without = {*self._making, *(version_number(version) for version in self._relaying.failed)}
        return [number for number in self._window(standing) if number not in done_without]

    async def _fetch_or_leave(self, number: int, standing: Standing) -> None:
        """Fetch a version, unless it is withdrawn, or nothing of it comes and there is another one
        elsewhere."""
        version, servers = version_name(number), self._offers(standing)[number]

        def leave() -> ShardcastError | None:
            opened = self.folders.opened(number)
            if opened and opened.bytes_here:
                return None
            now, without = self._following.standing(), {*servers, *self._doubted}
            offers = self._offers(now)
            if now.change or any(not without.issuperset(offers[other]) for other in self._due(now)):
                return NoProgress(f"nothing of {version} comes, and others have other versions")
            return None

        listing = standing.listed[number]
        withdrawn = if_withdrawn(self._following, number, listing.digest)
        fetching = self._relaying.fetch(listing, [self._peers[url] for url in servers], standing.origin)
        patient = unless(leave, fetching, self._following, STALL_WHEN_OTHERS_CAN)
        try:
            await unless(withdrawn, patient, self._following)
        except NoProgress as error:
            self._doubted.update(servers)
            log.warning("%s", error)
        except VersionWithdrawn as error:
            await self.folders.discard(number)
            log.warning("%s", error)
        if version in self._relaying.failed and version not in self._relaying.failed_here:
            self._doubted.update(servers)
        self._note_served(number, servers)

    def _note_served(self, number: int, servers: Sequence[str]) -> None:
        """Note, after a version was asked for, whether its servers have it. One that can't be reached says
        nothing of it."""
        if number in self.folders.complete_numbers:
            self._relaying.unserved.pop(number, None)
        elif self._doubted.issuperset(servers):
            told = any(one.told for one in self._following.followers if one.peer.url in servers)
            if told and number not in self._relaying.no_room:
                before = self._relaying.unserved.get(number, frozenset())
                self._relaying.unserved[number] = before.union(servers)

    def _begin_open(self, standing: Standing) -> None:
        """Fetch versions while they are being made, beside everything else. No upstream of several takes all
        places."""
        distance, passed_over = standing.place.distance or 0, self._passed_over()
        opened = open_versions(self._following, distance)
        makers = {n: [one.url for one in peers] for n, peers in opened.items() if n not in passed_over}
        share = _MOST_OPEN - 1 if len(self._peers) > 1 else _MOST_OPEN
        here = self.folders.complete_numbers
        for number in versions_to_start(
            makers,
            self._offers(standing),
            here=here,
            fetching=self._makers,
            places=_MOST_OPEN,
            share=share,
        ):
            task = asyncio.ensure_future(self._relaying.fetch_open(number, opened[number], distance))
            self._making[number], self._makers[number] = task, makers[number]
            task.add_done_callback(partial(self._made, number))

    def _passed_over(self) -> set[int]:
        """What failed, was given up, or had no room while it was made."""
        failed = {version_number(version) or 0 for version in self._relaying.failed}
        return self._relaying.given_up | failed | self._relaying.no_room.keys()

    def _made(self, number: int, task: asyncio.Task[None]) -> None:
        del self._making[number], self._makers[number]
        if not task.cancelled() and task.exception():
            log.error("fetching %s failed", version_name(number), exc_info=task.exception())
        self._following.tell()

    def _tell(self, message: str) -> None:
        """Warn once."""
        if message not in self._told:
            self._told.add(message)
            log.warning("%s", message)
