"""The client: downloads versions into files."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from pathlib import Path

from shardcast.addresses import server_urls
from shardcast.concurrency import beside, staggered
from shardcast.constants import CHECK_INTERVAL, STALL_WHEN_OTHERS_CAN
from shardcast.errors import PeerError, UsageError
from shardcast.nodes.download import Destination, Downloads, Watch
from shardcast.nodes.follow import Follow, FollowOptions
from shardcast.nodes.followed_folder import FollowedFolder, OnWithdrawn
from shardcast.nodes.output_names import output_name
from shardcast.nodes.release import Offered as Offered
from shardcast.nodes.release import Release as Release
from shardcast.peer.server import Peer
from shardcast.peer.session import open_session
from shardcast.policy.standing import Standing
from shardcast.protocol.distribution import Listing, is_version
from shardcast.protocol.manifest import Header
from shardcast.protocol.manifest_reader import MAX_MEMORY
from shardcast.protocol.report import Node, newest
from shardcast.transfer.limits import Limits
from shardcast.upstream.follow import Following
from shardcast.upstream.lease import Lease
from shardcast.upstream.lists import LATEST as LATEST
from shardcast.upstream.lists import find, first_news
from shardcast.upstream.manifests import check_manifest
from shardcast.upstream.report import report
from shardcast.waits import Waits

log = logging.getLogger(__name__)

_DESCRIBED_AT_ONCE = 16
"""Versions that are described at once in a list; together they may take what one transfer may."""


class Client:
    """Downloads versions from servers (addresses as people write them)::

    async with Client(["10.0.0.1", "10.0.0.2:9000"]) as client:
        release = await client.download("latest", Path("model.bin"))

    Attributes:
        servers: their base URLs.
        output_dir: where outputs go that have no other place.
        waits: what it waits for now.
    """

    def __init__(
        self,
        servers: Sequence[str],
        output_dir: Path | str = "./downloads",
        limits: Limits | None = None,
        *,
        origin_id: str | None = None,
    ) -> None:
        """``origin_id``: the only line of versions to accept.

        Raises:
            UsageError: one of the servers is not an address, or there is none.
        """
        self.servers = server_urls(servers)
        self.output_dir = Path(output_dir)
        self._limits = limits or Limits()
        self._stack = AsyncExitStack()
        self.waits = Waits()
        self._downloads = Downloads({}, self._limits, waits=self.waits)
        self._origin_id = origin_id
        self._node_id, self._name = secrets.token_hex(8), f"{socket.gethostname()} {os.getpid()}"

    async def __aenter__(self) -> Client:
        session = await self._stack.enter_async_context(open_session(self._limits.timeout))
        peers = {url: Peer(url, session, self._limits.timeout) for url in self.servers}
        self._downloads = Downloads(peers, self._limits, waits=self.waits)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def listings(self) -> tuple[Listing, ...]:
        """The versions on offer, oldest first.

        Raises:
            NoServerReachable: no server answered.
        """
        async with self._looking() as (_, standing):
            return tuple(one for _, one in sorted(standing.listed.items()))

    async def offered(self) -> list[Offered]:
        """The versions on offer, oldest first, with what their manifests' headers say.

        Raises:
            NoServerReachable: no server answered.
        """
        async with self._looking() as (_, standing):
            at_once = asyncio.Semaphore(_DESCRIBED_AT_ONCE)

            async def describe(listing: Listing) -> Offered:
                async with at_once:
                    return await described(listing)

            async def described(listing: Listing) -> Offered:
                servers = standing.group.complete.get(listing.number, ())
                first = [url for url in servers if url == standing.speaker]
                works = [
                    partial(self._header, url, listing, standing.origin, trusted=url in first)
                    for url in (*first, *(url for url in servers if url not in first))
                ]
                async with aclosing(staggered(works, STALL_WHEN_OTHERS_CAN)) as asked:
                    async for asking in asked:
                        try:
                            header = asking.result() if asking else None
                        except PeerError as error:
                            log.debug("%s", error)
                            continue
                        if header:
                            return Offered(listing, header)
                return Offered(listing, None)

            with self.waits.waiting(lambda: f"manifests from {', '.join(standing.group.servers)}"):
                versions = sorted(standing.listed.items())
                return list(await asyncio.gather(*(describe(one) for _, one in versions)))

    async def _header(self, url: str, listing: Listing, origin: str | None, trusted: bool) -> Header | None:
        """Return what a server's manifest says of a version: its first line from the server that decides,
        else the whole manifest, whose digest that one told."""
        peer = self._downloads.peers[url]
        if trusted or listing.manifest is None:
            return await peer.header(listing.version)
        manifest = await peer.manifest(listing.version, MAX_MEMORY // _DESCRIBED_AT_ONCE)
        if manifest is None:
            return None
        check_manifest(listing, manifest, peer, origin)
        return manifest.header

    async def download(
        self,
        version: str = LATEST,
        output_file: Path | str | None = None,
        watch: Watch | None = None,
    ) -> Release:
        """Download a version into a file, by default ``<output_dir>/download_<version>.bin``, which has
        its name only when every byte is right. What an earlier, interrupted run left is used.

        ``watch`` is given the transfer, whose ``progress`` tells how far it is.

        Raises:
            UsageError: that is no version's name.
            VersionNotOffered: no server offers it.
            VersionWithdrawn: its publisher took it back, perhaps while it was downloaded.
            NoServerReachable: no server could be reached for as long as it was worth trying.
            TransferFailed: the servers answered, but not with its shards.
            IntegrityError: what they sent is not what its digest says.
            LocalDiskError: the file can't be written.
        """
        if version != LATEST and not is_version(version):
            raise UsageError(f"{version!r} is not a version; write v1, v2, … or {LATEST}")
        async with self._looking() as (following, standing):
            found = find(standing, version)
            listing = found.listing
            default = self.output_dir / output_name(listing.version)
            output = Path(default if output_file is None else output_file)
            if output_file is not None and str(output_file).endswith("/"):
                output = output / default.name
            peers = [self._downloads.peers[url] for url in found.servers]
            listed = listing.number in standing.listed
            return await self._downloads.fetch(
                listing, peers, Destination(output, watch), following, origin=found.origin, listed=listed
            )

    async def follow(
        self,
        first: str = LATEST,
        every: bool = False,
        check_interval: float = CHECK_INTERVAL,
        watch: Watch | None = None,
        *,
        resume: bool = False,
        on_withdrawn: OnWithdrawn | None = None,
    ) -> AsyncGenerator[Release, None]:
        """Download each new version from ``first`` on into ``<output_dir>/download_<version>.bin``, as soon
        as it is on offer. One that is under way is finished first; where several came meanwhile, the newest
        is next (with ``every``, the oldest that was not downloaded yet, so that none is left out; a relay may
        have a later one first). ``latest`` is the newest that can be had now.

        What fails is logged, passed over, and tried again when nothing else is to be had, every
        ``check_interval`` seconds; as often servers without a feed are asked. A version of which nothing
        comes is left when another server has another one.

        The servers' line of versions may change, when a publisher begins anew: then the newest version of
        the other line is next (``Release.new_line``). With ``resume`` it goes on where the last run into this
        folder ended with the line that is offered now. ``on_withdrawn`` is called once for each version that
        its publisher took back and that is here or was, also while the caller works on a release; a coroutine
        is waited for.

        Raises:
            UsageError: ``first`` is no version's name.
            LocalDiskError: a file can't be written.
        """
        if first != LATEST and not is_version(first):
            raise UsageError(f"{first!r} is not a version; write v1, v2, … or {LATEST}")
        begin = None if first == LATEST else int(first[1:])
        folder = self.output_dir.absolute()
        followed = await FollowedFolder.of(folder, on_withdrawn)
        options = FollowOptions(begin, every, check_interval, watch, resume, self._origin_id)
        follow = Follow(self._downloads, followed, options)
        await follow.remember()
        releases = follow.releases()
        async with (
            follow.following,
            self._watching(follow.following),
            beside(report(follow.following, partial(self._describe, follow))),
            beside(follow.watch_withdrawals()),
            aclosing(releases),
        ):
            async for release in releases:
                yield release

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
        return Lease(version, list(self._downloads.peers.values()), self._name)

    def _describe(self, follow: Follow) -> Node:
        """This client, for reports."""
        coming = {one.manifest.version: one.progress.done for one in self._downloads.under_way}
        has = newest(follow.here())
        return Node(self._node_id, "client", self._name, has, coming, origin=follow.origin)

    @asynccontextmanager
    async def _watching(self, following: Following) -> AsyncIterator[None]:
        """Count it as a wait when no server tells anything."""
        with self.waits.watching(lambda: following.wait):
            yield

    @asynccontextmanager
    async def _looking(self) -> AsyncIterator[tuple[Following, Standing]]:
        """The servers, followed for one question, and what to believe once they answered."""
        peers = list(self._downloads.peers.values())
        following = Following(
            peers, CHECK_INTERVAL, accepted=self._origin_id, first_line=STALL_WHEN_OTHERS_CAN
        )
        async with following:
            with self.waits.watching(lambda: following.wait):
                standing = await first_news(following, self._limits.unreachable_at_start)
            for one in following.followers:
                if not one.told:
                    log.warning("not used: %s", one.failure or f"{one.peer.url}: no answer yet")
            yield following, standing
