"""The middle: keeps what its upstreams offer, and serves it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from shardcast.constants import CHECK_INTERVAL, HTTP_PORT, HTTP_TIMEOUT, MAX_DISTRIBUTION_FOLDERS
from shardcast.distribution import Listing
from shardcast.errors import (
    IntegrityError,
    NoRoom,
    NoServerReachable,
    ShardcastError,
    TransferFailed,
    VersionAborted,
)
from shardcast.nodes.adopting import adopt
from shardcast.nodes.holding import end, holding
from shardcast.nodes.leaving import NothingComes, unless
from shardcast.nodes.status import Status, describe_transfer, describe_upstreams
from shardcast.peer.peer import Peer
from shardcast.peer.session import open_session
from shardcast.policy.lines import Line
from shardcast.policy.opening import to_begin
from shardcast.policy.retention import wanted_of
from shardcast.report import Node, newest
from shardcast.server.doors.below import add_below
from shardcast.server.doors.feed import add_feed
from shardcast.server.doors.health import add_health
from shardcast.server.doors.lease import add_lease
from shardcast.server.doors.pins import add_pins
from shardcast.server.doors.shards_by_digest import add_shards_by_digest
from shardcast.server.doors.versions import add_versions
from shardcast.server.listening import application, listening, listening_on_socket
from shardcast.sizes import format_count, format_rate, format_size
from shardcast.store.below import Below
from shardcast.store.blobs.versions import VersionBlobs
from shardcast.store.live import LiveManifest
from shardcast.store.tasks import beside, cancel
from shardcast.store.versions import VersionFolders
from shardcast.transfer.following import Following
from shardcast.transfer.manifests import Described, describe, read_live
from shardcast.transfer.offers import Offers
from shardcast.transfer.reporting import report
from shardcast.transfer.transfer import Transfer
from shardcast.wire import version_name, version_number

log = logging.getLogger(__name__)

_MOST_OPEN = 3
"""Open versions that are fetched at once."""
_FARTHEST = 16
"""Hops that any network has at the most."""


class Middle:
    """A middle that runs.

    Attributes:
        url: where it listens.
        folders: what it keeps and serves.
    """

    def __init__(self, node_id: str, folders: VersionFolders, peers: Sequence[Peer], interval: float) -> None:
        self.url = ""
        self.folders = folders
        self._node_id, self._name = node_id, socket.gethostname()
        self._below = Below(node_id)
        self._status = Status("middle", node_id, folders, self._below)
        self._peers = {peer.url: peer for peer in peers}
        self._following = Following(peers, interval)
        self._interval = interval
        self._failed: dict[str, str] = {}  # versions that could not be had at this look, and why
        self._doubted: set[str] = set()  # upstreams that offered them
        self._given_up: set[int] = set()  # by their publishers; who says that they are open hasn't heard yet
        self._no_room: set[int] = set()
        self._told: set[str] = set()
        self._transfers: list[Transfer] = []
        self._making: dict[int, asyncio.Task[None]] = {}  # open versions, while they are fetched
        self._makers: dict[int, list[str]] = {}  # and from which upstreams

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        upstreams: Sequence[str],
        data_dir: Path,
        host: str = "0.0.0.0",
        port: int = HTTP_PORT,
        check_interval: float = CHECK_INTERVAL,
        keep: int = MAX_DISTRIBUTION_FOLDERS,
        max_bytes: int | None = None,
    ) -> AsyncIterator[Middle]:
        """Run a middle that follows its upstreams (base URLs). One that has no feed it asks every
        ``check_interval`` seconds, and as often it tries again what failed. ``max_bytes`` bounds what all its
        versions take together.

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
            middle = cls(node_id, folders, [Peer(url, session) for url in upstreams], check_interval)
            doors = (
                partial(add_versions, shelf=folders),
                partial(add_shards_by_digest, shards=VersionBlobs(folders)),
                partial(add_feed, shelf=folders, node_id=node_id, place=middle.place),
                partial(add_lease, shelf=folders),
                partial(add_below, below=middle._below),
                partial(add_health, status=middle.status, behind=middle.behind),
            )
            app = application(node_id, *doors, as_sent=True)  # nobody sends reports that grow when unpacked
            middle.url = await stack.enter_async_context(listening(app, host, port))
            control = application(node_id, partial(add_pins, versions=folders))
            await stack.enter_async_context(listening_on_socket(control, folders.data_dir.root))
            working = asyncio.ensure_future(middle._work())
            stack.push_async_callback(middle._stop)
            stack.push_async_callback(end, working)
            yield middle

    def status(self) -> dict[str, Any]:
        """Its state, for ``/status``."""
        heard = [one.heard_at for one in self._following.followers if one.heard_at is not None]
        return {
            **self._status.now(*self.place()),
            "seconds_since_contact": round(time.monotonic() - max(heard), 1) if heard else None,
            "upstreams": describe_upstreams(self._following.followers),
            "transfers": [describe_transfer(transfer) for transfer in self._transfers],
        }

    def _describe(self) -> Node:
        """This middle, for reports."""
        has = newest([one.version for one in self.folders.listings])
        opened = [one for number in sorted(self.folders.open_numbers) if (one := self.folders.opened(number))]
        coming = {version_name(one.number): one.bytes_here for one in opened}
        return Node(self._node_id, "middle", self._name, has, coming)

    def behind(self) -> str | None:
        """What it has yet to get, for ``/ready``; None when it has caught up."""
        try:
            line = self._following.offers().lines[0]
        except ShardcastError as error:
            return f"no news of what there is: {error}"
        missing = wanted_of(line.complete, self.folders.complete_numbers, (), self.folders.keep)
        missing = [number for number in missing if number not in self._no_room]
        return f"{', '.join(map(version_name, sorted(missing)))} not here yet" if missing else None

    def place(self) -> tuple[str | None, int | None]:
        """The origin id of its versions, and how many hops away that origin is, as far as is known."""
        followers = [one for one in self._following.followers if one.listings is not None]
        hellos = [one.hello for one in followers if one.hello and one.hello.distance is not None]
        nearest = min(hellos, key=lambda one: one.distance or 0, default=None)
        if nearest is None or (nearest.distance or 0) >= _FARTHEST:  # news that only goes round in circles
            return None, None
        return nearest.origin, (nearest.distance or 0) + 1

    async def _work(self) -> None:
        """Fetch what the upstreams offer, for as long as it runs."""
        async with (
            self._following as following,
            beside(report(following, self._describe, self._below.now)),
            beside(self._begin_as_they_open()),
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
                except asyncio.TimeoutError:
                    tried = time.monotonic()
                    self._failed.clear()
                    self._doubted.clear()

    async def _stop(self) -> None:
        """End what runs beside."""
        await cancel(list(self._making.values()))

    async def _look(self) -> bool:
        """Fetch the first version on offer that is wanted; False when none is."""
        for url, peer in list(self._peers.items()):
            if peer.node_id == self._node_id:
                log.warning("%s is this very middle, and is not asked", url)
                del self._peers[url]
                await self._following.drop(url)
        offers = self._following.offers()
        line = offers.lines[0]
        self._tell_of(offers)
        window, here = self._window(line), self.folders.complete_numbers
        self._no_room.intersection_update(window)
        self._begin_open(line)
        for number in self.folders.open_numbers - {*window, *self._making}:
            made = self.folders.opened(number)
            given_up = made and not made.live.whole and number not in self._following.opened(line)
            too_old = number < max(here, default=0) - self.folders.keep
            if given_up or too_old or number in line.complete:
                await self.folders.discard(number)
        for number in self._due(line):
            await self._fetch_or_leave(number, line)
            return True
        return False

    def _window(self, line: Line) -> list[int]:
        folders = self.folders
        here, under_way = folders.complete_numbers, folders.open_numbers
        return wanted_of(line.complete, here, under_way, folders.keep, self._doubted)

    def _due(self, line: Line) -> list[int]:
        """The complete versions to fetch, first things first."""
        done_without = {*self._making, *(version_number(version) for version in self._failed)}
        return [number for number in self._window(line) if number not in done_without]

    async def _fetch_or_leave(self, number: int, line: Line) -> None:
        """Fetch a version, unless nothing of it comes and there is another one elsewhere."""
        version, servers = version_name(number), line.complete[number]

        def leave() -> bool:
            opened = self.folders.opened(number)
            if opened and opened.bytes_here:
                return False
            with contextlib.suppress(ShardcastError):  # nobody tells anything just now
                now, without = self._following.offers().lines[0], {*servers, *self._doubted}
                return any(not without.issuperset(now.complete[other]) for other in self._due(now))
            return False

        listing = line.find(version)
        assert listing
        try:
            fetching = self._fetch(listing, [self._peers[url] for url in servers])
            await unless(leave, fetching, self._following, version)
        except NothingComes as error:
            self._doubted.update(servers)
            log.warning("%s", error)
        if version in self._failed:
            self._doubted.update(servers)

    async def _begin_as_they_open(self) -> None:
        """Open versions don't wait for what is being fetched; for ever."""
        while True:
            seen = self._following.changes
            with contextlib.suppress(ShardcastError):  # nobody tells anything just now
                self._begin_open(self._following.offers().lines[0])
            await self._following.change(seen)

    def _begin_open(self, line: Line) -> None:
        """Fetch versions while they are being made, beside everything else. No upstream of several takes all
        places."""
        opened, passed_over = self._following.opened(line, self.place()[1] or 0), self._passed_over()
        makers = {n: [one.url for one in peers] for n, peers in opened.items() if n not in passed_over}
        share = _MOST_OPEN - 1 if len(self._peers) > 1 else _MOST_OPEN
        here = self.folders.complete_numbers
        for number in to_begin(makers, line.complete, here, self._makers, _MOST_OPEN, share):
            task = asyncio.ensure_future(self._fetch_open(number, opened[number]))
            self._making[number], self._makers[number] = task, makers[number]
            task.add_done_callback(partial(self._made, number))

    def _passed_over(self) -> set[int]:
        """What failed, or was given up."""
        return self._given_up | {version_number(version) or 0 for version in self._failed}

    def _made(self, number: int, task: asyncio.Task[None]) -> None:
        del self._making[number], self._makers[number]
        if not task.cancelled() and task.exception():
            log.error("fetching %s failed", version_name(number), exc_info=task.exception())
        self._following.tell()

    def _tell_of(self, offers: Offers) -> None:
        first = offers.lines[0]
        for line in offers.lines[1:]:
            self._tell(line.contradiction(first))
        mine = {one.version: one.digest for one in self.folders.listings}
        for one in first.listings:
            if mine.get(one.version, one.digest) != one.digest:
                self._tell(
                    f"{one.version} here is not the {one.version} of {first.servers[0]}, and stays; "
                    "an origin that begins anew needs --first-version"
                )
        for url, failure in offers.failures.items():
            log.debug("upstream %s: %s", url, failure)

    def _tell(self, message: str) -> None:
        """Warn once."""
        if message not in self._told:
            self._told.add(message)
            log.warning("%s", message)

    async def _fetch(self, listing: Listing, peers: Sequence[Peer]) -> None:
        failure: ShardcastError | OSError = TransferFailed(f"no server says what {listing.version} is")
        try:
            async for described in describe(listing, peers):
                try:
                    await self._receive(listing, described)
                    return
                except NoRoom as error:
                    await self._pass_over(listing.number, error)
                    return
                except (IntegrityError, TransferFailed) as error:  # what another server says may be right
                    failure = error
                    if isinstance(error, IntegrityError):
                        await self.folders.discard(listing.number)
        except (ShardcastError, OSError) as error:
            failure = error
        self._failed[listing.version] = str(failure)
        log.error("%s is tried again later: %s", listing.version, failure)

    async def _pass_over(self, number: int, error: NoRoom) -> None:
        """Do without a version until there is room for it."""
        await self.folders.discard(number)
        self._failed[version_name(number)] = str(error)
        self._no_room.add(number)
        self._tell(str(error))

    async def _fetch_open(self, number: int, peers: list[Peer]) -> None:
        """Fetch a version while it is being made."""
        version = version_name(number)
        opened = self.folders.opened(number) or await self.folders.begin(number, LiveManifest(version))
        live = opened.live
        live.resume()

        async def take(lines: bytes) -> None:
            await asyncio.to_thread(opened.grow, lines)

        reading = asyncio.ensure_future(read_live(live, peers, take))
        try:
            try:
                await asyncio.wait_for(live.first_line(), HTTP_TIMEOUT)
            except asyncio.TimeoutError:
                raise TransferFailed(f"{version} is open, but no server says what it is") from None
            await self._carry_out(Transfer(live, peers, opened), peers, self.place()[1] or 0)
        except NoRoom as error:
            await self._pass_over(number, error)
        except (VersionAborted, IntegrityError) as error:
            if isinstance(error, VersionAborted):
                self._given_up.add(number)
            await self.folders.discard(number)
            log.error("%s: %s", version, error)
            self._failed[version] = str(error)
        except (ShardcastError, OSError) as error:
            live.fail(error if isinstance(error, ShardcastError) else TransferFailed(str(error)))
            if not live.begun:  # whoever said that it is open has nothing of it
                await self.folders.discard(number)
            self._failed[version] = str(error)
            log.error("%s is tried again later: %s", version, error)
        finally:
            await end(reading)

    async def _receive(self, listing: Listing, described: Described) -> None:
        manifest = described.manifest
        number = version_number(manifest.version) or 0
        opened = self.folders.opened(number)
        if opened and opened.live.raw and manifest.raw.startswith(bytes(opened.live.raw)):
            if not opened.live.whole:
                await asyncio.to_thread(opened.grow, manifest.raw[len(opened.live.raw) :])
        else:
            self.folders.room.check(number, manifest.size)
            listed = next(name for name, digest in manifest.digests.items() if digest == listing.digest)
            opened = await self.folders.begin(number, LiveManifest.of(manifest), listed)
        await self.folders.room.claim(number, manifest.size)
        self._no_room.discard(number)
        survey = not manifest.verifiable
        transfer = Transfer(opened.live, described.peers, opened, described.digits, survey=survey)
        await self._carry_out(transfer, None if survey else list(described.peers))

    async def _carry_out(
        self, transfer: Transfer, peers: list[Peer] | None, nearer_than: int | None = None
    ) -> None:
        """Fetch a version from ``peers``, and from those that have it later; None where only from some."""
        started, version = time.monotonic(), transfer.manifest.version
        header, servers = transfer.manifest.header, format_count(len(transfer.progress.servers), "server")
        size = "being made" if header.size is None else format_size(header.size)
        log.info("fetching %s (%s) from %s", version, size, servers)
        self._transfers.append(transfer)
        try:
            async with contextlib.AsyncExitStack() as stack:
                if peers is not None:
                    number = version_number(version) or 0
                    joining = self._following.join(number, peers, transfer.join, nearer_than)
                    await stack.enter_async_context(beside(joining))
                manifest = await transfer.run()
        finally:
            self._transfers.remove(transfer)
        rate = manifest.size / max(time.monotonic() - started, 1e-3)
        log.info("%s is complete: %s at %s", version, format_size(manifest.size), format_rate(rate))
