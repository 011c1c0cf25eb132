"""The feed: its lines, the events behind it, and the door that tells them to whoever follows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import example, given
from hypothesis import strategies as st

from shardcast.protocol.distribution import Listing
from shardcast.protocol.feed import (
    ABORTED,
    COMPLETE,
    KNOWN,
    MAX_CHAIN,
    MAX_REASON,
    OPEN,
    RETIRED,
    WITHDRAWN,
    Event,
    FeedError,
    FeedReader,
    Hello,
    Position,
    UpTo,
    printable_reason,
)
from shardcast.protocol.lines import MAX_LINE
from shardcast.server import writing
from shardcast.server.application import application, serve
from shardcast.server.bounds import Bounds
from shardcast.server.routes import feed as door
from shardcast.store.data_dir import DataDir
from shardcast.store.events import Events
from shardcast.store.versions import VersionFolders
from tests.support.payloads import manifest, patient, sha256

Said = Hello | Event | UpTo

A = "a" * 64
BOUND = 20.0  # seconds; whatever happens here, it has happened by then
SOON = 2.0  # seconds; the next heartbeat comes later
HELLO = Hello("5f0c", "81ab", "e1d4", 0, True, (), False, 3)


# The lines ---------------------------------------------------------------------------------------

IDS = st.text("0123456789abcdefXYZ", min_size=1, max_size=64)
VERSIONS = st.integers(1, 10**18 - 1).map("v{}".format)
DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)
SEQS = st.integers(0, 10**15)
LISTINGS = st.builds(Listing, VERSIONS, DIGESTS, st.none() | st.integers(0, 10**6), st.none() | DIGESTS)
REASONS = st.text(max_size=MAX_REASON).map(printable_reason)
SAID = st.one_of(
    st.builds(Event, SEQS, st.sampled_from([OPEN, ABORTED, RETIRED]), VERSIONS),
    st.builds(
        lambda seq, kind, listing: Event(seq, kind, listing.version, listing),
        SEQS,
        st.sampled_from([COMPLETE, KNOWN]),
        LISTINGS,
    ),
    st.builds(
        lambda seq, listing, reason: Event(seq, WITHDRAWN, listing.version, listing, reason),
        SEQS,
        LISTINGS,
        REASONS,
    ),
    st.builds(UpTo, SEQS),
)
HELLOS = st.builds(
    Hello, IDS, IDS, st.none() | IDS, st.none() | st.integers(0, 1000), st.booleans(),
    st.none() | st.lists(IDS, max_size=MAX_CHAIN).map(tuple), st.booleans(),
    st.none() | st.integers(0, 10**18 - 1),
)  # fmt: skip
FEEDS = st.builds(lambda hello, rest: [hello, *rest], HELLOS, st.lists(SAID | HELLOS, max_size=6))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | IDS | VERSIONS | DIGESTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
KEYS = ["feed", "node", "origin", "distance", "now", "chain", "silent", "highest", "seq", "event",
        "version", "digest", "shards", "manifest", "reason"]  # fmt: skip
NONSENSE = st.one_of(
    st.binary(max_size=40),
    st.dictionaries(st.sampled_from(KEYS), JSON).map(lambda said: json.dumps(said).encode()),
    SAID.map(lambda said: said.line().strip()),
    JSON.map(lambda said: json.dumps(said).encode()),
)


def read(*chunks: bytes) -> list[Said]:
    reader = FeedReader()
    return [said for chunk in chunks for said in reader.feed(chunk)]


def written(said: Sequence[Said]) -> bytes:
    return b"".join(one.line() for one in said)


def line(**said: Any) -> bytes:
    return json.dumps(said).encode() + b"\n"


@patient
@given(FEEDS, st.data())
def test_written_feed_is_read_at_any_chunk_boundaries(said: list[Said], data: st.DataObject) -> None:
    body = written(said)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)))
    chunks = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert read(*chunks) == said
    assert read(*(bytes([byte]) for byte in body)) == said


@patient
@given(FEEDS)
def test_lines_before_a_break_count_and_partial_line_does_not(said: list[Said]) -> None:
    assert read(written(said)[:-1]) == said[:-1]


@patient
@given(st.lists(st.binary()), st.lists(NONSENSE, max_size=5))
@example([], [b"[" * 60_000])
@example([], [b'{"seq":' + b"9" * 6000 + b"}"])
@example(
    [], [b'{"seq":1,"event":[],"version":"v1"}', b"{}", b"null", b"\xff\xfe{\x00}\x00", b"\xef\xbb\xbf{}"]
)
def test_any_bytes_parse_or_raise_malformed(chunks: list[bytes], lines: list[bytes]) -> None:
    for some in (chunks, [HELLO.line() + b"".join(one + b"\n" for one in lines)]):
        with contextlib.suppress(FeedError):
            for said in read(*some):
                assert read(HELLO.line(), said.line()) == [HELLO, said]


def test_line_over_64_kib_is_refused() -> None:
    def padded(size: int) -> bytes:
        bare = len(line(seq=1, more=""))
        return line(seq=1, more="x" * (size + 1 - bare))

    assert MAX_LINE == 64 * 1024
    assert len(padded(MAX_LINE)) == MAX_LINE + 1, "the newline is not counted"
    assert read(HELLO.line(), padded(MAX_LINE), padded(5000)) == [HELLO, UpTo(1), UpTo(1)]
    with pytest.raises(FeedError):
        read(HELLO.line(), padded(MAX_LINE + 1))


@pytest.mark.parametrize("chunk", [b"x", b" " * 1000, b'{"feed":' * 5000])
def test_endless_line_is_not_buffered(chunk: bytes) -> None:
    reader, taken = FeedReader(), 0
    list(reader.feed(HELLO.line()))
    with pytest.raises(FeedError):
        while taken < 2 * MAX_LINE + len(chunk):
            taken += len(chunk)
            list(reader.feed(chunk))
    assert taken <= MAX_LINE + len(chunk)


def test_unknown_keys_and_events_are_ignored() -> None:
    assert read(
        line(feed="5f0c", node="81ab", origin="e1d4", distance=0, now=True, chain=[], highest=3, mood="good"),
        line(seq=1, event="complete", version="v1", digest=A, shards=2, size=[7]),
        line(seq=2, event="renamed", version="v1", to="v2"),
        line(seq=3, since=0),
    ) == [HELLO, Event(1, COMPLETE, "v1", Listing("v1", A, 2)), UpTo(3)]


def test_unknown_event_without_version_is_ignored() -> None:
    assert read(HELLO.line(), line(seq=4, event="leaving"), line(seq=5)) == [HELLO, UpTo(5)]


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("loss was NaN", "loss was NaN"),
        (" a\x1b[2J\nv2 was published ", "a\\x1b[2J\\nv2 was published"),
        ("x" * 10_000, "x" * (MAX_REASON - 1) + "…"),
    ],
)
def test_reason_is_made_one_printable_line(reason: str, told: str) -> None:
    said = read(HELLO.line(), line(seq=1, event=WITHDRAWN, version="v1", digest=A, reason=reason))
    assert said == [HELLO, Event(1, WITHDRAWN, "v1", Listing("v1", A, None), told)]


def test_hello_without_origin_or_distance_is_accepted() -> None:
    assert read(line(feed="5f0c", node="81ab")) == [Hello("5f0c", "81ab", None, None, False)]


@pytest.mark.parametrize(
    "bad",
    [
        {"seq": True}, {"seq": -1}, {"seq": 10**15 + 1}, {"seq": 1.0}, {"seq": "1"}, {"seq": None},
        {"event": OPEN, "version": "v1"},
        {"seq": 1, "event": OPEN}, {"seq": 1, "event": OPEN, "version": 1},
        {"seq": 1, "event": OPEN, "version": "v0"}, {"seq": 1, "event": OPEN, "version": "../v1"},
        {"seq": 1, "event": OPEN, "version": "v" + "9" * 19}, {"seq": 1, "event": OPEN, "version": "v١"},
        {"seq": 1, "event": COMPLETE, "version": "v1"},
        {"seq": 1, "event": COMPLETE, "version": "v1", "digest": A[1:], "shards": 1},
        {"seq": 1, "event": COMPLETE, "version": "v1", "digest": A.upper(), "shards": 1},
        {"seq": 1, "event": COMPLETE, "version": "v1", "digest": [A], "shards": 1},
        {"seq": 1, "event": COMPLETE, "version": "v1", "digest": A, "shards": -1},
        {"seq": 1, "event": COMPLETE, "version": "v1", "digest": A, "shards": True},
        {"seq": 1, "event": COMPLETE, "version": "v1", "digest": A, "shards": 1.0},
        {"seq": 1, "event": COMPLETE, "version": "v1", "digest": A, "shards": 10**6 + 1},
        {"feed": "", "node": "b"}, {"feed": "a"}, {"feed": 1, "node": "b"}, {"feed": "a&b=1", "node": "b"},
        {"feed": "a" * 65, "node": "b"}, {"feed": "ä", "node": "b"}, {"feed": "a", "node": "b\r\nX: y"},
        {"feed": "a", "node": "b", "origin": ""}, {"feed": "a", "node": "b", "origin": 7},
        {"feed": "a", "node": "b", "distance": -1}, {"feed": "a", "node": "b", "distance": 1001},
        {"seq": 1, "event": KNOWN, "version": "v1"}, {"seq": 1, "event": WITHDRAWN, "version": "v1"},
        {"seq": 1, "event": COMPLETE, "version": "v1", "digest": A, "shards": 1, "manifest": "no"},
        {"seq": 1, "event": WITHDRAWN, "version": "v1", "digest": A, "reason": 7},
        {"feed": "a", "node": "b", "chain": "b"}, {"feed": "a", "node": "b", "chain": ["ä"]},
        {"feed": "a", "node": "b", "chain": ["c"] * 17}, {"feed": "a", "node": "b", "highest": -1},
        {"feed": "a", "node": "b", "highest": 10**18}, {"feed": "a", "node": "b", "highest": True},
        {"feed": "a", "node": "b", "distance": False}, {"feed": "a", "node": "b", "distance": 1.0},
        {}, [], None, 7, "v1",
    ],
)  # fmt: skip
def test_malformed_line_is_refused(bad: object) -> None:
    with pytest.raises(FeedError):
        read(HELLO.line(), json.dumps(bad).encode() + b"\n")


@pytest.mark.parametrize(
    "first",
    [
        UpTo(1).line(),
        Event(1, OPEN, "v1").line(),
        line(seq=1, event="x", version="v1"),
        b"\n",
        b"<!doctype html>\n",
    ],
)
def test_feed_without_hello_is_refused(first: bytes) -> None:
    with pytest.raises(FeedError):
        read(first, HELLO.line())


# The events --------------------------------------------------------------------------------------


def test_since_returns_events_or_none_beyond_the_kept_ones() -> None:
    events = Events(kept=3)
    assert events.events_after(0) == []
    for number in range(1, 6):
        events.add(OPEN, f"v{number}")
    told = [Event(number, OPEN, f"v{number}") for number in range(1, 6)]
    assert [events.events_after(seq) for seq in range(7)] == [
        None,
        None,
        *(told[seq:] for seq in range(2, 6)),
        None,
    ]


def test_each_run_has_its_own_feed_id() -> None:
    assert Events().feed != Events().feed


async def test_event_wakes_all_waiters() -> None:
    events = Events()
    for happens in (partial(events.add, OPEN, "v1"), partial(events.add, OPEN, "v2"), events.close):
        waiting = [asyncio.ensure_future(events.wait_after(events.seq)) for _ in range(5)]
        await asyncio.sleep(0)
        assert not any(one.done() for one in waiting)
        happens()
        await asyncio.wait_for(asyncio.gather(*waiting), BOUND)
    assert events.closed
    await asyncio.wait_for(events.wait_after(events.seq), BOUND)


# The door ----------------------------------------------------------------------------------------


class Node:
    """Versions in a data directory behind a door that tells of them.

    Attributes:
        place: what the door is told of the origin.
    """

    def __init__(self, folders: VersionFolders) -> None:
        self.folders = folders
        self.events = folders.events
        self.place = Position("e1d4", 0)
        self.url = ""

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Node]:
        add = partial(door.add_feed_routes, shelf=self.folders, node_id="81ab", position=lambda: self.place)
        async with serve(application("81ab", add), "127.0.0.1", 0) as self.url:
            yield self

    async def publish(self) -> str:
        opened = await self.folders.begin_version(self.folders.data_dir.allot())
        opened.files.part(1).write_bytes(b"something")
        opened.files.commit_shard(1, sha256(b"something"), link=False)
        await opened.complete(manifest(b"something", f"v{opened.number}"))
        return f"v{opened.number}"

    @property
    def now(self) -> list[tuple[str, str]]:
        return [(event.kind, event.version) for event in self.folders.versions_now()]


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[VersionFolders]:
    held = DataDir(tmp_path / "data", "origin")
    yield VersionFolders(held)
    held.close()


@pytest.fixture
async def node(folders: VersionFolders) -> AsyncIterator[Node]:
    async with Node(folders).serving() as node:
        yield node


class Ear:
    """A reader of a feed."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self._reader = FeedReader()
        self._said: list[Said] = []

    async def next(self) -> Said | None:
        """What is said next; None at the end."""
        while not self._said:
            chunk = await asyncio.wait_for(self.response.content.readany(), BOUND)
            if not chunk:
                return None
            self._said += self._reader.feed(chunk)
        return self._said.pop(0)

    async def until(self, seq: int) -> list[Said]:
        """All that is said until everything up to ``seq`` is known, without the lines that say only that."""
        heard: list[Said] = []
        deadline = time.monotonic() + BOUND
        while not (isinstance(said := await self.next(), UpTo) and said.seq >= seq):
            assert said, "it ended"
            assert time.monotonic() < deadline, f"{seq} is still not known"
            heard += [] if isinstance(said, UpTo) else [said]
        return heard


@contextlib.asynccontextmanager
async def listen(node: Node, after: str = "") -> AsyncIterator[Ear]:
    asked = {"after": after} if after else {}
    async with aiohttp.ClientSession() as session, session.get(f"{node.url}/feed", params=asked) as response:
        assert response.status == 200
        assert response.content_type == "application/x-ndjson"
        yield Ear(response)


async def told(node: Node, after: str = "") -> list[Said]:
    """What a reader is told first."""
    async with listen(node, after) as ear:
        return await ear.until(node.events.seq)


def short(said: Sequence[Said]) -> list[tuple[str, str]]:
    return [(one.kind, one.version) for one in said if isinstance(one, Event)]


async def test_new_reader_gets_present_versions_then_events(node: Node) -> None:
    for _ in range(3):
        await node.publish()
    await node.folders.retire(2)
    await node.folders.begin_version(node.folders.data_dir.allot())
    async with listen(node) as ear:
        hello, *events = await ear.until(node.events.seq)
        assert hello == Hello(node.events.feed, "81ab", "e1d4", 0, True, ())
        assert short(events) == [(COMPLETE, "v1"), (COMPLETE, "v3"), (OPEN, "v4")] == node.now
        assert [one.listing for one in events if isinstance(one, Event) and one.kind == COMPLETE] == list(
            node.folders.listings
        )
        await node.folders.discard(4)
        await node.publish()
        await node.folders.retire(1)
        heard = await ear.until(node.events.seq)
        assert short(heard) == [(ABORTED, "v4"), (OPEN, "v5"), (COMPLETE, "v5"), (RETIRED, "v1")]
        seqs = [one.seq for one in heard if isinstance(one, Event)]
        assert seqs == list(range(node.events.seq - 3, node.events.seq + 1))


async def test_sending_an_event_starts_no_task_per_reader(node: Node) -> None:
    """A task for each line that is written let a thousand readers wait for each other, twice as long."""
    host, port = node.url.removeprefix("http://").split(":")
    loop, begun = asyncio.get_running_loop(), list[str]()

    def begin(loop: asyncio.AbstractEventLoop, work: Any, **how: Any) -> asyncio.Task[Any]:
        begun.append(work.__qualname__)
        return asyncio.Task(work, loop=loop, **how)

    async with contextlib.AsyncExitStack() as stack:
        readers = []
        for _ in range(10):
            reader, writer = await asyncio.open_connection(host, int(port))
            stack.callback(writer.close)
            writer.write(b"GET /feed HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b'{"seq":0}\n')
            readers.append(reader)
        loop.set_task_factory(begin)
        stack.callback(loop.set_task_factory, None)
        node.events.add(OPEN, "v1")
        for reader in readers:
            await reader.readuntil(b'{"seq":1}\n')
    assert begun == []


async def test_returning_reader_gets_only_missed_events(node: Node) -> None:
    for _ in range(3):
        await node.publish()
    await node.folders.retire(1)
    everything = node.events.events_after(0)
    assert everything
    assert len(everything) == node.events.seq == 7
    for seq in range(8):
        hello, *events = await told(node, f"{node.events.feed}:{seq}")
        assert isinstance(hello, Hello)
        assert not hello.now
        assert events == everything[seq:]


@pytest.mark.parametrize(
    "after",
    ["other:1", "{feed}:", "{feed}", ":1", "{feed}:-1", "{feed}:+1", "{feed}:1.0", "{feed}:1:1", "{feed}: 1",
     "{feed}:١", "{feed}:²", "{feed}:99", "{feed}:" + "9" * 15, "{feed}:" + "1" * 5000,
     "{feed}:1\n", "\0", "ü:1"],
)  # fmt: skip
async def test_reader_of_another_feed_id_gets_everything(node: Node, after: str) -> None:
    await node.publish()
    await node.publish()
    hello, *events = await told(node, after.format(feed=node.events.feed))
    assert isinstance(hello, Hello)
    assert hello.now
    assert short(events) == node.now


async def test_reader_that_missed_too_much_gets_everything(folders: VersionFolders) -> None:
    folders.inventory.events = Events(kept=3)
    async with Node(folders).serving() as node:
        for _ in range(3):
            await node.publish()
        hellos = [(await told(node, f"{node.events.feed}:{seq}"))[0] for seq in range(7)]
        assert [one.now for one in hellos if isinstance(one, Hello)] == [True] * 3 + [False] * 4
        assert short(await told(node, f"{node.events.feed}:2")) == node.now


async def test_slow_reader_is_disconnected_and_gets_everything_anew(
    folders: VersionFolders,
) -> None:
    """Events that it missed are never passed over in silence."""
    folders.inventory.events = Events(kept=3)
    async with Node(folders).serving() as node:
        await node.publish()
        async with listen(node) as ear:
            await ear.until(node.events.seq)
            for number in range(10, 15):  # all of them before the feed comes to write
                node.events.add(OPEN, f"v{number}")
            assert await ear.next() is None
        hello, *events = await told(node, f"{node.events.feed}:2")
        assert isinstance(hello, Hello)
        assert hello.now
        assert short(events) == node.now


async def test_changed_hello_is_sent_again_without_versions(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "FEED_HEARTBEAT", 0.05)
    node.place = Position()
    await node.publish()
    async with listen(node) as ear:
        assert (await ear.until(node.events.seq))[0] == Hello(node.events.feed, "81ab", None, None, True, ())
        node.place = Position("e1d4", 2)
        heard = [await ear.next()]
        while isinstance(heard[-1], UpTo) and len(heard) < 20:
            heard += [await ear.next()]
        assert heard[-1] == Hello(node.events.feed, "81ab", "e1d4", 2, False, ())
        assert await ear.next() == await ear.next() == UpTo(node.events.seq)


async def test_idle_feed_sends_heartbeats(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "FEED_HEARTBEAT", 0.05)
    await node.publish()
    async with listen(node) as ear:
        await ear.until(node.events.seq)
        assert [await ear.next() for _ in range(3)] == [UpTo(node.events.seq)] * 3


async def test_feeds_end_at_once_on_shutdown(folders: VersionFolders) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with Node(folders).serving() as node:
            ears = [await stack.enter_async_context(listen(node)) for _ in range(5)]
            for ear in ears:
                await ear.until(0)
            folders.events.add(OPEN, "v1")
            began = time.monotonic()
        assert time.monotonic() - began < SOON
        for ear in ears:
            assert short(await ear.until(1)) == [(OPEN, "v1")], "what happened before the end is told"
            while (said := await ear.next()) is not None:
                assert said == UpTo(1)


async def test_200_readers_all_get_an_event(node: Node) -> None:
    async with contextlib.AsyncExitStack() as stack:
        ears = await asyncio.gather(*(stack.enter_async_context(listen(node)) for _ in range(200)))
        for ear in ears:
            await ear.until(0)
        await node.publish()
        heard = await asyncio.wait_for(asyncio.gather(*(ear.until(2) for ear in ears)), BOUND)
        assert all(short(one) == [(OPEN, "v1"), (COMPLETE, "v1")] for one in heard)


@pytest.mark.parametrize("again", [False, True])
async def test_event_during_a_write_is_sent_at_once(
    node: Node, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, lines_gone = door._write, 0

    async def write_and_see_news(request: web.Request, response: web.StreamResponse, *lines: bytes) -> None:
        nonlocal lines_gone
        lines_gone += 1
        await write(request, response, *lines)
        if lines_gone == 1 + again:
            node.events.add(OPEN, "v9")

    monkeypatch.setattr(door, "_write", write_and_see_news)
    async with listen(node) as ear:
        await ear.until(0)
        if again:
            node.events.add(OPEN, "v8")
        await asyncio.wait_for(ear.until(1 + again), SOON)


async def test_reader_that_takes_nothing_is_disconnected(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", door.log.name)
    monkeypatch.setattr(writing, "bounds_of", lambda request: Bounds(reader_seconds=0.2))
    much = [Event(0, OPEN, f"v{10**17}")] * 200_000
    monkeypatch.setattr(node.folders, "versions_now", lambda: much)
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", int(node.url.rpartition(":")[2])))
        deaf.sendall(b"GET /feed HTTP/1.1\r\nHost: x\r\n\r\n")
        deadline = time.monotonic() + BOUND
        while "the feed to 127.0.0.1 ended" not in caplog.text:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
    much.clear()
    assert len(await told(node)) == 1, "others are told as ever"


async def test_head_of_feed_has_no_body_and_ends(node: Node) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(node.url.rpartition(":")[2]))
    writer.write(b"HEAD /feed HTTP/1.1\r\nHost: x\r\n\r\nGET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
    first = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SOON)
    second = await asyncio.wait_for(reader.readuntil(b"\r\n"), SOON)
    assert first.startswith(b"HTTP/1.1 ")
    assert second.startswith(b"HTTP/1.1 404 ")
    writer.close()
