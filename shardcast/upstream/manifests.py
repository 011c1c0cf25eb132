"""What a version is: a manifest from one of the servers, or what old nodes let one find out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from hashlib import sha256

from shardcast.concurrency import cancel, staggered
from shardcast.constants import ORIGIN_SILENT, STALL_WHEN_OTHERS_CAN, UNREACHABLE_AT_START
from shardcast.errors import (
    BadAnswer,
    CannotAsk,
    LocalDiskError,
    LocalLimit,
    NoServerReachable,
    PeerError,
    ServerBusy,
    ServerLacks,
    ServerStalled,
    ServerUnreachable,
    TransferFailed,
)
from shardcast.peer.server import Peer
from shardcast.policy.backoff import Backoff
from shardcast.protocol.distribution import Listing
from shardcast.protocol.manifest import Manifest, provisional
from shardcast.protocol.wire import MAX_SHARDS
from shardcast.store.live_manifest import LiveManifest

_OLD_DIGITS, _DIGITS = 5, 3
_BACKOFF = Backoff(first=0.1, longest=5.0)
"""Pauses until all servers are asked again for a manifest that broke off."""
_LONGEST_PATIENCE = 16.0
"""Seconds of silence beyond which a server is not left for another: all of them together are few beside those
after which a version is stalled."""
_LIVES = 1.0
"""Seconds that an answer without news must have lasted to be a sign of life."""
_AT_ONCE = 4
"""Sizes asked for at once; old servers answer one after the other."""


@dataclass(frozen=True, slots=True)
class Described:
    """A manifest and how to ask for its shards.

    Attributes:
        manifest: what the version is.
        digits: of the shards' names: three; five at 0.3.x.
        peers: whom to ask.
    """

    manifest: Manifest
    digits: int
    peers: Sequence[Peer]


async def describe(
    listing: Listing,
    peers: Sequence[Peer],
    origin: str | None = None,
    *,
    patience: float = UNREACHABLE_AT_START,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[Described]:
    """The descriptions of a version, to be tried one after the other: the servers' manifests, each once;
    where none has one, what the answers of old nodes tell. A server that lets it wait is passed over, and may
    answer later. ``origin``: the origin id of its line, where that is known.

    Old nodes' shards can't be verified one by one, so when a whole payload was wrong there is one thing
    left to do: take it from each server alone.

    Servers that can't be reached, or say "not now", are asked again for ``patience`` seconds while no other
    one describes it.

    Raises:
        NoServerReachable: none could be reached.
        LocalLimit: this machine can't ask.
        TransferFailed: no server describes it.
    """
    loop, rounds = asyncio.get_running_loop(), 0
    deadline = loop.time() + patience
    while True:
        failures: list[PeerError] = []
        found = False
        async with aclosing(_ask_all(listing, peers, origin, failures)) as descriptions:
            async for described in descriptions:
                found = True
                yield described
        if found:
            return
        for one in failures:
            if isinstance(one, CannotAsk):
                raise LocalLimit(one.what)
        passing = any(isinstance(one, (ServerUnreachable, ServerBusy)) for one in failures)
        if not passing or loop.time() >= deadline:
            why = "; ".join(map(str, failures))
            told = f"{listing.version} is offered, but no server says what it is: {why}"
            gone = all(isinstance(one, ServerUnreachable) for one in failures)
            raise NoServerReachable(told) if failures and gone else TransferFailed(told)
        await sleep(max(0.0, min(_BACKOFF.pause(rounds), deadline - loop.time())))
        rounds += 1


async def _ask_all(
    listing: Listing, peers: Sequence[Peer], origin: str | None, failures: list[PeerError]
) -> AsyncGenerator[Described, None]:
    """What the servers describe when each is asked once; those that don't add to ``failures``."""
    seen: set[bytes] = set()
    without: list[Peer] = []

    async def ask(peer: Peer) -> Manifest | None:
        manifest = await peer.manifest(listing.version)
        if manifest is None:
            without.append(peer)
        else:
            check_manifest(listing, manifest, peer, origin)
        return manifest

    async with aclosing(staggered([partial(ask, peer) for peer in peers], STALL_WHEN_OTHERS_CAN)) as asked:
        async for asking in asked:
            if asking is None and without:
                break  # what those without a manifest tell may come sooner
            try:
                manifest = asking.result() if asking else None
            except PeerError as error:
                failures.append(error)
                continue
            if manifest and (digest := sha256(manifest.raw).digest()) not in seen:
                seen.add(digest)
                yield Described(manifest, _DIGITS, peers)
            del manifest, asking  # a large one need not lie beside the next
    if seen:
        return
    for some in [without, *([[peer] for peer in without] if len(without) > 1 else [])] if without else []:
        try:
            yield await _find_out(listing, some)
        except PeerError as error:
            failures.append(error)


async def read_live(
    live: LiveManifest,
    peers: Sequence[Peer],
    take: Callable[[bytes], Awaitable[None]],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Read the manifest of an open version to its end, from one server after the other, of which there may
    come more; ``take`` adds lines to ``live``. What goes wrong for good is told to ``live``.

    One that says nothing is left soon when there are others. Perhaps there is nothing to say, so each time
    that is done later."""
    heard, vain_rounds, patience = clock(), 0, STALL_WHEN_OTHERS_CAN
    while not live.ended:
        failures: list[PeerError] = []
        length = len(live.raw)
        for peer in list(peers):
            begun = clock()
            try:
                reading = asyncio.ensure_future(peer.follow_manifest(live.version, bytes(live.raw), take))
                leaves = patience <= _LONGEST_PATIENCE
                if await _silent(reading, live, patience, peers if leaves else ()):
                    failures.append(ServerStalled(peer.url, f"nothing of {live.version} for {patience:g} s"))
                    patience *= 2
                elif clock() - begun > _LIVES:  # it has nothing to tell, but it answers
                    heard = clock()
            except PeerError as error:
                failures.append(error)
            except LocalDiskError as error:
                live.fail(error)
            if live.whole or live.error:
                return
        if len(failures) >= len(peers) and all(type(one) is ServerLacks for one in failures):
            live.abort("no server has it any more")
            return
        if len(live.raw) > length:
            heard, vain_rounds = clock(), 0
        if clock() - heard > ORIGIN_SILENT:
            told = "; ".join(map(str, failures)) or "the servers have no news of it"
            live.fail(TransferFailed(f"{live.version} is stalled: for {ORIGIN_SILENT:g} s {told}"))
            return
        await sleep(_BACKOFF.pause(vain_rounds))
        vain_rounds += 1


async def _silent(
    reading: asyncio.Future[None], live: LiveManifest, patience: float, peers: Sequence[Peer]
) -> bool:
    """Read a manifest to its end; true when no line came for so long, and there are several ``peers``."""
    try:
        while not reading.done():
            length = len(live.raw)
            await asyncio.wait([reading], timeout=patience)
            if not reading.done() and len(live.raw) == length and len(peers) > 1:
                return True
        reading.result()
    finally:
        await cancel([reading])
    return False


def check_manifest(listing: Listing, manifest: Manifest, peer: Peer, origin: str | None) -> None:
    """Check that a server's manifest is that of a version of the line ``origin`` (None: of any line).

    Raises:
        BadAnswer: it is not.
    """
    told = manifest.header.origin
    if None not in (origin, told) and told != origin:
        raise BadAnswer(
            peer.url, f"its manifest of {listing.version} is of another line: {told} instead of {origin}"
        )
    if None not in (listing.manifest, manifest.identity) and listing.manifest != manifest.identity:
        raise BadAnswer(
            peer.url, f"its manifest of {listing.version} is not the one that the deciding server has"
        )
    if listing.digest not in manifest.digests.values():
        raise BadAnswer(peer.url, f"its manifest of {listing.version} has another digest than its list")
    if listing.shards not in (None, len(manifest.shards)):
        raise BadAnswer(peer.url, f"its manifest of {listing.version} has another count than its list")


async def _find_out(listing: Listing, peers: Sequence[Peer]) -> Described:
    """The sizes of an old node's shards, asked one by one."""
    order = list(peers)  # one that answered comes first

    async def size(shard: int, digits: int) -> int:
        failure: PeerError | None = None
        works = [partial(ask, peer, shard, digits) for peer in order]
        async with aclosing(staggered(works, STALL_WHEN_OTHERS_CAN)) as asked:
            async for asking in asked:
                try:
                    if asking:
                        return asking.result()
                except PeerError as error:
                    # That a server doesn't have it says less than that it could not be asked.
                    failure = error if failure is None or isinstance(failure, ServerLacks) else failure
        assert failure
        raise failure

    async def ask(peer: Peer, shard: int, digits: int) -> int:
        try:
            size = await peer.shard_size(listing.version, shard, digits)
        except ServerStalled:
            if len(order) > 1:
                order.remove(peer)  # each of its sizes would take as long
            raise
        if peer in order:
            order.remove(peer)
            order.insert(0, peer)
        return size

    if listing.shards == 0:
        return Described(provisional(listing.version, [0], {"sha256": listing.digest}), _DIGITS, peers)
    digits = _DIGITS
    try:
        sizes = [await size(1, digits)]
    except ServerLacks:
        digits = _OLD_DIGITS
        sizes = [await size(1, digits)]
    if listing.shards is not None:
        for first in range(2, listing.shards + 1, _AT_ONCE):
            numbers = range(first, min(first + _AT_ONCE, listing.shards + 1))
            sizes += await asyncio.gather(*(size(number, digits) for number in numbers))
    else:
        while len(sizes) < MAX_SHARDS:
            try:
                sizes.append(await size(len(sizes) + 1, digits))
            except ServerLacks:
                break
    algorithm = "sha256" if digits == _DIGITS else "blake3"
    return Described(provisional(listing.version, sizes, {algorithm: listing.digest}), digits, peers)
