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
from shardcast.server.doors.health import add_health
from shardcast.server.doors.versions import add_versions
from shardcast.server.listening import application, listening
from shardcast.sizes import format_count, format_rate, format_size
from shardcast.store.versions import VersionFolders
from shardcast.transfer.manifests import Described, describe
from shardcast.transfer.offers import Offers, read_offers
from shardcast.transfer.transfer import Transfer
from shardcast.wire import version_name, version_number

log = logging.getLogger(__name__)

_PATIENCE = 2.0
"""Seconds for which one look tries an upstream that can't be reached; the next look tries again."""


class Middle:
    """A middle that runs.

    Attributes:
        url: where it listens.
        folders: what it keeps and serves.
    """

    def __init__(self, url: str, node_id: str, folders: VersionFolders, peers: Sequence[Peer]) -> None:
        self.url = url
        self.folders = folders
        self._node_id = node_id
        self._peers = list(peers)
        self._failed: dict[str, str] = {}  # versions that could not be had at this look, and why
        self._told: set[str] = set()
        self._transfer: Transfer | None = None
        self._last_contact: float | None = None

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
        """Run a middle that looks at its upstreams (base URLs) every ``check_interval`` seconds.

        Raises:
            DataDirInUse: another process holds the data directory.
            LocalDiskError: it can't be used.
            NodeFailed: the address can't be bound.
        """
        async with AsyncExitStack() as stack:
            folders = await stack.enter_async_context(holding(data_dir, "middle", keep, resume=True))
            session = await stack.enter_async_context(open_session())
            node_id = secrets.token_hex(8)
            middle = cls("", node_id, folders, [Peer(url, session) for url in upstreams])
            doors = (partial(add_versions, shelf=folders), partial(add_health, status=middle.status))
            middle.url = await stack.enter_async_context(listening(application(node_id, *doors), host, port))
            following = asyncio.ensure_future(middle._follow(check_interval))
            stack.push_async_callback(end, following)
            yield middle

    def status(self) -> dict[str, Any]:
        """Its state, for ``/status``."""
        progress = self._transfer.progress if self._transfer else None
        age = None if self._last_contact is None else round(time.monotonic() - self._last_contact, 1)
        return {
            "role": "middle",
            "node": self._node_id,
            "upstreams": [peer.url for peer in self._peers],
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

    async def _follow(self, interval: float) -> None:
        while True:
            self._failed.clear()
            try:
                await adopt(self.folders, list(self.folders.untrusted))
                while await self._look():
                    pass
            except (NoServerReachable, TransferFailed) as error:
                self._tell(f"what is here is served on, and the upstreams are asked again: {error}")
            except ShardcastError as error:
                log.error("%s", error)
            except Exception:
                log.exception("a look at the upstreams failed")
            await asyncio.sleep(interval)

    async def _look(self) -> bool:
        """Read what the upstreams offer and fetch the first version that is wanted; False when none is."""
        offers = await read_offers([peer for peer in self._peers if not self._is_me(peer)], _PATIENCE)
        self._last_contact = time.monotonic()
        self._peers = [peer for peer in self._peers if not self._is_me(peer)]
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
            servers = line.offers[listing.version]
            await self._fetch(listing, [peer for peer in self._peers if peer.url in servers])
            return True
        return False

    def _is_me(self, peer: Peer) -> bool:
        if peer.node_id != self._node_id:
            return False
        log.warning("%s is this very middle, and is not asked", peer.url)
        return True

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
            opened = await asyncio.to_thread(self.folders.open, number, manifest, listed)
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
