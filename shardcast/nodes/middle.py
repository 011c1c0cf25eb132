"""The middle: keeps what its upstreams offer, and serves it."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from shardcast.constants import CHECK_INTERVAL, HTTP_PORT, MAX_DISTRIBUTION_FOLDERS
from shardcast.distribution import Listing
from shardcast.errors import IntegrityError, NoServerReachable, ShardcastError, TransferFailed
from shardcast.nodes.adopting import adopt
from shardcast.nodes.origin import end, holding
from shardcast.nodes.status import describe_versions
from shardcast.peer.peer import Peer
from shardcast.peer.session import open_session
from shardcast.policy.retention import wanted
from shardcast.server.doors.feed import add_feed
from shardcast.server.doors.health import add_health
from shardcast.server.doors.versions import add_versions
from shardcast.server.listening import application, listening
from shardcast.sizes import format_count, format_rate, format_size
from shardcast.store.versions import VersionFolders
from shardcast.transfer.following import Following
from shardcast.transfer.manifests import Described, describe
from shardcast.transfer.offers import Offers
from shardcast.transfer.transfer import Transfer
from shardcast.wire import version_name, version_number

log = logging.getLogger(__name__)


class Middle:
    """A middle that runs.

    Attributes:
        url: where it listens.
        folders: what it keeps and serves.
    """

    def __init__(self, node_id: str, folders: VersionFolders, peers: Sequence[Peer], interval: float) -> None:
        self.url = ""
        self.folders = folders
        self._node_id = node_id
        self._peers = {peer.url: peer for peer in peers}
        self._following = Following(peers, interval)
        self._interval = interval
        self._failed: dict[str, str] = {}  # versions that could not be had at this look, and why
        self._told: set[str] = set()
        self._transfer: Transfer | None = None

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
    ) -> AsyncIterator[Middle]:
        """Run a middle that follows its upstreams (base URLs). One that has no feed it asks every
        ``check_interval`` seconds, and as often it tries again what failed.

        Raises:
            DataDirInUse: another process holds the data directory.
            LocalDiskError: it can't be used.
            NodeFailed: the address can't be bound.
        """
        async with AsyncExitStack() as stack:
            folders = await stack.enter_async_context(holding(data_dir, "middle", keep, resume=True))
            session = await stack.enter_async_context(open_session())
            node_id = secrets.token_hex(8)
            middle = cls(node_id, folders, [Peer(url, session) for url in upstreams], check_interval)
            doors = (
                partial(add_versions, shelf=folders),
                partial(add_feed, shelf=folders, node_id=node_id, place=middle.place),
                partial(add_health, status=middle.status),
            )
            middle.url = await stack.enter_async_context(listening(application(node_id, *doors), host, port))
            working = asyncio.ensure_future(middle._work())
            stack.push_async_callback(end, working)
            yield middle

    def status(self) -> dict[str, Any]:
        """Its state, for ``/status``."""
        progress = self._transfer.progress if self._transfer else None
        heard = [one.heard_at for one in self._following.followers if one.heard_at is not None]
        age = round(time.monotonic() - max(heard), 1) if heard else None
        return {
            "role": "middle",
            "node": self._node_id,
            "upstreams": list(self._peers),
            "seconds_since_contact": age,
            "versions": describe_versions(self.folders),
            "transfer": progress
            and {
                "version": self._transfer and self._transfer.manifest.version,
                "size": progress.size,
                "done": progress.done,
                "servers": {url: {"rate": round(one.rate)} for url, one in progress.servers.items()},
            },
        }

    def place(self) -> tuple[str | None, int | None]:
        """The origin id of its versions, and how many hops away that origin is, as far as is known."""
        followers = [one for one in self._following.followers if one.listings is not None]
        hellos = [one.hello for one in followers if one.hello and one.hello.distance is not None]
        nearest = min(hellos, key=lambda one: one.distance or 0, default=None)
        return (nearest.origin, (nearest.distance or 0) + 1) if nearest else (None, None)

    async def _work(self) -> None:
        """Fetch what the upstreams offer, for as long as it runs."""
        async with self._following as following:
            await following.settled()
            tried = time.monotonic()
            while True:
                seen = following.changes
                try:
                    await adopt(self.folders, list(self.folders.untrusted))
                    while await self._look():
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
        here = self.folders.complete_numbers
        numbers = {one.number: one for one in line.listings}
        window = wanted(numbers, here, self.folders.open_numbers, self.folders.keep)
        for number in self.folders.open_numbers - set(window):
            if number in numbers or number < max({*numbers, *here}, default=0) - self.folders.keep:
                await self.folders.discard(number)
        for number in window:
            if version_name(number) in self._failed or number not in numbers:
                continue
            listing = numbers[number]
            await self._fetch(listing, [self._peers[url] for url in line.offers[listing.version]])
            return True
        return False

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
                except (IntegrityError, TransferFailed) as error:  # what another server says may be right
                    failure = error
                    if isinstance(error, IntegrityError):
                        await self.folders.discard(listing.number)
        except (ShardcastError, OSError) as error:
            failure = error
        self._failed[listing.version] = str(failure)
        log.error("%s is tried again later: %s", listing.version, failure)

    async def _receive(self, listing: Listing, described: Described) -> None:
        manifest = described.manifest
        number = version_number(manifest.version) or 0
        opened = self.folders.opened(number)
        if opened is None or opened.manifest is None or opened.manifest.raw != manifest.raw:
            listed = next(name for name, digest in manifest.digests.items() if digest == listing.digest)
            opened = await self.folders.begin(number, manifest, listed)
        started = time.monotonic()
        peers, verifiable = described.peers, manifest.verifiable
        servers = format_count(len(peers), "server")
        log.info("fetching %s (%s) from %s", manifest.version, format_size(manifest.size), servers)
        self._transfer = Transfer(manifest, peers, opened, described.digits, survey=not verifiable)
        try:
            await self._transfer.run()
        finally:
            self._transfer = None
        rate = manifest.size / max(time.monotonic() - started, 1e-3)
        log.info("%s is complete: %s at %s", manifest.version, format_size(manifest.size), format_rate(rate))
