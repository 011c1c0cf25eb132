"""The client: downloads versions into files, one or all new ones."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from shardcast.access.client_access import ClientAccess
from shardcast.addresses import server_urls
from shardcast.concurrency import background_task
from shardcast.constants import CHECK_INTERVAL
from shardcast.errors import NoServerReachable, UsageError
from shardcast.fair_limit import FairLimit
from shardcast.folders.options import FolderOptions
from shardcast.nodes.asked_servers import AskedServers
from shardcast.nodes.download import Destination, Downloads, Watch
from shardcast.nodes.follow import Follow, FollowSettings
from shardcast.nodes.followed_folder import FollowedFolder, OnWithdrawn
from shardcast.nodes.local_versions import check_offline, find_local, release_without_server
from shardcast.nodes.offers import describe_offers
from shardcast.nodes.output_template import OutputTemplate
from shardcast.nodes.progress_reports import ProgressReports, WatchedTransfer
from shardcast.nodes.release import Offered as Offered
from shardcast.nodes.release import Release as Release
from shardcast.nodes.release_folder import can_link, check_keep
from shardcast.nodes.tagged import version_text
from shardcast.peer.server import Peer
from shardcast.peer.session import open_session
from shardcast.progress import OnProgress
from shardcast.protocol.distribution import Listing, is_version
from shardcast.protocol.manifest import Manifest
from shardcast.protocol.report import Node, newest_reportable
from shardcast.transfer.limits import Limits
from shardcast.upstream.follow import Following
from shardcast.upstream.lease import Lease
from shardcast.upstream.lists import LATEST as LATEST
from shardcast.upstream.report import send_reports
from shardcast.waits import Waits

if TYPE_CHECKING:
    from shardcast.nodes.sharing_settings import SharingSettings

log = logging.getLogger(__name__)


class Client:
    """A downloader of versions from servers.

    ::

        async with Client(["10.0.0.1", "10.0.0.2:9000"]) as client:
            release = await client.download("latest", Path("model.bin"))

    Attributes:
        servers: their base URLs.
        output_dir: the folder of outputs without another place.
        waits: the present waits.
    """

    def __init__(
        self,
        servers: Sequence[str],
        output_dir: Path | str = "./downloads",
        limits: Limits | None = None,
        *,
        origin_id: str | None = None,
        access: ClientAccess | None = None,
        downloads: FairLimit | None = None,
        sharing: SharingSettings | None = None,
        folders: FolderOptions | None = None,
        output_name: str | None = None,
    ) -> None:
        """Make a client; entering the client connects it.

        Args:
            servers: addresses as people write them. The order decides which line of versions counts.
            output_dir: the folder for outputs without a path of their own.
            limits: bounds of a transfer; None for those of the environment.
            origin_id: the only line of versions to accept; None for any.
            access: to the servers; None for that of the environment (``SHARDCAST_TOKEN_FILE``,
                ``SHARDCAST_TOKEN``, ``SHARDCAST_REQUIRE_TLS``).
            downloads: limit of received bytes; None for no limit.
            sharing: how received pieces are passed on; None to share nothing.
            folders: how folders are received, and by which digests versions are verified.
            output_name: template of outputs' names below ``output_dir``, ``{version}/{name}``; None for the
                usual names (``nodes.output_template``).

        Raises:
            UsageError: one of the servers is not an address, or there is none; an address is not https where
                TLS is required; or the environment's token or ``output_name`` is malformed.
            LocalDiskError: the environment's token file can't be read.
        """
        self.servers = server_urls(servers)
        self._access = access or ClientAccess.from_environment()
        self._access.check_servers(self.servers)
        self.output_dir = Path(output_dir)
        self._limits = limits or Limits()
        self._stack = AsyncExitStack()
        self.waits = Waits()
        self._folders = folders or FolderOptions()
        self._downloads = Downloads({}, self._limits, waits=self.waits)
        self._origin_id = origin_id
        self._download_limit = downloads
        self._sharing = sharing
        self._template = None if output_name is None else OutputTemplate.parse(output_name)
        self._node_id, self._name = secrets.token_hex(8), f"{socket.gethostname()} {os.getpid()}"

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException:  # the port to share at is taken, for instance
            await self._stack.aclose()
            raise
        return self

    async def _open(self) -> None:
        """Open the session, and listen for neighbours where versions are shared."""
        session = await self._stack.enter_async_context(
            open_session(self._limits.timeout, self._access, downloads=self._download_limit)
        )
        peers = {url: Peer(url, session, self._limits.timeout) for url in self.servers}
        sharing = None
        if self._sharing:
            # Imported here, so that a client without sharing loads no server:
            from shardcast.nodes.sharing_listener import sharing_client

            listening = sharing_client(session, self._sharing, self.servers, self._limits.timeout)
            sharing = await self._stack.enter_async_context(listening)
        self._downloads = Downloads(
            peers, self._limits, waits=self.waits, sharing=sharing, folders=self._folders
        )

    @property
    def _asked(self) -> AskedServers:
        """The servers to ask."""
        return AskedServers(self._downloads, self._origin_id)

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def listings(self) -> tuple[Listing, ...]:
        """Return the versions on offer, oldest first.

        Raises:
            NoServerReachable: no server answered.
            AccessDenied: a server refused, and no other listed its versions.
            TransferFailed: servers answered, but none with its versions.
        """
        async with self._asked.looking() as (_, standing):
            return tuple(listing for _, listing in sorted(standing.listed.items()))

    async def offered(self) -> list[Offered]:
        """Return the versions on offer, oldest first, with the headers of their manifests.

        Raises:
            NoServerReachable: no server answered.
            AccessDenied: a server refused, and no other listed its versions.
            TransferFailed: servers answered, but none with its versions.
        """
        async with self._asked.looking() as (_, standing):
            with self.waits.waiting(lambda: f"manifests from {', '.join(standing.group.servers)}"):
                return await describe_offers(standing, self._downloads.peers)

    async def manifest(self, version: str | int = LATEST) -> Manifest:
        """Return the manifest of a version: shards and, for a folder, entries.

        Args:
            version: a name, a number, "latest", or a tag.

        Raises:
            UsageError: ``version`` is no version's name.
            VersionNotOffered, VersionWithdrawn, NoServerReachable, AccessDenied, TransferFailed: as for
                ``download``.
        """
        version = version_text(version)
        async with self._asked.looking() as (_, standing):
            found = await self._asked.find(version, standing)
            peers = [self._downloads.peers[url] for url in found.servers]
            return await self._downloads.describe(found.listing, peers, found.origin)

    async def download(
        self,
        version: str | int = LATEST,
        output_file: Path | str | None = None,
        watch: Watch | None = None,
        *,
        wait: float = 0.0,
        offline: bool = False,
        progress: OnProgress | bool | None = None,
    ) -> Release:
        """Download a version into a file; the name appears only when every byte is verified.

        Pieces left by an earlier, interrupted run are verified and used.

        Args:
            version: a name, a number, "latest", or a tag for the newest version with this tag.
            output_file: the file; a folder if it ends with "/". None for the client's ``output_name`` in
                ``output_dir``: by default ``download_<version>.bin``, or ``<version>`` for a folder.
            watch: called with each inner transfer at its beginning, for this package's own commands; programs
                use ``progress``.
            wait: seconds to wait for a version, and for a server, not there yet; ``math.inf`` to wait without
                limit.
            offline: whether to give a version verified here before, with a warning in the log, when no server
                answers within 2 s, or ``wait``. It counts while nothing touched its output since.
            progress: called in the event loop with a ``Progress``, ten times a second at most, and once at
                the end; a coroutine is awaited. Its exception cancels the download, and is raised here. True
                shows a bar on stderr.

        Raises:
            UsageError: ``version`` is no version's name, ``progress`` is neither a function nor True, or
                ``offline`` is combined with verifying whole outputs.
            VersionNotOffered: no server offers the version, ``wait`` seconds on.
            VersionWithdrawn: the publisher withdrew the version, perhaps during the download.
            NoServerReachable: no server could be reached for ``unreachable_at_start`` seconds, or ``wait``.
            AccessDenied: a server refused, and no other serves the version.
            TransferFailed: the servers answered, but not with the version's shards.
            IntegrityError: the servers' bytes don't have the version's digest.
            LocalDiskError: the file can't be written.
        """
        version = version_text(version)
        watched = WatchedTransfer(watch)
        reports = ProgressReports(progress, watched.progress)
        check_offline(offline, self._folders.verify)
        work = self._download(version, output_file, watched.begin, wait=wait, offline=offline)
        return await reports.beside(work, watched.finish)

    async def _download(
        self, version: str, output_file: Path | str | None, watch: Watch, *, wait: float, offline: bool
    ) -> Release:
        """Download a version; see ``download``."""
        destination = Destination(self.output_dir, watch=watch, template=self._template, keeps_record=offline)
        if output_file is not None and str(output_file).endswith("/"):
            destination = replace(destination, outputs=Path(output_file))
        elif output_file is not None:
            destination = replace(destination, named=Path(output_file), template=None)
        async with AsyncExitStack() as stack:
            try:
                looking = self._asked.looking(wait, bounded=offline)
                following, _ = await stack.enter_async_context(looking)
            except NoServerReachable as error:
                named = destination.named and destination.named.absolute()
                local = partial(find_local, destination.records, version, self._origin_id, named)
                return release_without_server(await asyncio.to_thread(local), version, error, offline=offline)
            found = await self._asked.wait_for(version, following, wait)
            listing, listed = found.listing, found.listing.number in following.standing().listed
            peers = [self._downloads.peers[url] for url in found.servers]
            await stack.enter_async_context(self._reporting(following))
            return await self._downloads.fetch(
                listing, peers, destination, following, origin=found.origin, listed=listed
            )

    async def follow(
        self,
        first: str | int = LATEST,
        every: bool = False,
        check_interval: float = CHECK_INTERVAL,
        watch: Watch | None = None,
        *,
        resume: bool = False,
        on_withdrawn: OnWithdrawn | None = None,
        keep: int | None = None,
        latest: bool = True,
        progress: OnProgress | bool | None = None,
    ) -> AsyncGenerator[Release, None]:
        """Download each new version into ``output_dir``, named as by ``download``, as soon as it is on offer.

        A version under way is finished first. A failed version is logged, passed over, and tried again when
        there is no other to fetch. A version without progress is abandoned when another server offers a
        different one. The servers' line of versions may change, when a publisher begins anew: then the newest
        version of the other line is next (``Release.new_line``).

        Args:
            first: the version to begin with; "latest" for the newest one on offer now.
            every: whether to leave out no version: the oldest one not downloaded yet is next (a relay may
                have a later one first). Else the newest is next, where several came meanwhile.
            check_interval: seconds until failed versions are tried again, and servers without a feed are
                asked again.
            watch: as for ``download``.
            resume: whether to go on where the last run into this folder ended with the line offered now.
            on_withdrawn: called once for each version withdrawn by the publisher that is or was in the
                folder, also while the caller works on a release; a coroutine is awaited.
            keep: number of followed versions of a line to leave in the folder, from the moment the caller is
                done with a release; None for all. Outputs made by other means stay.
            latest: whether a link ``latest`` in the folder names the newest yielded version.
            progress: as for ``download``, for each version; its exception ends the following.

        Yields:
            Each version once its file has its name.

        Raises:
            UsageError: ``first`` is no version's name, ``keep`` no number of versions, ``progress`` neither a
                function nor True, or the output name has neither ``{version}`` nor ``{number}``.
            LocalDiskError: a file can't be written.
        """
        first = version_text(first, tags=False)
        if self._template and not self._template.tells_versions_apart:
            raise UsageError(
                f"output name {self._template.text!r}: versions that are followed would replace each other; "
                "add {version} or {number}"
            )
        check_keep(keep)
        begin = None if first == LATEST else int(first[1:])
        folder = self.output_dir.absolute()
        links = latest and await asyncio.to_thread(can_link, folder)
        followed = await FollowedFolder.open(folder, on_withdrawn, links=links, keep=keep)
        watched = WatchedTransfer(watch)
        reports = ProgressReports(progress, watched.progress)
        settings = FollowSettings(
            begin, every, check_interval, watched.begin, resume, self._origin_id, self._template
        )
        follow = Follow(self._downloads, followed, settings)
        await follow.remember()
        releases = follow.releases()
        async with (
            follow.following,
            self._watching(follow),
            background_task(send_reports(follow.following, partial(self._describe, follow))),
            background_task(follow.watch_servers()),
            aclosing(releases),
        ):
            while True:
                yield await reports.beside(anext(releases), watched.finish)

    async def seed(self, seconds: float) -> None:
        """Go on sharing the downloaded versions, for some seconds at most.

        Returns:
            None, once the time has passed, or nothing is shared any more: the files were changed or removed.
        """
        sharing = self._downloads.sharing
        if sharing is None or seconds <= 0:
            return
        following = Following(list(self._downloads.peers.values()), CHECK_INTERVAL, accepted=self._origin_id)
        async with following, self._reporting(following):
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await sharing.wait_until_over()

    @property
    def is_sharing(self) -> bool:
        """Whether received versions are shared."""
        return self._sharing is not None

    @property
    def given(self) -> int:
        """Bytes given to neighbours in swarms until now; 0 for a client without sharing."""
        return self._downloads.sharing.given if self._downloads.sharing else 0

    def lease(self, version: str) -> Lease:
        """Return a lease; while entered, the lease holds a version at the servers.

        ::

            async with client.lease("v3"):
                release = await client.download("v3")

        Entering raises ``VersionNotOffered`` when no server holds the version, and ``AccessDenied`` when one
        refuses and no other holds it. The lease's ``servers`` are the holders.

        Raises:
            UsageError: ``version`` is no version's name.
        """
        if not is_version(version):
            raise UsageError(f"{version!r} is not a version; write v1, v2, …")
        return Lease(version, list(self._downloads.peers.values()), self._name)

    @asynccontextmanager
    async def _reporting(self, following: Following) -> AsyncIterator[None]:
        """Report the shared versions to the servers inside the block."""
        sharing = self._downloads.sharing
        if sharing is None:
            yield
            return
        from shardcast.nodes.sharing_status import describe_client

        me = partial(describe_client, sharing, self._node_id, self._name)
        async with background_task(send_reports(following, me)):
            yield

    def _describe(self, follow: Follow) -> Node:
        """Return the description of this client, for reports."""
        transfers = self._downloads.under_way
        coming = {transfer.manifest.version: transfer.progress.done for transfer in transfers}
        has = newest_reportable(follow.here())
        return Node(self._node_id, "client", self._name, has, coming, origin=follow.origin)

    @asynccontextmanager
    async def _watching(self, follow: Follow) -> AsyncIterator[None]:
        """Count the time without a version to fetch, or without any server's news, as a wait."""
        with (
            self.waits.watching(lambda: follow.wait),
            self.waits.watching(lambda: follow.following.wait),
        ):
            yield
