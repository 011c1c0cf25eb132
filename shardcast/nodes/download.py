"""Verified downloads of one version from its servers into a file."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from shardcast.concurrency import background_task, cancel
from shardcast.directories import make_folder
from shardcast.disk_errors import disk_errors
from shardcast.errors import (
    IntegrityError,
    ShardcastError,
    TransferFailed,
    VersionAborted,
    VersionWithdrawn,
)
from shardcast.folders.kept import is_unchanged, read_kept, unchanged_pieces
from shardcast.folders.options import SHARDS, WHOLE, FolderOptions
from shardcast.folders.output import FolderOutput
from shardcast.nodes.followed_folder import FollowedFolder
from shardcast.nodes.local_versions import has_version, keep_version
from shardcast.nodes.output_names import folder_name, output_name
from shardcast.nodes.output_template import OutputTemplate
from shardcast.nodes.release import NEIGHBOURS, Release
from shardcast.peer.server import Peer
from shardcast.protocol.distribution import Listing
from shardcast.protocol.manifest import FILE, Header, Manifest
from shardcast.protocol.wire import version_number
from shardcast.store.interfaces import Confirm
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.output_file import OutputFile
from shardcast.transfer.limits import Limits
from shardcast.transfer.workers import Transfer
from shardcast.upstream.abandon import Stop, if_withdrawn, run_unless
from shardcast.upstream.follow import Following
from shardcast.upstream.manifests import VersionDescription, descriptions_of, read_live
from shardcast.upstream.offers import join_servers
from shardcast.waits import Waits

if TYPE_CHECKING:
    from shardcast.nodes.shared_version import SharedVersion
    from shardcast.nodes.sharing import Sharing

Watch = Callable[[Transfer], None]
"""A callback with the transfer, whose ``progress`` has the local bytes."""


@dataclass(frozen=True, slots=True)
class Destination:
    """The output of a download, and the caller's watcher.

    Attributes:
        outputs: the folder of outputs without another place.
        named: the output; None to name the output after the version.
        watch: called with the transfer at its beginning.
        folder: the folder with the output's record; None for an output outside a followed folder.
        template: template of the output's name below ``outputs``; None for the usual names.
        keeps_record: whether an output outside a followed folder gets a record, too.
    """

    outputs: Path
    named: Path | None = None
    watch: Watch | None = None
    folder: FollowedFolder | None = None
    template: OutputTemplate | None = None
    keeps_record: bool = False

    @property
    def records(self) -> Path:
        """The folder with the output's record."""
        return (self.named.parent if self.named else self.outputs).absolute()

    def path(self, header: Header) -> Path:
        """Return the absolute path of the output of a version, a file or a folder."""
        if self.template:
            name = str(self.template.render(header))
        else:
            name = folder_name(header.version) if header.folder else output_name(header.version)
        return (self.named or self.outputs / name).absolute()


@dataclass
class Downloads:
    """The downloads of one client.

    Attributes:
        peers: the client's servers, by URL.
        limits: bounds of a transfer.
        under_way: the running transfers.
        waits: the present waits.
        sharing: shares received pieces with neighbours; None for a client without sharing.
        folders: settings for versions from folders.
    """

    peers: Mapping[str, Peer]
    limits: Limits
    under_way: list[Transfer] = field(default_factory=list)
    waits: Waits = field(default_factory=Waits)
    sharing: Sharing | None = None
    folders: FolderOptions = field(default_factory=FolderOptions)

    async def fetch(
        self,
        listing: Listing,
        peers: Sequence[Peer],
        destination: Destination,
        following: Following,
        *,
        origin: str | None = None,
        listed: bool = True,
    ) -> Release:
        """Download a complete version.

        Args:
            listing: the version.
            peers: the servers with the version.
            destination: where the output goes.
            following: the servers followed meanwhile. They report a withdrawal; with ``listed``, servers that
                get the version later join the transfer.
            origin: the origin id of the version's line; None for unknown.
            listed: whether the line lists the version.

        Raises:
            VersionWithdrawn: the publisher withdrew the version meanwhile.
            TransferFailed: the servers answered, but not with the version's shards.
            IntegrityError: the servers' bytes don't have the version's digest.
            LocalDiskError: the file can't be written.
        """
        failure: ShardcastError = TransferFailed(f"no server describes {listing.version}")
        descriptions = descriptions_of(listing, peers, origin, patience=self.limits.unreachable_at_start)
        async for described in self._waited_for(listing.version, peers, descriptions):
            _check_kind(described.manifest.header)
            try:
                return await self._receive(
                    LiveManifest.of(described.manifest),
                    list(described.peers),
                    destination,
                    following,
                    stop=if_withdrawn(following, listing.number, listing.digest),
                    digits=described.digits,
                    joins=listed and described.manifest.verifiable,
                    is_authentic=lambda: listing.manifest is not None,
                )
            except (IntegrityError, TransferFailed) as error:  # another server's manifest may be right
                failure = error if not isinstance(failure, IntegrityError) else failure
        raise failure

    async def describe(self, listing: Listing, peers: Sequence[Peer], origin: str | None) -> Manifest:
        """Return the manifest of a complete version, from the first server that has one.

        Raises:
            ShardcastError: no server has a manifest.
        """
        descriptions = descriptions_of(listing, peers, origin, patience=self.limits.unreachable_at_start)
        async for described in self._waited_for(listing.version, peers, descriptions):
            return described.manifest
        raise TransferFailed(f"no server describes {listing.version}")

    async def fetch_open(
        self, version: str, peers: list[Peer], destination: Destination, following: Following
    ) -> Release:
        """Download a version that is still being made.

        Raises:
            VersionAborted: the publisher aborted the version.
            TransferFailed, IntegrityError, LocalDiskError: as for ``fetch``.
        """
        live = LiveManifest(version)

        async def take(lines: bytes) -> None:
            live.add(lines)

        reading = asyncio.ensure_future(read_live(live, peers, take))
        try:
            try:
                with self.waits.waiting(lambda: _manifest_from(version, peers)):
                    async with asyncio.timeout(self.limits.timeout):
                        header = await live.wait_header()
            except TimeoutError:
                raise TransferFailed(
                    f"{version} is being made, but {_manifest_from(version, peers)} did not come within "
                    f"{self.limits.timeout:g} s"
                ) from None
            _check_kind(header)
            if header.folder:
                with self.waits.waiting(lambda: _manifest_from(version, peers)):
                    await live.wait_first_shard()
                if header.folder.entries is None and self.folders.selects:
                    await live.wait_ended()  # to choose by patterns from the whole list
            return await self._receive(
                live,
                peers,
                destination,
                following,
                stop=if_withdrawn(following, version_number(version) or 0, None),
                confirm=following.confirm,
                is_authentic=lambda: _lists_manifest(following, version_number(version) or 0),
            )
        finally:
            await cancel([reading])

    def _open_output(self, output: Path, live: LiveManifest) -> FolderOutput | OutputFile:
        """Open the output of a version; blocks on the disk.

        Raises:
            IntegrityError: the manifest should be a folder's, and is not.
            LocalDiskError: the output can't be written there, or has no room.
        """
        if live.header.folder:
            return FolderOutput(output, live, self.folders)
        return OutputFile(output, live)

    async def _waited_for(
        self, version: str, peers: Sequence[Peer], descriptions: AsyncIterator[VersionDescription]
    ) -> AsyncIterator[VersionDescription]:
        """Yield descriptions of a version; count the time until each one comes as a wait."""
        while True:
            with self.waits.waiting(lambda: _manifest_from(version, peers)):
                described = await anext(descriptions, None)
            if described is None:
                return
            yield described

    async def _receive(
        self,
        live: LiveManifest,
        peers: list[Peer],
        destination: Destination,
        following: Following,
        *,
        stop: Stop,
        digits: int = 3,
        joins: bool = True,
        confirm: Confirm | None = None,
        is_authentic: Callable[[], bool],
    ) -> Release:
        """Transfer a version into its output, unless verified there already, and record the output.

        Args:
            live: the manifest, possibly still growing.
            peers: the servers with the version.
            destination: where the output goes.
            following: the servers followed meanwhile.
            stop: gives the reason to abandon the version.
            digits: of a shard's number in its name.
            joins: whether servers that get the version meanwhile join the transfer.
            confirm: awaited before the output gets its name.
            is_authentic: returns, at the end, whether the deciding server lists this manifest.
        """
        started = time.monotonic()
        output = destination.path(live.header)
        if destination.folder:
            await destination.folder.begin(output, live.header)
        elif destination.template:
            await asyncio.to_thread(_make_parent, output)
        known = live.manifest
        if known and await self._is_here(known, output, destination, is_authentic()):
            final = await asyncio.to_thread(output.stat)
            shared = await self._share_unchanged(live, known, output, peers) if joins else None
            progress = shared.progress() if shared else None
            release = Release(live.version, output, known, 0.0, {}, neighbours=progress)
            return await _recorded(release, destination, final)
        sink = await asyncio.to_thread(self._open_output, output, live)
        if isinstance(sink, FolderOutput):
            sink.is_authentic = is_authentic
        elif self.folders.verify == SHARDS and live.manifest and is_authentic():
            sink.hashes_whole = not all(shard.sha256 for shard in live.shards)
        sink.confirm = confirm
        shared = None

        def join(peer: Peer) -> None:
            transfer.join(peer)
            if shared:
                shared.join(peer.url)

        try:
            transfer = Transfer(
                live, peers, sink, digits=digits, hash_whole=sink.hashes_whole, limits=self.limits
            )
            self.under_way.append(transfer)
            if destination.watch:
                destination.watch(transfer)
            try:
                if self.sharing and joins and not (isinstance(sink, FolderOutput) and sink.is_part):
                    from shardcast.nodes.shared_folder_output import shared_pieces  # and all of the swarm

                    pieces = shared_pieces(sink.open_pieces(), live)
                    shared = await self.sharing.begin(
                        live, pieces, self.peers, [peer.url for peer in peers], transfer
                    )
                async with AsyncExitStack() as stack:
                    if joins:
                        number = version_number(live.version) or 0
                        joining = join_servers(following, number, peers, join)
                        await stack.enter_async_context(background_task(joining))
                    stack.enter_context(self.waits.watching(lambda: transfer.wait))
                    manifest = await run_unless(stop, transfer.run(), following)
            finally:
                self.under_way.remove(transfer)
        except (VersionAborted, VersionWithdrawn):
            await asyncio.to_thread(sink.discard)  # nothing of it is of use to a later run
            if destination.folder:
                await destination.folder.forget(output)
            raise
        finally:
            if shared:
                shared.count_servers()
                if sink.final:
                    shared.complete(sink.final)
                else:
                    shared.over.set()
            await asyncio.to_thread(sink.close)
        received = {url: server.received for url, server in transfer.progress.servers.items()}
        neighbours = shared.progress() if shared else None
        if neighbours:
            received[NEIGHBOURS] = neighbours.received
        release = Release(
            manifest.version,
            output,
            manifest,
            time.monotonic() - started,
            received,
            neighbours=neighbours,
        )
        return await _recorded(release, destination, sink.final)

    async def _is_here(
        self, manifest: Manifest, output: Path, destination: Destination, is_authentic: bool
    ) -> bool:
        """Return whether nothing touched an output since it was verified as that of a manifest.

        False also where the output is to be read all the same: to verify it whole, to share it, or to choose
        files by patterns; and for a folder whose manifest is not authentic.
        """
        if self.folders.verify == WHOLE or self.folders.selects:
            return False
        if manifest.header.folder:
            return is_authentic and await asyncio.to_thread(is_unchanged, output, manifest)
        # The pieces of a file are shared from its descriptor, which a transfer opens.
        if self.sharing:
            return False
        return await asyncio.to_thread(has_version, destination.records, output, manifest)

    async def share_kept(self, listing: Listing, peers: Sequence[Peer], output: Path) -> None:
        """Share a folder downloaded by an earlier run, as long as nothing in the folder was touched."""
        known = await asyncio.to_thread(read_kept, output) if self.sharing else None
        if known and listing.manifest in (known.identity, None) and listing.digest in known.digests.values():
            await self._share_unchanged(LiveManifest.of(known), known, output, peers)

    async def _share_unchanged(
        self, live: LiveManifest, manifest: Manifest, output: Path, peers: Sequence[Peer]
    ) -> SharedVersion | None:
        """Share a folder with all pieces here, and return it as shared; None where sharing is impossible."""
        if self.sharing is None:
            return None
        if shared := self.sharing.find_shared(live):
            return shared
        pieces = await asyncio.to_thread(unchanged_pieces, output, manifest)
        if pieces is None:
            return None
        from shardcast.nodes.shared_folder_output import shared_pieces  # and all of the swarm

        given = shared_pieces(pieces, live)
        shared = await self.sharing.begin(live, given, self.peers, [peer.url for peer in peers])
        shared.complete()
        return shared


def _make_parent(output: Path) -> None:
    """Make the folders named by a template above an output.

    Raises:
        LocalDiskError: they can't be made.
    """
    with disk_errors("could not write", output):
        make_folder(output.parent)


async def _recorded(release: Release, destination: Destination, final: os.stat_result | None) -> Release:
    """Record a version where the destination keeps records, and return the release."""
    if destination.folder:
        return await destination.folder.record(release, final)
    if destination.keeps_record and final:
        await asyncio.to_thread(keep_version, destination.records, release, final)
    return release


def _lists_manifest(following: Following, number: int) -> bool:
    """Return whether the deciding server lists a version together with the digest of the manifest."""
    listing = following.standing().listed.get(number)
    return listing is not None and listing.manifest is not None


def _manifest_from(version: str, peers: Sequence[Peer]) -> str:
    """Return the words for a wait for a manifest."""
    return f"the manifest of {version} from {', '.join(peer.url for peer in peers)}"


def _check_kind(header: Header) -> None:
    """Check that a payload is a file or a folder.

    Raises:
        TransferFailed: it is of a kind from a newer shardcast.
    """
    if header.kind != FILE:
        raise TransferFailed(
            f"{header.version} is a {header.kind}, which this shardcast can't receive; update it"
        )
