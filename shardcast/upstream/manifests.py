"""Manifests from the servers: whole ones, growing ones, and descriptions from the answers of old nodes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from hashlib import sha256

from shardcast.concurrency import cancel, start_staggered
from shardcast.constants import ORIGIN_SILENT, STALL_WHEN_OTHERS_CAN, UNREACHABLE_AT_START
from shardcast.errors import (
    AccessDenied,
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
    TlsFailure,
    TransferFailed,
)
from shardcast.peer.server import Peer
from shardcast.policy.backoff import Backoff
from shardcast.protocol.distribution import Listing
from shardcast.protocol.manifest import Manifest, manifest_of_old_node
from shardcast.protocol.wire import MAX_SHARDS
from shardcast.store.live_manifest import LiveManifest

_OLD_DIGITS, _DIGITS = 5, 3
"""Digits of the shards' numbers at 0.3.x, and else."""
_BACKOFF = Backoff(first=0.1, longest=5.0)
"""Pauses before all servers are asked again for a broken-off manifest."""
_LONGEST_PATIENCE = 16.0
"""Maximum seconds of silence before a server is left for another; doubled up to here, all of these waits
together are short beside ``ORIGIN_SILENT``."""
_MIN_ANSWER = 1.0
"""Minimum seconds of an answer without news to count as a sign of life."""
_AT_ONCE = 4
"""Shard sizes asked for at once; old servers answer one after the other."""


@dataclass(frozen=True, slots=True)
class VersionDescription:
    """A manifest, and how to ask for its shards.

    Attributes:
        manifest: the manifest of the version.
        digits: digits of the numbers in the shards' names: three; five at 0.3.x.
        peers: the servers to ask.
    """

    manifest: Manifest
    digits: int
    peers: Sequence[Peer]


async def descriptions_of(
    listing: Listing,
    peers: Sequence[Peer],
    origin: str | None = None,
    *,
    patience: float = UNREACHABLE_AT_START,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[VersionDescription]:
    """Yield the descriptions of a version, to be tried one after the other.

    They are the servers' manifests, each once; where no server has a manifest, the description from the
    answers of old nodes. A slow server is passed over, and may answer later.

    Old nodes' shards can't be verified one by one. After a wrong whole payload, the only way left is to take
    the payload from each server alone.

    Args:
        listing: the version.
        peers: its servers.
        origin: the origin id of its line; None for unknown.
        patience: seconds of repeated requests to servers that can't be reached, or say "not now", while no
            other server describes the version.
        sleep: pauses.

    Raises:
        NoServerReachable: none could be reached.
        LocalLimit: this machine can't ask.
        AccessDenied: a server refused to, and no other does.
        TransferFailed: no server describes the version.
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
        for failure in failures:
            if isinstance(failure, CannotAsk):
                raise LocalLimit(failure.what)
        passing = any(isinstance(failure, (ServerUnreachable, ServerBusy)) for failure in failures)
        if not passing or loop.time() >= deadline:
            if denied := AccessDenied.among(failures):
                raise denied.at(listing.version)
            reasons = "; ".join(map(str, failures))
            message = f"{listing.version} is offered, but no server describes it: {reasons}"
            gone = all(isinstance(failure, (ServerUnreachable, TlsFailure)) for failure in failures)
            raise NoServerReachable(message) if failures and gone else TransferFailed(message)
        await sleep(max(0.0, min(_BACKOFF.pause(rounds), deadline - loop.time())))
        rounds += 1


async def _ask_all(
    listing: Listing, peers: Sequence[Peer], origin: str | None, failures: list[PeerError]
) -> AsyncGenerator[VersionDescription, None]:
    """Yield the servers' descriptions, each server asked once; those without one add to ``failures``."""
    seen: set[bytes] = set()
    without: list[Peer] = []

    async def ask(peer: Peer) -> Manifest | None:
        manifest = await peer.manifest(listing.version)
        if manifest is None:
            without.append(peer)
        else:
            check_manifest(listing, manifest, peer, origin)
        return manifest

    async with aclosing(
        start_staggered([partial(ask, peer) for peer in peers], STALL_WHEN_OTHERS_CAN)
    ) as asked:
        async for asking in asked:
            if asking is None and without:
                break  # what servers without a manifest tell may come sooner
            try:
                manifest = asking.result() if asking else None
            except PeerError as error:
                failures.append(error)
                continue
            if manifest and (digest := sha256(manifest.raw).digest()) not in seen:
                seen.add(digest)
                yield VersionDescription(manifest, _DIGITS, peers)
            del manifest, asking  # a large manifest need not lie in memory beside the next
    if seen:
        return
    together = [without] if without else []
    for group in [*together, *([[peer] for peer in without] if len(without) > 1 else [])]:
        try:
            yield await _find_out(listing, group)
        except PeerError as error:
            failures.append(error)


async def read_live(
    live: LiveManifest,
    peers: Sequence[Peer],
    on_lines: Callable[[bytes], Awaitable[None]],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Read the manifest of an open version to its end, from one server after the other.

    A silent server is soon left for another. Perhaps there are no new lines, so the patience doubles each
    time, up to a bound.

    Args:
        live: the manifest; takes a final failure, which ends the reading.
        peers: the servers; others may be added meanwhile.
        on_lines: adds lines to ``live``.
        clock: gives seconds.
        sleep: pauses.
    """
    heard, vain_rounds, patience = clock(), 0, STALL_WHEN_OTHERS_CAN
    while not live.ended:
        failures: list[PeerError] = []
        length = len(live.raw)
        for peer in list(peers):
            started = clock()
            try:
                reading = asyncio.ensure_future(peer.follow_manifest(live.version, bytes(live.raw), on_lines))
                others = peers if patience <= _LONGEST_PATIENCE else ()
                if await _is_silent(reading, live, patience, others):
                    failures.append(ServerStalled(peer.url, f"nothing of {live.version} for {patience:g} s"))
                    patience *= 2
                elif clock() - started > _MIN_ANSWER:  # no news, but the server answers
                    heard = clock()
            except PeerError as error:
                failures.append(error)
            except LocalDiskError as error:
                live.fail(error)
            if live.manifest or live.error:
                return
        if len(failures) >= len(peers) and all(type(failure) is ServerLacks for failure in failures):
            live.abort("no server has it any more")
            return
        if len(live.raw) > length:
            heard, vain_rounds = clock(), 0
        if clock() - heard > ORIGIN_SILENT:
            reasons = "; ".join(map(str, failures)) or "the servers have no news of it"
            live.fail(TransferFailed(f"{live.version} is stalled: for {ORIGIN_SILENT:g} s {reasons}"))
            return
        await sleep(_BACKOFF.pause(vain_rounds))
        vain_rounds += 1


async def _is_silent(
    reading: asyncio.Future[None], live: LiveManifest, patience: float, peers: Sequence[Peer]
) -> bool:
    """Read a manifest to its end; return whether silence ended the reading before.

    Silence means no line for ``patience`` seconds, with several ``peers``.

    Raises:
        PeerError, LocalDiskError: of the reading.
    """
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
    """Check that a server's manifest is of a listed version of the line ``origin`` (None: of any line).

    Raises:
        BadAnswer: it is not.
    """
    own_origin = manifest.header.origin
    if None not in (origin, own_origin) and own_origin != origin:
        raise BadAnswer(
            peer.url,
            f"its manifest of {listing.version} is of another line: {own_origin} instead of {origin}",
        )
    if None not in (listing.manifest, manifest.identity) and listing.manifest != manifest.identity:
        raise BadAnswer(
            peer.url, f"its manifest of {listing.version} is not the one that the deciding server has"
        )
    if listing.digest not in manifest.digests.values():
        raise BadAnswer(peer.url, f"its manifest of {listing.version} has another digest than its list")
    if listing.shards not in (None, len(manifest.shards)):
        raise BadAnswer(
            peer.url, f"its manifest of {listing.version} has another count of shards than its list"
        )


async def _find_out(listing: Listing, peers: Sequence[Peer]) -> VersionDescription:
    """Describe an old node's version by the sizes of its shards, asked one by one.

    Raises:
        PeerError: no server tells a size.
    """
    order = list(peers)  # a server that answered comes first

    async def size(shard: int, digits: int) -> int:
        failure: PeerError | None = None
        works = [partial(ask, peer, shard, digits) for peer in order]
        async with aclosing(start_staggered(works, STALL_WHEN_OTHERS_CAN)) as asked:
            async for asking in asked:
                try:
                    if asking:
                        return asking.result()
                except PeerError as error:
                    # A server without the shard says less than a server out of reach.
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
        return VersionDescription(
            manifest_of_old_node(listing.version, [0], {"sha256": listing.digest}), _DIGITS, peers
        )
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
    return VersionDescription(
        manifest_of_old_node(listing.version, sizes, {algorithm: listing.digest}), digits, peers
    )
