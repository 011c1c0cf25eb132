"""Versions from upstreams into version folders, complete and open ones."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from shardcast.concurrency import background_task, in_thread
from shardcast.constants import HTTP_TIMEOUT
from shardcast.disk_errors import is_full
from shardcast.errors import (
    AccessDenied,
    IntegrityError,
    LocalDiskError,
    NoRoom,
    ShardcastError,
    TransferFailed,
    VersionAborted,
)
from shardcast.log_fields import about
from shardcast.nodes.open_data_dir import cancel_and_raise
from shardcast.nodes.shared_folders import SharedFolders
from shardcast.peer.server import Peer
from shardcast.protocol.distribution import Listing
from shardcast.protocol.manifest import Manifest
from shardcast.protocol.wire import version_name, version_number
from shardcast.sizes import format_count, format_rate, format_size
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.open_version import OpenVersion
from shardcast.store.versions import VersionFolders
from shardcast.transfer.workers import Transfer
from shardcast.upstream.follow import Following
from shardcast.upstream.manifests import VersionDescription, descriptions_of, read_live
from shardcast.upstream.offers import join_servers

log = logging.getLogger(__name__)


@dataclass
class FetchFailures:
    """The versions of a line with a recent failure.

    Attributes:
        failed: the numbers to do without until everything is tried again.
        local: those failed through this machine, and no server.
        aborted: numbers aborted by their publishers; a server with such an open version hasn't heard yet.
        unserved: numbers answered for but not served, with these servers' URLs.
        denied: numbers refused by a server, and why.
        no_room: numbers without enough room, and why.
        disk: the last error of this machine's disk; None once a version has come since.
    """

    failed: set[int] = field(default_factory=set)
    local: set[int] = field(default_factory=set)
    aborted: set[int] = field(default_factory=set)
    unserved: dict[int, frozenset[str]] = field(default_factory=dict)
    denied: dict[int, str] = field(default_factory=dict)
    no_room: dict[int, str] = field(default_factory=dict)
    disk: str | None = None

    def note(self, number: int, failure: ShardcastError | OSError) -> None:
        """Record a failed fetch of a version; one of this machine's disk also as ``local`` and ``disk``."""
        self.failed.add(number)
        self.local.discard(number)
        if isinstance(failure, OSError):
            self.local.add(number)
            self.disk = str(failure)

    def note_fetched(self, number: int) -> None:
        """Forget, after a fetch, the last error of the disk, and the version's lack of room and refusals."""
        self.disk = None
        self.no_room.pop(number, None)
        self.denied.pop(number, None)

    def note_unserved(self, number: int, servers: Collection[str]) -> None:
        """Record servers with an answer, but without a version of their list."""
        self.unserved[number] = self.unserved.get(number, frozenset()).union(servers)

    def is_unserved(self, number: int, servers: Collection[str]) -> bool:
        """Return whether all servers of a version were asked, without one serving it."""
        return bool(servers) and self.unserved.get(number, frozenset()).issuperset(servers)

    def keep_no_room_of(self, numbers: Collection[int]) -> None:
        """Forget lack of room and refusals of all versions but these: the others are no longer wanted."""
        self.no_room = {number: why for number, why in self.no_room.items() if number in numbers}
        self.denied = {number: why for number, why in self.denied.items() if number in numbers}

    def forget(self) -> None:
        """Forget all versions, since the numbers are another line's now."""
        for numbers in (self.failed, self.local, self.aborted, self.unserved, self.denied, self.no_room):
            numbers.clear()


class VersionFetcher:
    """A fetcher of single versions; a failure is logged and recorded, not raised.

    Attributes:
        failures: the failed versions.
        transfers: the running transfers.
        sharing: shares them with neighbours; None where nothing is shared.
    """

    def __init__(self, folders: VersionFolders, following: Following) -> None:
        self._folders = folders
        self._following = following
        self.failures = FetchFailures()
        self.transfers: list[Transfer] = []
        self.sharing: SharedFolders | None = None

    async def fetch(self, listing: Listing, peers: Sequence[Peer], origin: str | None = None) -> None:
        """Fetch a complete version from its servers.

        Args:
            listing: the version.
            peers: the servers.
            origin: the origin id of the version's line; None for unknown.
        """
        failure: ShardcastError | OSError = TransferFailed(f"no server describes {listing.version}")
        try:
            async for described in descriptions_of(listing, peers, origin):
                try:
                    await self._receive(listing, described)
                    return
                except NoRoom as error:
                    await self._pass_over(listing.number, error)
                    return
                except (IntegrityError, TransferFailed) as error:  # another server's manifest may be right
                    failure = error
                    if isinstance(error, IntegrityError):
                        await self._folders.discard(listing.number)
        except (ShardcastError, OSError) as error:
            failure = error
        self._note_failure(listing.version, failure)

    async def fetch_beside(self, listing: Listing, peers: Sequence[Peer], origin: str | None) -> bool:
        """Fetch a complete version of another line beside this node's own.

        Returns:
            Whether the version is here; False after a failure, which is logged and recorded.

        Raises:
            NoRoom: both lines do not fit.
        """
        failure: ShardcastError | OSError = TransferFailed(f"no server describes {listing.version}")
        try:
            async for described in descriptions_of(listing, peers, origin):
                manifest = described.manifest
                try:
                    with _room_errors():
                        live = LiveManifest.of(manifest)
                        beside = await self._folders.begin_beside(origin, live, _listed_by(manifest, listing))
                    makes_manifest = not manifest.verifiable
                    transfer = Transfer(
                        beside.live,
                        described.peers,
                        beside,
                        digits=described.digits,
                        make_manifest=makes_manifest,
                    )
                    await self._carry_out(transfer, beside, None)
                    return True
                except NoRoom:
                    raise
                except (IntegrityError, TransferFailed) as error:
                    failure = error
        except NoRoom:
            raise
        except (ShardcastError, OSError) as error:
            failure = error
        self._note_failure(listing.version, failure, " of the other line")
        return False

    async def fetch_open(self, number: int, peers: list[Peer], nearer_than: int) -> None:
        """Fetch an open version.

        Args:
            number: the version's number.
            peers: servers with at least a part of the version.
            nearer_than: hops from the origin below which later servers of the version join the transfer.
        """
        version = version_name(number)
        try:
            with _room_errors():
                opened = self._folders.opened(number)
                opened = opened or await self._folders.begin_version(number, LiveManifest(version))
        except NoRoom as error:
            await self._pass_over(number, error)
            return
        except (ShardcastError, OSError) as error:
            self._note_failure(version, error)
            return
        opened.confirm = self._following.confirm
        opened.still_published = True
        opened.may_evict = not self._following.standing().place.silent  # on a stand-in's word nothing goes
        live = opened.live
        live.resume()

        async def take(lines: bytes) -> None:
            await in_thread(opened.append_manifest, lines)

        reading = asyncio.ensure_future(read_live(live, peers, take))
        try:
            try:
                await _first_line(live)
                await self._carry_out(Transfer(live, peers, opened), opened, peers, nearer_than)
            finally:
                await cancel_and_raise(
                    reading
                )  # before the version is discarded below: it must get no more lines
        except NoRoom as error:
            await self._pass_over(number, error)
        except (VersionAborted, IntegrityError) as error:
            if isinstance(error, VersionAborted) and self._folders.opened(number) is opened:
                self.failures.aborted.add(number)  # by its publisher, not for the room of others
            await self._folders.discard(number)
            log.error("%s: %s", version, error, extra=about(version=version))
            self.failures.failed.add(number)
        except (ShardcastError, OSError) as error:
            live.fail(error if isinstance(error, ShardcastError) else TransferFailed(str(error)))
            if not live.has_header:  # the servers that tell of it as open have nothing of it
                await self._folders.discard(number)
            self._note_failure(version, error)

    def forget(self) -> None:
        """Forget all failures, since the numbers are another line's now."""
        self.failures.forget()
        self._folders.quota.forget_failures()

    def _note_failure(self, version: str, failure: ShardcastError | OSError, line: str = "") -> None:
        """Record a version to be tried again later; log a refusal only the first time."""
        number = version_number(version) or 0
        self.failures.note(number, failure)
        again = isinstance(failure, AccessDenied) and self.failures.denied.get(number) == str(failure)
        log.log(
            logging.DEBUG if again else logging.ERROR,
            "%s%s is tried again later: %s", version, line, failure
        , extra=about(version=version))  # fmt: skip
        if isinstance(failure, AccessDenied):
            self.failures.denied[number] = str(failure)

    async def _pass_over(self, number: int, error: ShardcastError | OSError) -> None:
        """Do without a version until there is room for it, and free its room so far at once."""
        opened = self._folders.opened(number)
        if opened is not None:
            self._folders.quota.record_out_of_room(opened)
            await self._folders.discard(number)
        self.failures.failed.add(number)
        if number not in self.failures.no_room:  # else it was logged, and only the figures differ by now
            log.warning("%s", error, extra=about(version=version_name(number)))
        self.failures.no_room[number] = str(error)

    async def _receive(self, listing: Listing, described: VersionDescription) -> None:
        """Fetch a complete version by one server's description, and use local shards."""
        manifest = described.manifest
        number = version_number(manifest.version) or 0
        opened = self._folders.opened(number)
        with _room_errors():
            if opened and opened.live.raw and manifest.raw.startswith(bytes(opened.live.raw)):
                if not opened.live.manifest:
                    await in_thread(opened.append_manifest, manifest.raw[len(opened.live.raw) :])
            else:
                await self._folders.check_room(manifest)
                opened = await self._begin(number, manifest, _listed_by(manifest, listing))
        opened.live.resume()  # the error that ended it while it was made, of this disk say, may be over
        opened.still_published = False
        opened.confirm = self._following.confirm  # the authority may be back by then, and say otherwise
        makes_manifest = not manifest.verifiable
        transfer = Transfer(
            opened.live, described.peers, opened, digits=described.digits, make_manifest=makes_manifest
        )
        await self._carry_out(transfer, opened, None if makes_manifest else list(described.peers))

    async def _begin(self, number: int, manifest: Manifest, listed: str) -> OpenVersion:
        """Open a version; on a full disk, make room for the first bytes."""
        while True:
            try:
                return await self._folders.begin_version(number, LiveManifest.of(manifest), listed)
            except LocalDiskError as error:
                if not is_full(error) or not await self._folders.make_room(manifest, error):
                    raise

    async def _carry_out(
        self,
        transfer: Transfer,
        opened: OpenVersion,
        peers: list[Peer] | None,
        nearer_than: int | None = None,
    ) -> None:
        """Run a transfer into an open version.

        Args:
            transfer: the transfer.
            opened: the version.
            peers: the version's servers, extended by later ones; None to add none.
            nearer_than: hops from the origin below which servers may be added; None for any.

        Raises:
            NoRoom: there was no room for the version.
            ShardcastError, OSError: the version can't be fetched now.
        """
        started, version = time.monotonic(), transfer.manifest.version
        servers, total = format_count(len(transfer.progress.servers), "server"), transfer.manifest.final_size
        size = "being made" if total is None else format_size(total)
        number, room = version_number(version) or 0, self._folders.quota
        log.info("fetching %s (%s) from %s", version, size, servers, extra=about(version=version))
        self.transfers.append(transfer)
        opened.space.refused = None
        try:
            async with contextlib.AsyncExitStack() as stack:
                stack.enter_context(_room_errors(opened))
                if self._folders.opened(number) is opened:  # a version of another line promises no room
                    await room.begin_fetch(number)
                    stack.callback(room.end_fetch, number)
                if peers is not None:
                    urls = [peer.url for peer in peers]
                    shared = (
                        await stack.enter_async_context(self.sharing.helping(transfer, urls))
                        if self.sharing
                        else None
                    )

                    def join(peer: Peer) -> None:
                        transfer.join(peer)
                        if shared:
                            shared.join(peer.url)

                    joining = join_servers(self._following, number, peers, join, nearer_than=nearer_than)
                    await stack.enter_async_context(background_task(joining))
                manifest = await transfer.run()
        finally:
            self.transfers.remove(transfer)
        self.failures.note_fetched(number)
        rate = manifest.size / max(time.monotonic() - started, 1e-3)
        log.info(
            "%s is complete: %s at %s",
            version,
            format_size(manifest.size),
            format_rate(rate),
            extra=about(version=version),
        )


def _listed_by(manifest: Manifest, listing: Listing) -> str:
    """Return the name of the whole digest in the distribution list."""
    return next(name for name, digest in manifest.digests.items() if digest == listing.digest)


@contextlib.contextmanager
def _room_errors(opened: OpenVersion | None = None) -> Iterator[None]:
    """Turn failures for want of room, of ``opened`` or on a full disk, into ``NoRoom``.

    A transfer without enough room fails in many ways.
    """
    try:
        yield
    except (ShardcastError, OSError) as error:
        if opened is not None and opened.space.refused is not None:
            raise opened.space.refused from error
        if is_full(error):
            raise NoRoom(str(error)) from error
        raise


async def _first_line(live: LiveManifest) -> None:
    """Wait for the first line of a manifest.

    Raises:
        TransferFailed: the line doesn't come within ``HTTP_TIMEOUT``.
        ShardcastError: the manifest ended with this error before its first line.
    """
    try:
        async with asyncio.timeout(HTTP_TIMEOUT):
            await live.wait_header()
    except TimeoutError:
        raise TransferFailed(
            f"{live.version} is being made, but no server sent its manifest within {HTTP_TIMEOUT:g} s"
        ) from None
