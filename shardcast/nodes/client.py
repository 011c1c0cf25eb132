"""The client: downloads versions into files."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from shardcast.addresses import server_urls
from shardcast.constants import CHECK_INTERVAL
from shardcast.distribution import Listing, is_version
from shardcast.errors import (
    IntegrityError,
    LocalDiskError,
    PeerError,
    ShardcastError,
    TransferFailed,
    UsageError,
    VersionAborted,
)
from shardcast.manifest import FILE, Header, Manifest
from shardcast.nodes.announcing import output_name, versions_in
from shardcast.nodes.leaving import NothingComes, known, unless
from shardcast.peer.peer import Peer
from shardcast.peer.session import open_session
from shardcast.policy.due import Agenda
from shardcast.policy.lines import Line
from shardcast.report import Node, newest
from shardcast.store.live import LiveManifest
from shardcast.store.output import OutputFile
from shardcast.store.tasks import beside, cancel
from shardcast.transfer.following import Following
from shardcast.transfer.leasing import Lease
from shardcast.transfer.limits import Limits
from shardcast.transfer.manifests import describe, read_live
from shardcast.transfer.offers import LATEST as LATEST
from shardcast.transfer.offers import find, read_offers
from shardcast.transfer.reporting import report
from shardcast.transfer.transfer import Transfer
from shardcast.wire import version_name, version_number

log = logging.getLogger(__name__)

_MOST_ORIGINS = 1000
"""Versions received whose origin ids are remembered."""


@dataclass(frozen=True, slots=True)
class Offered:
    """A version that the servers offer.

    Attributes:
        listing: its line in the distribution list.
        header: what its manifest says of it; None where no server has one.
    """

    listing: Listing
    header: Header | None


@dataclass(frozen=True, slots=True)
class Release:
    """A version that was downloaded and verified.

    Attributes:
        version: its name.
        path: the file.
        manifest: what it is.
        seconds: how long it took.
        received: bytes that came from each server.
    """

    version: str
    path: Path
    manifest: Manifest
    seconds: float
    received: dict[str, int]

    @property
    def number(self) -> int:
        """3 for ``v3``."""
        return version_number(self.version) or 0


class Client:
    """Downloads versions from servers (addresses as people write them)::

    async with Client(["10.0.0.1", "10.0.0.2:9000"]) as client:
        release = await client.download("latest", Path("model.bin"))
    """

    def __init__(
        self, servers: Sequence[str], output_dir: Path | str = "./downloads", limits: Limits | None = None
    ) -> None:
        """
        Raises:
            UsageError: one of the servers is not an address, or there is none.
        """
        self.servers = server_urls(servers)
        self.output_dir = Path(output_dir)
        self._limits = limits or Limits()
        self._stack = AsyncExitStack()
        self._peers: dict[str, Peer] = {}
        self._node_id, self._name = secrets.token_hex(8), f"{socket.gethostname()} {os.getpid()}"
        self._transfers: list[Transfer] = []
        self._origins: dict[str, str | None] = {}  # origin ids of the versions received, the newest last

    async def __aenter__(self) -> Client:
        session = await self._stack.enter_async_context(open_session(self._limits.timeout))
        self._peers = {url: Peer(url, session, self._limits.timeout) for url in self.servers}
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def listings(self) -> tuple[Listing, ...]:
        """The versions on offer, oldest first.

        Raises:
            NoServerReachable: no server answered.
        """
        return (await self._lines())[0].listings

    async def offered(self) -> list[Offered]:
        """The versions on offer, oldest first, with what their manifests' headers say.

        Raises:
            NoServerReachable: no server answered.
        """
        line = (await self._lines())[0]

        async def header(listing: Listing) -> Offered:
            for url in line.offers[listing.version]:
                try:
                    found = await self._peers[url].header(listing.version)
                except PeerError as error:
                    log.debug("%s", error)
                    continue
                if found:
                    return Offered(listing, found)
            return Offered(listing, None)

        return list(await asyncio.gather(*(header(listing) for listing in line.listings)))

    async def download(
        self,
        version: str = LATEST,
        output_file: Path | str | None = None,
        watch: Callable[[Transfer], None] | None = None,
    ) -> Release:
        """Download a version into a file, by default ``<output_dir>/download_<version>.bin``, which has
        its name only when every byte is right. What an earlier, interrupted run left is used.

        ``watch`` is given the transfer, whose ``progress`` tells how far it is.

        Raises:
            UsageError: that is no version's name.
            VersionNotOffered: no server offers it.
            NoServerReachable: no server could be reached for as long as it was worth trying.
            TransferFailed: the servers answered, but not with its shards.
            IntegrityError: what they sent is not what its digest says.
            LocalDiskError: the file can't be written.
        """
        if version != LATEST and not is_version(version):
            raise UsageError(f"{version!r} is not a version; write v1, v2, … or {LATEST}")
        line, listing = find(await self._lines(), version)
        default = self._output(listing.version)
        output = Path(default if output_file is None else output_file)
        if output_file is not None and str(output_file).endswith("/"):
            output = output / default.name
        return await self._fetch(line, listing, output, watch)

    async def _fetch(
        self,
        line: Line,
        listing: Listing,
        output: Path,
        watch: Callable[[Transfer], None] | None,
        following: Following | None = None,
    ) -> Release:
        peers = [self._peers[url] for url in line.offers[listing.version]]
        failure: ShardcastError = TransferFailed(f"no server says what {listing.version} is")
        async for described in describe(listing, peers):
            _check_kind(described.manifest.header)
            live = LiveManifest.of(described.manifest)
            try:
                return await self._receive(
                    live,
                    list(described.peers),
                    output.absolute(),
                    watch,
                    described.digits,
                    following if described.manifest.verifiable else None,
                )
            except (IntegrityError, TransferFailed) as error:  # what another server says may be right
                failure = error if not isinstance(failure, IntegrityError) else failure
        raise failure

    async def follow(
        self,
        first: str = LATEST,
        every: bool = False,
        check_interval: float = CHECK_INTERVAL,
        watch: Callable[[Transfer], None] | None = None,
    ) -> AsyncGenerator[Release, None]:
        """Download each new version from ``first`` on into ``<output_dir>/download_<version>.bin``, as soon
        as it is on offer. One that is under way is finished first; where several came meanwhile, the newest
        is next (with ``every``, the oldest that was not downloaded yet, so that none is left out; a relay may
        have a later one first). ``latest`` is the newest that can be had now.

        What fails is logged, passed over, and tried again when nothing else is to be had, every
        ``check_interval`` seconds; as often servers without a feed are asked. A version of which nothing
        comes is left when another server has another one.

        Raises:
            UsageError: ``first`` is no version's name.
            LocalDiskError: a file can't be written.
        """
        if first != LATEST and not is_version(first):
            raise UsageError(f"{first!r} is not a version; write v1, v2, … or {LATEST}")
        agenda = Agenda(None if first == LATEST else int(first[1:]) - 1, every)
        told = ""
        loop = asyncio.get_running_loop()
        again_at = loop.time() + check_interval
        async with (
            Following(list(self._peers.values()), check_interval) as following,
            beside(report(following, self._describe)),
        ):
            await following.settled()
            while True:
                seen, number = following.changes, None
                try:
                    lines, complete, opened = known(following)
                    number = agenda.next(complete, opened)
                    if number is not None:
                        release = await self._fetch_next(number, agenda, lines, following, watch)
                        told = ""
                        agenda.had(number)
                        yield release
                        continue
                except LocalDiskError:
                    raise
                except ShardcastError as error:
                    if str(error) != told:
                        told = str(error)
                        again = "" if isinstance(error, VersionAborted) else "; it is tried again"
                        log.warning("%s%s", told, again)
                    if number is not None:
                        continue  # another version may be right
                    agenda.try_again()
                try:
                    await asyncio.wait_for(following.change(seen), again_at - loop.time())
                except asyncio.TimeoutError:
                    again_at = loop.time() + check_interval
                    agenda.try_again()

    def lease(self, version: str) -> Lease:
        """Hold a version at the servers while the block runs, however many newer ones there are::

            async with client.lease("v3"):
                release = await client.download("v3")

        Entering raises ``VersionNotOffered`` when no server holds it. Its ``servers`` are those that do.

        Raises:
            UsageError: that is no version's name.
        """
        if not is_version(version):
            raise UsageError(f"{version!r} is not a version; write v1, v2, …")
        return Lease(version, list(self._peers.values()), self._name)

    def _describe(self) -> Node:
        """This client, for reports."""
        coming = {one.manifest.version: one.progress.done for one in self._transfers}
        has, origin = versions_in(self.output_dir), next(reversed(self._origins.values()), None)
        if origin is not None:  # files of earlier runs may be another origin's
            has = [version for version in has if self._origins.get(version) == origin]
        return Node(self._node_id, "client", self._name, newest(has), coming, origin=origin)

    async def _fetch_next(
        self,
        number: int,
        agenda: Agenda,
        lines: Sequence[Line],
        following: Following,
        watch: Callable[[Transfer], None] | None,
    ) -> Release:
        """Download what is next on the agenda, and note there when it fails."""
        version, transfers = version_name(number), list[Transfer]()

        def watching(transfer: Transfer) -> None:
            transfers.append(transfer)
            if watch:
                watch(transfer)

        def leave() -> bool:
            with contextlib.suppress(ShardcastError):  # nobody tells anything just now
                _, complete, opened = known(following)
                comes = any(one.progress.done for one in transfers)
                return not comes and agenda.next_elsewhere(complete, opened, servers) is not None
            return False

        offered = any(one.number == number for one in lines[0].listings)
        if offered:
            line, listing = find(lines, version)
            servers: Sequence[str] = line.offers[version]
            fetching = self._fetch(line, listing, self._output(version), watching, following)
        else:
            peers = following.opened(lines[0])[number]
            servers = [peer.url for peer in peers]
            fetching = self._fetch_open(version, peers, watching, following)
        try:
            return await unless(leave, fetching, following, version)
        except ShardcastError as error:
            if not isinstance(error, VersionAborted):
                agenda.doubt(servers)
            if not isinstance(error, NothingComes):
                agenda.failed(number, offered)
            raise

    async def _fetch_open(
        self,
        version: str,
        peers: list[Peer],
        watch: Callable[[Transfer], None] | None,
        following: Following,
    ) -> Release:
        """Download a version while it is being made."""
        live = LiveManifest(version)

        async def take(lines: bytes) -> None:
            live.add(lines)

        reading = asyncio.ensure_future(read_live(live, peers, take))
        try:
            try:
                header = await asyncio.wait_for(live.first_line(), self._limits.timeout)
            except asyncio.TimeoutError:
                raise TransferFailed(f"{version} is open, but no server says what it is") from None
            _check_kind(header)
            output = self._output(version).absolute()
            return await self._receive(live, peers, output, watch, following=following)
        finally:
            await cancel([reading])

    def _output(self, version: str) -> Path:
        return self.output_dir / output_name(version)

    async def _lines(self) -> tuple[Line, ...]:
        offers = await read_offers(list(self._peers.values()), self._limits.unreachable_at_start)
        for failure in offers.failures.values():
            log.warning("not used: %s", failure)
        return offers.lines

    async def _receive(
        self,
        live: LiveManifest,
        peers: list[Peer],
        output: Path,
        watch: Callable[[Transfer], None] | None,
        digits: int = 3,
        following: Following | None = None,
    ) -> Release:
        """Download from ``peers``, and from those that ``following`` finds meanwhile."""
        started = time.monotonic()
        filling = await asyncio.to_thread(OutputFile, output, live)
        try:
            transfer = Transfer(live, peers, filling, digits, limits=self._limits)
            self._transfers.append(transfer)
            if watch:
                watch(transfer)
            try:
                async with AsyncExitStack() as stack:
                    if following:
                        number = version_number(live.version) or 0
                        joining = following.join(number, peers, transfer.join)
                        await stack.enter_async_context(beside(joining))
                    manifest = await transfer.run()
            finally:
                self._transfers.remove(transfer)
        except VersionAborted:
            await asyncio.to_thread(filling.discard)
            raise
        finally:
            await asyncio.to_thread(filling.close)
        self._origins.pop(manifest.version, None)
        self._origins[manifest.version] = manifest.header.origin
        if len(self._origins) > _MOST_ORIGINS:
            del self._origins[next(iter(self._origins))]
        received = {url: one.received for url, one in transfer.progress.servers.items()}
        return Release(manifest.version, output, manifest, time.monotonic() - started, received)


def _check_kind(header: Header) -> None:
    if header.kind != FILE:
        raise TransferFailed(
            f"{header.version} is a {header.kind}, which this shardcast can't receive; update it"
        )
