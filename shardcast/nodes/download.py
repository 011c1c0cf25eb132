"""One version from its servers into a file, verified."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from shardcast.concurrency import beside, cancel
from shardcast.errors import (
    IntegrityError,
    ShardcastError,
    TransferFailed,
    VersionAborted,
    VersionWithdrawn,
)
from shardcast.nodes.followed import FollowedFolder
from shardcast.nodes.release import Release
from shardcast.peer.server import Peer
from shardcast.protocol.distribution import Listing
from shardcast.protocol.manifest import FILE, Header
from shardcast.protocol.wire import version_number
from shardcast.store.interfaces import Confirm
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.output_file import OutputFile
from shardcast.transfer.limits import Limits
from shardcast.transfer.workers import Transfer
from shardcast.upstream.abandon import Stop, if_withdrawn, unless
from shardcast.upstream.follow import Following
from shardcast.upstream.manifests import Described, describe, read_live
from shardcast.upstream.offers import join_servers
from shardcast.waits import Waits

Watch = Callable[[Transfer], None]
"""Given the transfer, whose ``progress`` tells how far it is."""


@dataclass
class Downloads:
    """The downloads of one client.

    Attributes:
        peers: its servers, by URL.
        limits: what a transfer may do.
        under_way: the transfers that run now.
        waits: what is waited for now.
    """

    peers: Mapping[str, Peer]
    limits: Limits
    under_way: list[Transfer] = field(default_factory=list)
    waits: Waits = field(default_factory=Waits)

    async def fetch(
        self,
        listing: Listing,
        peers: Sequence[Peer],
        output: Path,
        watch: Watch | None,
        following: Following,
        origin: str | None = None,
        followed: FollowedFolder | None = None,
        listed: bool = True,
    ) -> Release:
        """Download a complete version from ``peers``, and, where the line has it ``listed``, from those that
        ``following`` finds meanwhile. ``origin``: the origin id of its line, where that is known.
        ``followed``: the folder where the output is recorded.

        Raises:
            VersionWithdrawn: its publisher took it back meanwhile.
            TransferFailed: the servers answered, but not with its shards.
            IntegrityError: what they sent is not what its digest says.
            LocalDiskError: the file can't be written.
        """
        failure: ShardcastError = TransferFailed(f"no server says what {listing.version} is")
        described_by = describe(listing, peers, origin, patience=self.limits.unreachable_at_start)
        async for described in self._waited_for(listing.version, peers, described_by):
            _check_kind(described.manifest.header)
            live = LiveManifest.of(described.manifest)
            stop = if_withdrawn(following, listing.number, listing.digest)
            joins = listed and described.manifest.verifiable
            where, some = output.absolute(), list(described.peers)
            try:
                return await self._receive(
                    live, some, where, watch, following, stop, followed, described.digits, joins
                )
            except (IntegrityError, TransferFailed) as error:  # what another server says may be right
                failure = error if not isinstance(failure, IntegrityError) else failure
        raise failure

    async def fetch_open(
        self,
        version: str,
        peers: list[Peer],
        output: Path,
        watch: Watch | None,
        following: Following,
        followed: FollowedFolder,
    ) -> Release:
        """Download a version while it is being made.

        Raises:
            VersionAborted: its publisher gave it up.
            TransferFailed, IntegrityError, LocalDiskError: as for ``fetch``.
        """
        live = LiveManifest(version)

        async def take(lines: bytes) -> None:
            live.add(lines)

        reading = asyncio.ensure_future(read_live(live, peers, take))
        try:
            try:
                with self.waits.waiting(lambda: _what_it_is(version, peers)):
                    header = await asyncio.wait_for(live.first_line(), self.limits.timeout)
            except TimeoutError:
                raise TransferFailed(f"{version} is open, but no server says what it is") from None
            _check_kind(header)
            stop = if_withdrawn(following, version_number(version) or 0, None)
            return await self._receive(
                live, peers, output.absolute(), watch, following, stop, followed, confirm=following.confirm
            )
        finally:
            await cancel([reading])

    async def _waited_for(
        self, version: str, peers: Sequence[Peer], descriptions: AsyncIterator[Described]
    ) -> AsyncIterator[Described]:
        """Yield descriptions of a version, each counted as a wait until it is here."""
        while True:
            with self.waits.waiting(lambda: _what_it_is(version, peers)):
                described = await anext(descriptions, None)
            if described is None:
                return
            yield described

    async def _receive(
        self,
        live: LiveManifest,
        peers: list[Peer],
        output: Path,
        watch: Watch | None,
        following: Following,
        stop: Stop,
        followed: FollowedFolder | None,
        digits: int = 3,
        joins: bool = True,
        confirm: Confirm | None = None,
    ) -> Release:
        started = time.monotonic()
        filling = await asyncio.to_thread(OutputFile, output, live)
        filling.confirm = confirm
        try:
            transfer = Transfer(live, peers, filling, digits=digits, limits=self.limits)
            self.under_way.append(transfer)
            if watch:
                watch(transfer)
            try:
                async with AsyncExitStack() as stack:
                    if joins:
                        number = version_number(live.version) or 0
                        joining = join_servers(following, number, peers, transfer.join)
                        await stack.enter_async_context(beside(joining))
                    stack.enter_context(self.waits.watching(lambda: transfer.wait))
                    manifest = await unless(stop, transfer.run(), following)
            finally:
                self.under_way.remove(transfer)
        except (VersionAborted, VersionWithdrawn):
            await asyncio.to_thread(filling.discard)
            raise
        finally:
            await asyncio.to_thread(filling.close)
        received = {url: one.received for url, one in transfer.progress.servers.items()}
        release = Release(manifest.version, output, manifest, time.monotonic() - started, received)
        return await followed.received(release, filling.final) if followed else release


def _what_it_is(version: str, peers: Sequence[Peer]) -> str:
    return f"the manifest of {version} from {', '.join(peer.url for peer in peers)}"


def _check_kind(header: Header) -> None:
    if header.kind != FILE:
        raise TransferFailed(
            f"{header.version} is a {header.kind}, which this shardcast can't receive; update it"
        )
