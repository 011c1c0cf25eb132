"""Versions from upstreams into version folders, complete ones and those that are being made."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from shardcast.concurrency import beside, in_thread
from shardcast.constants import HTTP_TIMEOUT
from shardcast.errors import (
    IntegrityError,
    LocalDiskError,
    NoRoom,
    ShardcastError,
    TransferFailed,
    VersionAborted,
)
from shardcast.filesystem import is_full
from shardcast.nodes.holding import end
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
from shardcast.upstream.manifests import Described, describe, read_live
from shardcast.upstream.offers import join_servers

log = logging.getLogger(__name__)


class VersionFetcher:
    """Fetches the versions that it is told to; that one can't be had is logged and noted, and no error.

    Attributes:
        failed: versions that could not be had lately, and why.
        failed_here: those of them that this machine failed, and no server.
        disk_failure: the last error of this machine's disk; None once a version has come since.
        given_up: those that their publishers gave up; who says that they are open hasn't heard yet.
        unserved: those that could not be had from servers that answer, and from which.
        no_room: those that there was no room for, and why.
        transfers: what is under way.
    """

    def __init__(self, folders: VersionFolders, following: Following, tell: Callable[[str], None]) -> None:
        """``tell``: warns people, of the same thing once."""
        self._folders = folders
        self._following = following
        self._tell = tell
        self.failed: dict[str, str] = {}
        self.failed_here: set[str] = set()
        self.disk_failure: str | None = None
        self.given_up: set[int] = set()
        self.unserved: dict[int, frozenset[str]] = {}
        self.no_room: dict[int, str] = {}
        self.transfers: list[Transfer] = []

    async def fetch(self, listing: Listing, peers: Sequence[Peer], origin: str | None = None) -> None:
        """Fetch a complete version of the line ``origin`` (None: unknown) from servers that offer it."""
        failure: ShardcastError | OSError = TransferFailed(f"no server says what {listing.version} is")
        try:
            async for described in describe(listing, peers, origin):
                try:
                    await self._receive(listing, described)
                    return
                except NoRoom as error:
                    await self._pass_over(listing.number, error)
                    return
                except (IntegrityError, TransferFailed) as error:  # what another server says may be right
                    failure = error
                    if isinstance(error, IntegrityError):
                        await self._folders.discard(listing.number)
        except (ShardcastError, OSError) as error:
            failure = error
        self._note_failure(listing.version, failure)

    async def fetch_beside(self, listing: Listing, peers: Sequence[Peer], origin: str | None) -> bool:
        """Fetch a complete version of another line beside this node's own; False when it can't be had now.

        Raises:
            NoRoom: both lines do not fit.
        """
        failure: ShardcastError | OSError = TransferFailed(f"no server says what {listing.version} is")
        try:
            async for described in describe(listing, peers, origin):
                manifest = described.manifest
                listed = next(name for name, digest in manifest.digests.items() if digest == listing.digest)
                try:
                    with _room_errors():
                        live = LiveManifest.of(manifest)
                        beside = await self._folders.begin_beside(origin, live, listed)
                    survey = not manifest.verifiable
                    transfer = Transfer(
                        beside.live, described.peers, beside, digits=described.digits, survey=survey
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

    def _note_failure(self, version: str, failure: ShardcastError | OSError, line: str = "") -> None:
        self.failed[version] = str(failure)
        self.failed_here.discard(version)
        if isinstance(failure, OSError):
            self.failed_here.add(version)
            self.disk_failure = str(failure)
        log.error("%s%s is tried again later: %s", version, line, failure)

    def forget(self) -> None:
        """Forget what failed, since the numbers are another line's now."""
        self.failed.clear()
        self.failed_here.clear()
        self.given_up.clear()
        self.unserved.clear()
        self.no_room.clear()
        self._folders.room.forget()

    def forget_room_of(self, numbers: Iterable[int]) -> None:
        """Forget that there was no room for versions that are not wanted any more."""
        for number in numbers:
            self.no_room.pop(number, None)

    async def _pass_over(self, number: int, error: ShardcastError | OSError) -> None:
        """Do without a version until there is room for it. What it took is given back at once."""
        opened = self._folders.opened(number)
        if opened is not None:
            self._folders.room.ran_out(opened)
            await self._folders.discard(number)
        self.failed[version_name(number)] = str(error)
        if number not in self.no_room:  # else it was said, and only the figures are others by now
            log.warning("%s", error)
        self.no_room[number] = str(error)

    async def fetch_open(self, number: int, peers: list[Peer], nearer_than: int) -> None:
        """Fetch a version while it is being made, and from whoever has it later at a distance of less than
        ``nearer_than`` from its origin."""
        version = version_name(number)
        try:
            with _room_errors():
                opened = self._folders.opened(number)
                opened = opened or await self._folders.begin(number, LiveManifest(version))
        except NoRoom as error:
            await self._pass_over(number, error)
            return
        except (ShardcastError, OSError) as error:
            self._note_failure(version, error)
            return
        opened.confirm = self._following.confirm
        opened.being_made = True
        opened.makes_room = not self._following.standing().place.silent  # on a stand-in's word nothing goes
        live = opened.live
        live.resume()

        async def take(lines: bytes) -> None:
            await in_thread(opened.grow, lines)

        reading = asyncio.ensure_future(read_live(live, peers, take))
        try:
            try:
                await _first_line(live)
                await self._carry_out(Transfer(live, peers, opened), opened, peers, nearer_than)
            finally:
                await end(reading)  # what is given up next gets no more lines
        except NoRoom as error:
            await self._pass_over(number, error)
        except (VersionAborted, IntegrityError) as error:
            if isinstance(error, VersionAborted):
                self.given_up.add(number)
            await self._folders.discard(number)
            log.error("%s: %s", version, error)
            self.failed[version] = str(error)
        except (ShardcastError, OSError) as error:
            live.fail(error if isinstance(error, ShardcastError) else TransferFailed(str(error)))
            if not live.begun:  # whoever said that it is open has nothing of it
                await self._folders.discard(number)
            self._note_failure(version, error)

    async def _receive(self, listing: Listing, described: Described) -> None:
        manifest = described.manifest
        number = version_number(manifest.version) or 0
        opened = self._folders.opened(number)
        with _room_errors():
            if opened and opened.live.raw and manifest.raw.startswith(bytes(opened.live.raw)):
                if not opened.live.whole:
                    await in_thread(opened.grow, manifest.raw[len(opened.live.raw) :])
            else:
                await self._folders.check_room(manifest)
                listed = next(name for name, digest in manifest.digests.items() if digest == listing.digest)
                opened = await self._begin(number, manifest, listed)
        opened.live.resume()  # what ended it while it was made, this disk's error say, may be over
        opened.being_made = False
        opened.confirm = self._following.confirm  # the authority may be back by then, and say otherwise
        survey = not manifest.verifiable
        transfer = Transfer(opened.live, described.peers, opened, digits=described.digits, survey=survey)
        await self._carry_out(transfer, opened, None if survey else list(described.peers))

    async def _begin(self, number: int, manifest: Manifest, listed: str) -> OpenVersion:
        while True:
            try:
                return await self._folders.begin(number, LiveManifest.of(manifest), listed)
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
        """Fetch a version from ``peers``, and from those that have it later; None where only from some.

        Raises:
            NoRoom: there was no room for it.
            ShardcastError, OSError: it can't be had now.
        """
        started, version = time.monotonic(), transfer.manifest.version
        header, servers = transfer.manifest.header, format_count(len(transfer.progress.servers), "server")
        size = "being made" if header.size is None else format_size(header.size)
        number, room = version_number(version) or 0, self._folders.room
        log.info("fetching %s (%s) from %s", version, size, servers)
        self.transfers.append(transfer)
        opened.space.refused = None
        try:
            async with contextlib.AsyncExitStack() as stack:
                stack.enter_context(_room_errors(opened))
                if self._folders.opened(number) is opened:  # what comes beside takes nobody's room
                    await room.begin_fetch(number)
                    stack.callback(room.end_fetch, number)
                if peers is not None:
                    joining = join_servers(
                        self._following, number, peers, transfer.join, nearer_than=nearer_than
                    )
                    await stack.enter_async_context(beside(joining))
                manifest = await transfer.run()
        finally:
            self.transfers.remove(transfer)
        self.disk_failure = None
        self.no_room.pop(number, None)
        rate = manifest.size / max(time.monotonic() - started, 1e-3)
        log.info("%s is complete: %s at %s", version, format_size(manifest.size), format_rate(rate))


@contextlib.contextmanager
def _room_errors(opened: OpenVersion | None = None) -> Iterator[None]:
    """Turn what failed for want of room, ``opened``'s or on a full disk, into ``NoRoom``: a transfer that is
    refused room fails in many ways."""
    try:
        yield
    except (ShardcastError, OSError) as error:
        if opened is not None and opened.space.refused is not None:
            raise opened.space.refused from error
        if is_full(error):
            raise NoRoom(str(error)) from error
        raise


async def _first_line(live: LiveManifest) -> None:
    """
    Raises:
        TransferFailed: it doesn't come.
        ShardcastError: it can't be had.
    """
    try:
        await asyncio.wait_for(live.first_line(), HTTP_TIMEOUT)
    except TimeoutError:
        raise TransferFailed(f"{live.version} is open, but no server says what it is") from None
