"""What the servers offer: their distribution lists, read at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from shardcast.constants import STALL_WHEN_OTHERS_CAN, UNREACHABLE_AT_START
from shardcast.distribution import Listing
from shardcast.errors import (
    NoServerReachable,
    PeerError,
    ServerStalled,
    ServerUnreachable,
    TransferFailed,
    VersionNotOffered,
)
from shardcast.peer.peer import Peer
from shardcast.policy.lines import Line, lines
from shardcast.store.tasks import cancel

log = logging.getLogger(__name__)

LATEST = "latest"
"""The newest version that is on offer."""


@dataclass(frozen=True, slots=True)
class Offers:
    """What was read.

    Attributes:
        lines: servers that agree with each other; the first is that of the first server that answered.
        failures: what the other servers did.
    """

    lines: tuple[Line, ...]
    failures: dict[str, PeerError]


async def read_offers(
    peers: Sequence[Peer],
    patience: float = UNREACHABLE_AT_START,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Offers:
    """Ask every server for its list. One that can't be reached is tried for ``patience`` seconds, but
    nobody waits for it when another has answered.

    Raises:
        NoServerReachable: none answered.
        TransferFailed: some did, but not with a list.
    """
    if not peers:
        raise NoServerReachable("no server is left to ask")
    failures: dict[str, PeerError] = {}
    news = asyncio.Event()

    async def ask(peer: Peer) -> tuple[Listing, ...]:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(ServerUnreachable),
            stop=stop_after_delay(patience),
            wait=wait_random_exponential(multiplier=0.2, max=2),
            sleep=sleep,
            reraise=True,
        ):
            with attempt:
                try:
                    listings = await peer.listings()
                except PeerError as error:
                    failures[peer.url] = error
                    news.set()
                    raise
                failures.pop(peer.url, None)
                return listings
        raise AssertionError("tenacity ends with a result or an error")

    tasks = {peer.url: asyncio.ensure_future(ask(peer)) for peer in peers}
    for task in tasks.values():
        task.add_done_callback(lambda _: news.set())
    try:
        await _until_enough(tasks, failures, news)
    finally:
        unanswered = [url for url, task in tasks.items() if not task.done()]
        await cancel(tasks.values())
    for url in unanswered:
        failures.setdefault(url, PeerError(url, "no list while the others answered"))
    readings = [
        (url, task.result()) for url, task in tasks.items() if not task.cancelled() and not task.exception()
    ]
    return sort_out(readings, failures)


def sort_out(readings: Sequence[tuple[str, tuple[Listing, ...]]], failures: dict[str, PeerError]) -> Offers:
    """What was read, by lines.

    Raises:
        NoServerReachable: none could be reached.
        TransferFailed: some could, but have no list.
    """
    if not readings:
        if not failures:
            raise NoServerReachable("no server is left to ask")
        told = "; ".join(map(str, failures.values()))
        if all(isinstance(one, (ServerUnreachable, ServerStalled)) for one in failures.values()):
            raise NoServerReachable(
                f"no server could be reached: {told}; check the addresses and that the servers run"
            )
        raise TransferFailed(f"no server has a list of versions: {told}; are these shardcast's servers?")
    return Offers(tuple(lines(readings)), failures)


async def _until_enough(
    tasks: Mapping[str, asyncio.Future[tuple[Listing, ...]]],
    failures: Mapping[str, PeerError],
    news: asyncio.Event,
) -> None:
    """Wait until every server has answered or given up; once one has answered, only for those that have
    not failed yet, and not for long."""
    loop = asyncio.get_running_loop()
    deadline: float | None = None
    while not all(task.done() for task in tasks.values()):
        if any(task.done() and not task.exception() for task in tasks.values()):
            deadline = deadline or loop.time() + STALL_WHEN_OTHERS_CAN
            if all(task.done() or url in failures for url, task in tasks.items()):
                return
        try:
            await asyncio.wait_for(news.wait(), None if deadline is None else deadline - loop.time())
        except asyncio.TimeoutError:
            return
        news.clear()


def find(lines: Sequence[Line], version: str) -> tuple[Line, Listing]:
    """The first line that offers a version (or ``LATEST``), and its listing.

    Raises:
        VersionNotOffered: none does.
    """
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
