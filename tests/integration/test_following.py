"""Servers followed: told by their feeds, asked where they have none, found again when they were lost."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

import pytest
from aiohttp import web

from shardcast.errors import (
    BadAnswer,
    IntegrityError,
    NoServerReachable,
    ServerStalled,
    ServerUnreachable,
    TransferFailed,
)
from shardcast.peer import server as peer_module
from shardcast.peer.server import Peer
from shardcast.peer.session import open_session
from shardcast.policy import authority
from shardcast.policy.fetch_order import FetchQueue, next_version
from shardcast.protocol.distribution import Listing, encode
from shardcast.protocol.feed import ABORTED, COMPLETE, OPEN, RETIRED, Event, Hello, Position, UpTo
from shardcast.server.application import application, serve
from shardcast.server.routes.feed import add_feed_routes
from shardcast.server.routes.versions import add_version_routes
from shardcast.store.data_dir import DataDir
from shardcast.store.versions import VersionFolders
from shardcast.upstream import follow as module
from shardcast.upstream.follow import Following
from shardcast.upstream.offers import open_versions
from tests.support import bad_answers as bad
from tests.support import payloads
from tests.support.bad_servers import CHUNK, BadServer, Behaviour, Exchange, dead_address
from tests.support.feeds import FeedServer
from tests.support.payloads import publish

BOUND = 20.0  # seconds; whatever happens here, it has happened by then
LIST, FEED = "/distribution.txt", "/feed*"
NDJSON = {"Content-Type": "application/x-ndjson"}


def v(number: int, digest: str = "aa") -> Listing:
    return Listing(f"v{number}", digest * 32, 1)


def complete(seq: int, listing: Listing) -> Event:
    return Event(seq, COMPLETE, listing.version, listing)


def hello(now: bool = True, feed: str = "5f0c") -> Hello:
    return Hello(feed, "81ab", "e1d4", 0, now)


def tells(*said: Hello | Event | UpTo | bytes, broken: bool = False, over: bool = False) -> Behaviour:
    """A feed that says this and no more; then it stays open, or is ``broken`` off, or ``over``."""

    async def behave(exchange: Exchange) -> None:
        await exchange.start(200, 10**6 if broken else None, NDJSON)
        await exchange.body(b"".join(one if isinstance(one, bytes) else one.line() for one in said))
        if broken or over:
            await asyncio.sleep(0.02)  # what is in a buffer when a connection breaks is not read any more
            exchange.close()
        else:
            await exchange.wait_for_disconnect()

    return behave


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BadServer]:
    """A static web server with v1 and v2 in its list."""
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "distribution.txt").write_bytes(encode([v(1), v(2)]))
    with BadServer(tmp_path / "static") as server:
        yield server


class Node:
    """A server of ours that can end and begin again.

    Attributes:
        asked: how often each path was asked for.
        after: what the readers of its feed said they know.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: Counter[str] = Counter()
        self.after: list[str] = []
        self.url = ""
        self._readers: list[web.Request] = []
        self._port = 0
        self._running = contextlib.AsyncExitStack()

    async def begin(self) -> None:
        held = DataDir(self.root, "origin")
        self._running.callback(held.close)
        self.folders = VersionFolders(held)
        self.folders.load(resume=False)
        doors = (
            partial(add_version_routes, shelf=self.folders),
            partial(
                add_feed_routes, shelf=self.folders, node_id="81ab", position=lambda: Position("e1d4", 0)
            ),
            lambda app: app.on_response_prepare.append(self._count),
        )
        serving = serve(application("81ab", *doors), "127.0.0.1", self._port)
        self.url = await self._running.enter_async_context(serving)
        self._port = int(self.url.rpartition(":")[2])

    async def end(self) -> None:
        await self._running.aclose()

    async def _count(self, request: web.Request, response: web.StreamResponse) -> None:
        self.asked[request.path] += 1
        if request.path == "/feed":
            self.after.append(request.query.get("after", ""))
            self._readers.append(request)

    def cut(self) -> None:
        """Break all connections of those who follow."""
        for request in self._readers:
            if request.transport:
                request.transport.abort()

    async def publish(self) -> str:
        return await publish(self.folders, b"something else every time %d" % len(self.folders.listings))


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path / "data")
    await node.begin()
    yield node
    await node.end()


@contextlib.asynccontextmanager
async def follow(
    *servers: str | BadServer | Node,
    interval: float = 0.05,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    random: Random | None = None,
) -> AsyncIterator[Following]:
    urls = [one if isinstance(one, str) else one.url for one in servers]
    async with open_session() as session:
        peers = [Peer(url, session) for url in urls]
        async with Following(peers, interval, random=random, sleep=sleep) as following:
            yield following


class Sleeps:
    """Sleeps that last until they are let go.

    Attributes:
        slept: how long they would have been, without those between two readings.
    """

    def __init__(self, at_once: int = 0) -> None:
        self.slept: list[float] = []
        self._free = asyncio.Semaphore(at_once)

    async def __call__(self, seconds: float) -> None:
        if seconds > 0.015:
            self.slept.append(seconds)
            await self._free.acquire()

    def let_go(self) -> None:
        self._free.release()


async def until(condition: Callable[[], bool]) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(wait(), BOUND)


async def settled(following: Following) -> None:
    await asyncio.wait_for(following.wait_until_settled(), BOUND)


def offered(following: Following) -> list[str]:
    """The versions of the first line; none where no server tells."""
    try:
        return [one.version for _, one in sorted(following.standing_or_error().listed.items())]
    except (NoServerReachable, TransferFailed):
        return []


async def until_offered(following: Following, *versions: str) -> None:
    """Wait for news, and nothing else, until this is offered."""

    async def wait() -> None:
        while True:
            seen = following.changes
            if offered(following) == list(versions):
                return
            await following.wait_for_change(seen)

    await asyncio.wait_for(wait(), BOUND)


async def failure(following: Following) -> Exception:
    """What the only server's failure is, once it has failed."""
    (one,) = following.followers
    await until(lambda: one.failure is not None)
    assert one.failure
    assert one.listings is None
    with pytest.raises((NoServerReachable, TransferFailed)):
        following.standing_or_error()
    return one.failure


# With a feed, and without one --------------------------------------------------------------------


async def test_server_with_feed_is_not_polled(node: Node) -> None:
    await node.publish()
    async with follow(node, interval=0.01) as following:
        await settled(following)
        assert offered(following) == ["v1"]
        await node.publish()
        await until_offered(following, "v1", "v2")
        await node.folders.retire(1)
        await until_offered(following, "v2")
        await asyncio.sleep(0.05)  # five intervals
    assert node.asked == {"/feed": 1}


async def test_only_complete_versions_are_offered(server: BadServer) -> None:
    first = [Event(9, OPEN, "v11"), complete(9, v(10)), complete(9, v(9)), complete(9, v(1))]
    then = [Event(10, OPEN, "v12"), Event(11, ABORTED, "v11"), Event(12, RETIRED, "v1"), complete(13, v(12))]
    then += [Event(14, OPEN, "v12"), Event(15, RETIRED, "v7"), complete(16, v(2))]
    server.set(FEED, tells(hello(), *first, UpTo(9), *then, UpTo(16)))
    async with follow(server) as following:
        await until_offered(following, "v2", "v9", "v10", "v12")
        assert following.followers[0].listings == (v(2), v(9), v(10), v(12))


@pytest.mark.parametrize("feed", [bad.error(404), bad.html(), bad.error(405), bad.error(501), bad.error(503)])
async def test_server_without_feed_is_polled_every_interval(server: BadServer, feed: Behaviour) -> None:
    server.set(FEED, feed)
    sleeps = Sleeps()
    async with follow(server, interval=60, sleep=sleeps) as following:
        await settled(following)
        assert offered(following) == ["v1", "v2"]
        for asked in range(1, 4):
            await until(lambda asked=asked: len(sleeps.slept) == asked)  # type: ignore[misc]
            assert server.requested(LIST) == asked
            sleeps.let_go()
        await until(lambda: server.requested(LIST) == 4)
        (server.data_dir / "distribution.txt").write_bytes(encode([v(3)]))
        sleeps.let_go()
        await until_offered(following, "v3")
    assert set(sleeps.slept) == {60}


async def test_server_that_gains_a_feed_is_followed_by_it(server: BadServer) -> None:
    server.set(FEED, bad.first(bad.error(404), 2, then=tells(hello(), complete(1, v(3)), UpTo(1))))
    async with follow(server) as following:
        await until_offered(following, "v3")
        (one,) = following.followers
        assert one.hello == hello()
    assert server.requested(LIST) == 2


# Lost, and found again ---------------------------------------------------------------------------


async def test_restarted_server_is_followed_again(node: Node) -> None:
    await node.publish()
    await node.publish()
    async with follow(node) as following:
        await until_offered(following, "v1", "v2")
        await node.end()
        await until(lambda: following.followers[0].failure is not None)
        assert offered(following) == []
        await node.begin()
        await node.folders.retire(1)
        await until_offered(following, "v2")
        await node.publish()
        await until_offered(following, "v2", "v3")


async def test_reconnect_requests_only_missed_events(node: Node) -> None:
    await node.publish()
    await node.publish()
    async with follow(node) as following:
        await until_offered(following, "v1", "v2")
        node.cut()
        await node.publish()
        await node.folders.retire(1)
        await until_offered(following, "v2", "v3")
        (one,) = following.followers
        assert one.hello
        assert not one.hello.now
    assert node.after == ["", f"{node.folders.events.feed}:2"]


async def test_feed_broken_during_snapshot_keeps_known_versions(
    server: BadServer,
) -> None:
    begins = tells(hello(), complete(1, v(1)), complete(2, v(2)), UpTo(2), broken=True)
    amid = tells(hello(), complete(5, v(7)), broken=True)
    goes_on = tells(hello(now=False), complete(3, v(3)), UpTo(3))
    server.set("/feed", begins)
    server.set("/feed?after=5f0c:2", bad.first(amid, then=goes_on))
    async with follow(server) as following:
        seen, offers = -1, [["none"]]
        while offers[-1] != ["v1", "v2", "v3"]:
            await asyncio.wait_for(following.wait_for_change(seen), BOUND)
            seen = following.changes
            offers += [offered(following)]
    assert all(one in ([], ["v1", "v2"], ["v1", "v2", "v3"]) for one in offers[1:])


async def test_repeated_events_after_a_break_are_harmless(server: BadServer) -> None:
    missed = [complete(3, v(3)), Event(4, RETIRED, "v1"), Event(5, RETIRED, "v3"), complete(6, v(4))]
    server.set("/feed", tells(hello(), complete(1, v(1)), complete(2, v(2)), UpTo(2), over=True))
    again = tells(hello(now=False), *missed, UpTo(6))
    server.set("/feed?after=5f0c:2", bad.first(tells(hello(now=False), *missed[:3], broken=True), then=again))
    async with follow(server) as following:
        await until_offered(following, "v2", "v4")


async def test_lost_server_is_retried_with_backoff() -> None:
    sleeps = Sleeps(at_once=10)
    with dead_address() as dead:
        async with follow(f"http://{dead}", interval=60, sleep=sleeps, random=Random(1)):
            await until(lambda: len(sleeps.slept) == 11)
    longest = [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 10, 10, 10]
    parts = [pause / most for pause, most in zip(sleeps.slept, longest, strict=True)]
    assert 0.5 <= min(parts) < 0.7, "pauses are spread"
    assert 0.8 < max(parts) <= 1.0, "pauses are spread"


async def test_backoff_never_exceeds_the_polling_interval() -> None:
    sleeps = Sleeps(at_once=10)
    with dead_address() as dead:
        async with follow(f"http://{dead}", interval=1, sleep=sleeps):
            await until(lambda: len(sleeps.slept) == 11)
    assert max(sleeps.slept) <= 1


async def test_backoff_differs_between_followers() -> None:
    first, second = Sleeps(at_once=5), Sleeps(at_once=5)
    with dead_address() as dead:
        async with follow(f"http://{dead}", sleep=first), follow(f"http://{dead}", sleep=second):
            await until(lambda: len(first.slept) == len(second.slept) == 6)
    assert not set(first.slept) & set(second.slept)


async def test_server_that_ends_feeds_at_once_gets_backoff(server: BadServer) -> None:
    server.set(FEED, tells(hello(), UpTo(0), over=True))
    sleeps = Sleeps(at_once=9)
    async with follow(server, interval=60, sleep=sleeps):
        await until(lambda: len(sleeps.slept) >= 9)
    assert [pause for pause in sleeps.slept if pause > 0.05][-1] >= 0.8


# Bad feeds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        [b"garbage\n"], [UpTo(1)], [hello(), b"\x00" * 70_000], [hello(), b"[" * 60_000 + b"\n"],
        [hello(), Event(1, COMPLETE, "v1")], [hello(), UpTo(1), b"{}\n"],
        [hello(), UpTo(1), hello(now=False, feed="6a1d")],
    ],
)  # fmt: skip
async def test_malformed_feed_is_a_failure(
    server: BadServer, said: list[Hello | Event | UpTo | bytes]
) -> None:
    server.set(FEED, tells(*said))
    sleeps = Sleeps()
    async with follow(server, sleep=sleeps) as following:
        assert isinstance(await failure(following), BadAnswer)
    assert server.requested(LIST) == 0


async def test_feed_continuing_from_unknown_event_is_a_failure(server: BadServer) -> None:
    other = tells(hello(now=False, feed="6a1d"), complete(2, v(9)), UpTo(2))
    server.set("/feed", bad.first(tells(hello(), complete(1, v(1)), UpTo(1), over=True), then=other))
    server.set("/feed?after=5f0c:1", bad.error(503))
    async with follow(server) as following:
        (one,) = following.followers
        await until(lambda: isinstance(one.failure, BadAnswer) or "v9" in offered(following))
        assert "v9" not in offered(following)


@pytest.mark.parametrize(
    "feed",
    [
        bad.redirect_loop(),
        bad.huge_headers(),
        tells(hello(), broken=True),
        tells(hello(), complete(1, v(1)), UpTo(1), broken=True),
    ],
)
async def test_wrong_answer_is_a_failure(server: BadServer, feed: Behaviour) -> None:
    server.set(FEED, feed)
    async with follow(server, sleep=Sleeps()) as following:
        assert isinstance(await failure(following), BadAnswer)


async def test_connection_broken_before_an_answer_is_unreachable(server: BadServer) -> None:
    server.set(FEED, bad.closed())
    async with follow(server, sleep=Sleeps()) as following:
        assert isinstance(await failure(following), ServerUnreachable)


async def test_feed_with_endless_line_is_a_failure(server: BadServer) -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.start(200, None, NDJSON)
        while True:
            await exchange.send(b"x" * CHUNK)

    server.set(FEED, endless)
    async with follow(server, sleep=Sleeps()) as following:
        assert isinstance(await failure(following), BadAnswer)
        await until(lambda: server.idle)  # it is not read any more


@pytest.mark.parametrize(
    "line",
    [b'{"seq":1,"event":"unheard-of"}\n', Event(1, OPEN, "v7").line() + Event(1, RETIRED, "v7").line()],
    ids=["nothing known", "nothing that lasts"],
)
async def test_flooding_feed_does_not_delay_other_servers(line: bytes, server: BadServer, node: Node) -> None:
    """It breaks no rule for as long as it isn't dead, and must not cost a node the time that others need."""

    async def endless(exchange: Exchange) -> None:
        await exchange.start(200, None, NDJSON)
        await exchange.send(hello().line())
        while True:
            await exchange.send(line * 2000)

    await node.publish()
    server.set(FEED, endless)
    async with follow(server, node) as following:
        await until_offered(following, "v1")
        await until(lambda: server.sent_bytes(FEED) > 1_000_000)
        begun, used = time.monotonic(), time.thread_time()
        await asyncio.sleep(0.5)
        share = (time.thread_time() - used) / (time.monotonic() - begun)
        assert share < 0.6, f"it takes {share:.0%} of the event loop's time"


async def test_flooding_feed_is_read_with_pauses(server: BadServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """How much of the loop's time it takes depends on the machine; that it pauses does not."""
    said, pauses, sleep = Event(1, OPEN, "v7").line(), 0, asyncio.sleep

    async def endless(exchange: Exchange) -> None:
        await exchange.start(200, None, NDJSON)
        await exchange.send(hello().line())
        while True:
            await exchange.send(said * 2000)

    async def counted(seconds: float) -> None:
        nonlocal pauses
        pauses += seconds == 12.34
        await sleep(0)

    server.set(FEED, endless)
    monkeypatch.setattr(peer_module, "_FEED_PACE", 12.34)
    monkeypatch.setattr(asyncio, "sleep", counted)
    async with open_session() as session, contextlib.aclosing(Peer(server.url, session).feed("")) as feed:
        for _ in range(2_000_000 // len(said)):
            await anext(feed)
    assert pauses > 20


@pytest.mark.parametrize("kind", [OPEN, COMPLETE])
async def test_feed_with_endless_versions_is_a_failure(server: BadServer, kind: str) -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.start(200, None, NDJSON)
        await exchange.send(hello().line())
        for first in range(1, 10**9, 100):
            numbers = range(first, first + 100)
            await exchange.send(b"".join(Event(1, kind, f"v{n}", v(n)).line() for n in numbers))

    server.set(FEED, endless)
    async with follow(server, sleep=Sleeps()) as following:
        assert isinstance(await failure(following), BadAnswer)
        await until(lambda: server.idle)


async def test_server_with_silent_feed_is_asked_for_its_list(
    server: BadServer, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_module, "FEED_DEAD", 1.0)
    server.set(FEED, tells())
    server.set(LIST, bad.replaced(b"v1: " + b"0" * 64 + b"|1\n"))
    async with follow(server) as following:  # a proxy holds the feed back, say
        await until_offered(following, "v1")


@pytest.mark.parametrize("said", [[hello()], [hello(), complete(1, v(1)), UpTo(1)]])
async def test_silent_feed_is_a_failure(
    server: BadServer, said: list[Hello | Event | UpTo], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_module, "FEED_DEAD", 1.0)
    server.set(FEED, tells(*said))
    async with follow(server, sleep=Sleeps()) as following:
        assert isinstance(await failure(following), ServerStalled)


def trickles(drop: bytes) -> Behaviour:
    """A feed that begins, and then says this again and again."""

    async def behave(exchange: Exchange) -> None:
        await exchange.start(200, None, NDJSON)
        await exchange.send(hello().line())
        while True:
            await exchange.send(drop)
            await asyncio.sleep(0.05)

    return behave


async def test_feed_trickling_without_line_is_a_failure(
    server: BadServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_module, "FEED_DEAD", 1.0)
    server.set(FEED, trickles(b" "))
    async with follow(server, sleep=Sleeps()) as following:
        await settled(following)
        assert isinstance(await failure(following), ServerStalled)


@pytest.mark.parametrize("said", [hello(), Event(1, OPEN, "v1")])
async def test_feed_with_endless_snapshot_is_a_failure(
    server: BadServer, said: Hello | Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_module, "FEED_DEAD", 1.0)
    server.set(FEED, trickles(said.line()))
    async with follow(server, sleep=Sleeps()) as following:
        await settled(following)
        await failure(following)


async def test_bad_feed_does_not_block_others(server: BadServer, node: Node) -> None:
    await node.publish()
    server.set(FEED, tells(b"garbage\n"))
    async with follow(server, node) as following:
        await settled(following)
        await until_offered(following, "v1")
        await until(lambda: [one.peer.url for one in following.followers if one.failure] == [server.url])


# All of them together ----------------------------------------------------------------------------


async def test_no_offers_without_reachable_server() -> None:
    with dead_address() as one, dead_address() as other:
        async with follow(f"http://{one}", f"http://{other}") as following:
            await settled(following)
            with pytest.raises(NoServerReachable, match=f"(?s){one}.*{other}"):
                following.standing_or_error()
    async with follow() as following:
        await settled(following)
        with pytest.raises(NoServerReachable):
            following.standing_or_error()


async def test_silent_server_is_not_awaited_once_another_answered(
    server: BadServer, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STALL_WHEN_OTHERS_CAN", 0.1)
    monkeypatch.setattr(authority, "JUST_STARTED", 0.1)
    await node.publish()
    server.set("*", bad.silent())
    async with follow(server, node) as following:
        await asyncio.wait_for(following.wait_until_settled(), 2)
        assert offered(following) == ["v1"]
        assert not following.followers[0].answered


async def test_silent_server_is_awaited_while_no_server_answered(server: BadServer) -> None:
    server.set("*", bad.silent())
    with dead_address() as dead:
        async with follow(server, f"http://{dead}", sleep=Sleeps()) as following:
            await until(lambda: following.followers[1].failure is not None)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(following.wait_until_settled(), 0.3)


async def test_server_order_decides_the_first_line(server: BadServer, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with BadServer(tmp_path / "other").set(FEED, tells(hello(), complete(1, v(1, "bb")), UpTo(1))) as other:
        for order in ([server, other], [other, server]):
            async with follow(*order) as following:
                await settled(following)
                standing = following.standing_or_error()
            groups = [standing.group, *standing.others]
            assert [group.servers for group in groups] == [(one.url,) for one in order]
            assert [one.peer.url for one in following.followers] == [one.url for one in order]


async def test_open_versions_come_only_from_servers_nearer_the_origin(tmp_path: Path) -> None:
    """Two relays at the same distance would wait for each other for ever."""
    with FeedServer(tmp_path) as relay:
        relay.set_feed("e1d4", [], Event(1, OPEN, "v1"), distance=1)
        async with follow(relay) as following:
            await until(lambda: 1 in open_versions(following))
            assert 1 in open_versions(following, nearer_than=2)
            assert open_versions(following, nearer_than=1) == {}


async def test_only_versions_of_the_authority_are_confirmed(tmp_path: Path) -> None:
    made = payloads.manifest(b"what is listed", origin="e1d4")
    other = payloads.manifest(b"something else", origin="e1d4")
    renamed = payloads.manifest(b"what is listed", name="other.bin", origin="e1d4")
    assert renamed.digests == made.digests
    with FeedServer(tmp_path) as authority:
        authority.set_feed("e1d4", [Listing("v1", made.digests["sha256"], 1, made.identity)])
        async with follow(authority) as following:
            await until_offered(following, "v1")
            await asyncio.wait_for(following.confirm(made), BOUND)
            for wrong in (other, renamed):
                with pytest.raises(IntegrityError, match="is not the version that"):
                    await asyncio.wait_for(following.confirm(wrong), BOUND)
            unlisted = payloads.manifest(b"what is listed", "v2", origin="e1d4")
            with pytest.raises(TransferFailed, match="does not list it"):
                await asyncio.wait_for(following.confirm(unlisted, patience=0.05), BOUND)


async def test_dropped_server_is_not_followed(server: BadServer, node: Node) -> None:
    await node.publish()
    server.set(FEED, tells(hello(), complete(1, v(5)), UpTo(1)))
    async with follow(server, node) as following:
        await settled(following)
        await following.remove_server(server.url)
        await until_offered(following, "v1")
        assert [one.peer.url for one in following.followers] == [node.url]
        await until(lambda: server.idle)  # the connection is gone
        await following.remove_server(server.url)
        await following.remove_server(node.url)
        with pytest.raises(NoServerReachable):
            following.standing_or_error()


async def test_every_waiter_sees_each_change(node: Node) -> None:
    async with follow(node) as following:
        await settled(following)
        waiting = [asyncio.ensure_future(following.wait_for_change(following.changes)) for _ in range(3)]
        await asyncio.sleep(0.02)
        assert not any(one.done() for one in waiting)
        await node.publish()
        await asyncio.wait_for(asyncio.gather(*waiting), BOUND)
        await asyncio.wait_for(following.wait_for_change(following.changes - 1), BOUND)


async def test_no_task_is_left_after_following(server: BadServer, tmp_path: Path) -> None:
    (tmp_path / "silent").mkdir()
    server.set(FEED, tells(hello(), *[UpTo(number) for number in range(1000)]))  # it is read for 10 s
    async with open_session() as session:
        with dead_address() as dead, BadServer(tmp_path / "silent").set("*", bad.silent()) as silent:
            peers = [Peer(url, session) for url in (server.url, silent.url, f"http://{dead}")]
            before = asyncio.all_tasks()
            async with Following(peers, 60) as following:
                await until(lambda: bool(offered(following) or following.followers[0].answered))
                assert asyncio.all_tasks() > before
            assert asyncio.all_tasks() == before
            await until(lambda: server.idle and silent.idle)
            assert asyncio.all_tasks() == before


async def test_internal_errors_are_raised(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    async def sleep(seconds: float) -> None:
        raise ZeroDivisionError

    async with follow(node, sleep=sleep) as following:
        await until(lambda: following.changes >= 2)
        with pytest.raises(ZeroDivisionError):
            following.standing_or_error()


# Which one is next -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "last", "newest", "oldest"),
    [
        ([1, 2, 3], 0, 3, 1),
        ([3, 1, 2], 1, 3, 2),
        ([1, 2, 3], 3, None, None),
        ([], 0, None, None),
        ([7], 2, 7, 7),
    ],
)
def test_next_version_is_newest_or_the_following_number(
    offered: list[int], last: int, newest: int | None, oldest: int | None
) -> None:
    assert next_version(offered, last) == newest
    assert next_version(iter(offered), last, every=True) == oldest


def test_every_skips_no_version_that_a_relay_has_later() -> None:
    assert next_version([1, 4], 0, {1}, every=True) == 4
    assert next_version([1, 2, 3, 4], 0, {1, 4}, every=True) == 2
    assert next_version([1, 2, 3, 4], 0, {1, 4}) is None
    assert next_version([5, 6], 5, {6}, every=True) is None


A, B = ["a"], ["b"]


def test_failed_version_is_skipped_until_retry() -> None:
    agenda = FetchQueue(last=4)
    offered = {4: A, 5: A, 6: A, 7: A}
    assert agenda.next(offered, {}) == 7
    agenda.mark_failed(7, complete=True)
    assert agenda.next(offered, {}) == 6
    agenda.mark_fetched(6)
    assert agenda.next(offered, {}) is None
    agenda.retry_all()
    assert agenda.next(offered, {}) == 7


def test_failed_open_version_is_next_when_complete() -> None:
    agenda = FetchQueue()
    assert agenda.next({}, {1: A}) == 1
    agenda.mark_failed(1, complete=False)
    agenda.retry_all()
    assert agenda.next({}, {1: A}) is None
    assert agenda.next({1: A}, {}) == 1


@pytest.mark.parametrize("every", [False, True])
def test_versions_of_suspect_servers_come_last(every: bool) -> None:
    agenda = FetchQueue(last=1, every=every)
    agenda.mark_suspect(B)
    assert agenda.next({2: A, 9: B}, {3: A}) == 2
    assert agenda.next({9: B}, {3: A}) == 3
    assert agenda.next({9: B}, {3: B}) == 9
    assert agenda.next({2: [*A, *B]}, {}) == 2
    assert agenda.next_elsewhere({2: A, 9: B}, {3: [*A, *B]}, servers=A) is None
    assert agenda.next_elsewhere({2: [*A, "c"]}, {}, servers=A) == 2


@pytest.mark.parametrize("every", [False, True])
def test_without_first_version_newest_available_is_next(every: bool) -> None:
    agenda = FetchQueue(every=every)
    agenda.mark_failed(9, complete=True)
    assert agenda.next({7: A, 8: A, 9: B}, {}) == 8
    agenda.mark_fetched(8)
    agenda.retry_all()
    assert agenda.next({7: A, 8: A, 9: B, 10: A}, {}) == (9 if every else 10)
    assert agenda.next({7: A, 8: A}, {}) is None


def test_suspect_servers_are_trusted_again_after_a_while() -> None:
    agenda = FetchQueue(last=1)
    agenda.mark_suspect(B)
    assert agenda.next({2: A, 9: B}, {}) == 2
    agenda.retry_all()
    assert agenda.next({2: A, 9: B}, {}) == 9
