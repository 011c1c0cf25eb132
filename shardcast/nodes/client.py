"""The client: downloads versions into files."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from shardcast.addresses import server_urls
from shardcast.distribution import Listing, is_version
from shardcast.errors import (
    IntegrityError,
    PeerError,
    ShardcastError,
    TransferFailed,
    UsageError,
    VersionNotOffered,
)
from shardcast.manifest import FILE, Header, Manifest
from shardcast.peer.peer import Peer
from shardcast.peer.session import open_session
from shardcast.policy.lines import Line
from shardcast.store.output import OutputFile
from shardcast.transfer.limits import Limits
from shardcast.transfer.manifests import Described, describe
from shardcast.transfer.offers import read_offers
from shardcast.transfer.transfer import Transfer

log = logging.getLogger(__name__)

LATEST = "latest"


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
        line, listing = _find(await self._lines(), version)
        default = self.output_dir / f"download_{listing.version}.bin"
        output = Path(default if output_file is None else output_file)
        if output_file is not None and str(output_file).endswith("/"):
            output = output / default.name
        peers = [self._peers[url] for url in line.offers[listing.version]]
        failure: ShardcastError = TransferFailed(f"no server says what {listing.version} is")
        async for described in describe(listing, peers):
            kind = described.manifest.header.kind
            if kind != FILE:
                raise TransferFailed(
                    f"{listing.version} is a {kind}, which this shardcast can't receive; update it"
                )
            try:
                return await self._receive(described, output.absolute(), watch)
            except (IntegrityError, TransferFailed) as error:  # what another server says may be right
                failure = error if not isinstance(failure, IntegrityError) else failure
        raise failure

    async def _lines(self) -> tuple[Line, ...]:
        offers = await read_offers(list(self._peers.values()), self._limits.unreachable_at_start)
        for failure in offers.failures.values():
            log.warning("not used: %s", failure)
        return offers.lines

    async def _receive(
        self,
        described: Described,
        output: Path,
        watch: Callable[[Transfer], None] | None,
    ) -> Release:
        started = time.monotonic()
        filling = await asyncio.to_thread(OutputFile, output, described.manifest)
        try:
            transfer = Transfer(
                described.manifest, described.peers, filling, described.digits, limits=self._limits
            )
            if watch:
                watch(transfer)
            manifest = await transfer.run()
        finally:
            await asyncio.to_thread(filling.close)
        received = {url: one.received for url, one in transfer.progress.servers.items()}
        return Release(manifest.version, output, manifest, time.monotonic() - started, received)


def _find(lines: Sequence[Line], version: str) -> tuple[Line, Listing]:
    """The first line that offers a version, and its listing."""
    for number, line in enumerate(lines):
        listing = line.listings[-1] if version == LATEST and line.listings else line.find(version)
        if listing:
            for other in lines:
                if other is not line:
                    log.warning("%s", other.contradiction(line))
            if number:
                log.warning("%s is offered by %s", version, ", ".join(line.servers))
            return line, listing
        if version == LATEST:
            break
    offered = ", ".join(one.version for line in lines for one in line.listings) or "nothing yet"
    servers = ", ".join(server for line in lines for server in line.servers)
    if version == LATEST:
        raise VersionNotOffered(f"{servers}: no version is offered yet")
    raise VersionNotOffered(f"{version} is not offered by {servers}; on offer: {offered}")
