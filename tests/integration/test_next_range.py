"""Ranges that a server hands out: to whom, in which order, once each, and again only where they were lost."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest

from shardcast.nodes.open_data_dir import open_data_dir
from shardcast.policy.swarm.rules import SwarmRules
from shardcast.protocol.piece_numbers import PieceNumbers, runs_of
from shardcast.server import hand_outs, version_book
from shardcast.server.application import application, serve
from shardcast.server.hand_outs import UNUSED_SECONDS, HandOuts
from shardcast.server.routes.next_range import add_next_range_routes
from shardcast.server.version_book import STALE_SECONDS
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.versions import VersionFolders
from tests.support import payloads
from tests.support.payloads import PIECE, SHARD, random_bytes

DATA = random_bytes(4 * SHARD + PIECE + 100)
MANIFEST = payloads.manifest(DATA)
NUMBERS = PieceNumbers.of(MANIFEST)
COUNT = 18
OTHER_RUN = 5
"""A piece of the second shard."""


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Handing:
    """A server that hands out, with a clock of its own."""

    url: str
    web: aiohttp.ClientSession
    folders: VersionFolders
    hand_outs: HandOuts
    clock: Clock

    async def post(self, values: dict[str, Any] | bytes, version: str = "v1") -> tuple[int, Any, bytes]:
        """Send a request, and return its answer: status, headers, body."""
        body = values if isinstance(values, bytes) else json.dumps(values).encode()
        async with self.web.post(f"{self.url}/{version}/next", data=body) as answer:
            return answer.status, answer.headers, await answer.read()


@dataclass
class Asker:
    """A node that asks, and reports what it got."""

    server: Handing
    node: str
    has: int = 0
    told: int = 0
    refusals: list[str] = field(default_factory=list)

    async def ask(self, **more: Any) -> int | None:
        """Ask once, and return the piece that came; None where the server gave a reason."""
        run = await self.ask_for_run(**more)
        return run[0] if run else None

    async def ask_for_run(self, **more: Any) -> list[int] | None:
        """Ask once, and return the pieces that came."""
        new, self.told = self.has & ~self.told, self.has
        values = {"node": self.node, "has": runs_of(new), "count": self.told.bit_count(), "offered": True}
        status, headers, body = await self.server.post(values | more)
        if status != 206:
            self.refusals.append(headers["Shardcast-Not-Now"])
            return None
        start, end = (int(text) for text in headers["Content-Range"][6:].partition("/")[0].split("-"))
        shard = MANIFEST.shards[int(headers["Shardcast-Shard"]) - 1]
        assert headers["ETag"] == f'"{shard.sha256}"'
        assert body == DATA[shard.offset + start : shard.offset + end + 1]
        first = NUMBERS.number_at(shard.number, start)
        run = list(range(first, NUMBERS.number_at(shard.number, end) + 1))
        self.has |= sum(1 << number for number in run)
        return run


@asynccontextmanager
async def handing(folders: VersionFolders, **settings: Any) -> AsyncIterator[Handing]:
    """Serve version folders on a port."""
    clock = Clock()
    ledgers = HandOuts(folders, clock=clock, random=Random(1), **settings)
    app = application("aa", partial(add_next_range_routes, shelf=folders, hand_outs=ledgers), as_sent=True)
    async with serve(app, "127.0.0.1", 0) as url, aiohttp.ClientSession() as web:
        yield Handing(url, web, folders, ledgers, clock)


@pytest.fixture
async def folders(tmp_path: Path) -> AsyncIterator[VersionFolders]:
    async with open_data_dir(tmp_path / "data", "origin") as opened:
        yield opened


@pytest.fixture
async def server(folders: VersionFolders) -> AsyncIterator[Handing]:
    """A server of a version with 18 pieces."""
    assert await payloads.publish(folders, DATA) == "v1" and NUMBERS.count == COUNT
    async with handing(folders) as running:
        yield running


async def ask_in_turn(askers: Sequence[Asker], times: int) -> list[int | None]:
    """Have nodes ask one after the other."""
    return [await askers[number % len(askers)].ask() for number in range(times)]


async def test_nodes_get_different_pieces_lowest_first(server: Handing) -> None:
    askers = [Asker(server, "a"), Asker(server, "b")]
    assert await ask_in_turn(askers, 8) == list(range(8))


async def test_all_is_handed_out_once_before_any_twice(server: Handing) -> None:
    askers = [Asker(server, f"{number}") for number in range(3)]
    assert await ask_in_turn(askers, COUNT) == list(range(COUNT))
    assert await ask_in_turn(askers, 3) == [None] * 3
    assert {reason for asker in askers for reason in asker.refusals} == {"all-given"}


async def test_node_without_offers_gets_what_it_lacks_again(server: Handing) -> None:
    first, second = Asker(server, "a"), Asker(server, "b")
    await ask_in_turn([first, second], COUNT)
    assert await second.ask(offered=False) is None, "all were given a moment ago"
    server.clock.now += 0.6
    lacked = {number for number in range(COUNT) if not second.has >> number & 1}
    assert await second.ask(offered=False) in lacked


async def test_node_with_eight_unspread_pieces_gets_no_more_while_another_asks(
    server: Handing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardcast.server.hand_outs.rules_for", lambda members: SwarmRules(credit=8))
    hoarder, other = Asker(server, "a"), Asker(server, "b")
    await other.ask()
    got = [await hoarder.ask() for _ in range(9)]
    assert None not in got[:8] and got[8] is None and hoarder.refusals == ["pause"]
    other.has |= 1 << (got[0] or 0)
    await other.ask()
    assert await hoarder.ask() is not None, "another node has one of them now"


async def test_few_nodes_may_have_more_unspread_pieces(server: Handing) -> None:
    hoarder, other = Asker(server, "a"), Asker(server, "b")
    await other.ask()
    assert None not in [await hoarder.ask() for _ in range(9)]


async def test_lonely_node_gets_everything(server: Handing) -> None:
    only = Asker(server, "a")
    assert await ask_in_turn([only], COUNT) == list(range(COUNT))


async def test_pieces_asked_elsewhere_are_left_for_others(server: Handing) -> None:
    assert await Asker(server, "a").ask(asked=[[0, 3]]) == 3


async def test_several_pieces_come_as_one_range_of_one_shard(folders: VersionFolders) -> None:
    await payloads.publish(folders, DATA)
    async with handing(folders) as server:
        server.hand_outs._fastest = 1e9  # a server this fast sends many pieces in 10 ms
        asker = Asker(server, "a")
        assert await asker.ask_for_run(max=3) == [0, 1, 2]
        assert await asker.ask_for_run(max=3) == [3], "the shard ends there"
        assert await asker.ask_for_run(max=64) == [4, 5, 6, 7]


async def test_reported_loss_is_handed_out_again(server: Handing) -> None:
    first, second = Asker(server, "a"), Asker(server, "b")
    assert await ask_in_turn([first, second], 2) == [0, 1]
    first.has = 0
    assert await first.ask(lost=[[0, 1]], asked=[[0, 1]]) == 2
    assert await second.ask() == 0
    assert await second.ask(lost=[[2, 1]]) == 3, "that one was handed to another node"


async def test_answer_that_breaks_off_is_handed_out_again(server: Handing) -> None:
    other = Asker(server, "b")
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = b'{"node": "a", "count": 0}'
    writer.write(b"POST /v1/next HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert b" 206 " in await reader.readline()
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    async with asyncio.timeout(20):
        while 0 not in (got := [await other.ask()]):
            assert got[0] is not None
    assert other.has & 1


async def test_connection_that_ends_in_order_loses_nothing(server: Handing) -> None:
    body = {"node": "a", "count": 0}
    async with aiohttp.ClientSession() as web, web.post(f"{server.url}/v1/next", json=body) as answer:
        assert len(await answer.read()) == PIECE
    other = Asker(server, "b")
    assert await other.ask() == 1 and await other.ask() == 2


async def test_silent_node_is_forgotten_and_its_pieces_given_again(server: Handing) -> None:
    silent, other = Asker(server, "a"), Asker(server, "b")
    assert await ask_in_turn([silent, other], 2) == [0, 1]
    server.clock.now += STALE_SECONDS
    assert await other.ask() == 0


async def test_node_that_was_told_to_ask_others_may_be_silent(server: Handing) -> None:
    askers = [Asker(server, name) for name in "abc"]
    await ask_in_turn(askers, COUNT + 3)
    server.clock.now += STALE_SECONDS + 5
    assert await askers[0].ask() is None and askers[0].refusals == ["all-given"] * 2, "the others live"
    server.clock.now += UNUSED_SECONDS - 1
    assert (await askers[0].ask() or 0) % 3, "they have gone, and what only they had is given again"


async def test_member_that_announces_itself_is_kept_and_one_that_leaves_is_not(server: Handing) -> None:
    askers = [Asker(server, name) for name in "abc"]
    await ask_in_turn(askers, COUNT + 3)
    for _ in range(20):
        server.clock.now += STALE_SECONDS
        for name in "bc":
            server.hand_outs.note_member("v1", name, False)
        server.hand_outs.note_member("v9", "b", True)
    await askers[0].ask(has=runs_of(askers[0].has))
    assert askers[0].refusals == ["all-given"] * 2, "the others live"
    server.hand_outs.note_member("v1", "b", True)
    assert (await askers[0].ask() or 0) % 3 == 1


async def test_nodes_that_wait_ask_less_often_the_more_they_are(folders: VersionFolders) -> None:
    opened = await folders.begin_version(1, LiveManifest("v1"))
    opened.append_manifest(MANIFEST.raw[: MANIFEST.raw.index(b'{"complete"')])
    async with handing(folders) as server:
        values = {"count": 0, "offered": True}
        waits = [(await server.post(values | {"node": f"n{number}"}))[1] for number in range(30)]
        assert waits[0]["Shardcast-Retry-After-Ms"] == "50"
        assert waits[-1]["Shardcast-Retry-After-Ms"] == "150"


async def test_node_that_was_forgotten_must_tell_all(server: Handing) -> None:
    asker, other = Asker(server, "a"), Asker(server, "b")
    await ask_in_turn([asker], 2)
    await asker.ask()
    server.clock.now += STALE_SECONDS
    await other.ask()
    status, _, body = await server.post({"node": "a", "has": [[2, 1]], "count": 3})
    assert status == 409 and b"tell all" in body
    status, _, _ = await server.post({"node": "a", "has": [[0, 3]], "count": 3})
    assert status == 206


async def test_ninth_answer_is_refused_at_once(server: Handing, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = asyncio.Event()

    async def hold(request: object) -> None:
        await waiting.wait()

    monkeypatch.setattr("shardcast.server.routes.next_range.admit", hold)
    eight = [asyncio.ensure_future(Asker(server, f"{number}").ask()) for number in range(8)]
    ninth = Asker(server, "ninth")
    async with asyncio.timeout(20):
        while server.hand_outs._slots.under_way < 8:
            await asyncio.sleep(0)
    status, headers, _ = await server.post({"node": "ninth", "count": 0})
    assert (status, headers["Shardcast-Not-Now"]) == (503, "busy")
    assert headers["Shardcast-Retry-After-Ms"] == "50"
    waiting.set()
    assert sorted(number or 0 for number in await asyncio.gather(*eight)) == list(range(8))
    assert await ninth.ask() == 8


async def test_middle_hands_out_what_it_has_verified_by_now(folders: VersionFolders) -> None:
    opened = await folders.begin_version(1, LiveManifest("v1"))
    async with handing(folders) as server:
        asker = Asker(server, "a")
        opened.append_manifest(MANIFEST.raw[: MANIFEST.raw.index(b'{"complete"')])
        assert await asker.ask() is None and asker.refusals == ["wait"]
        landing = await opened.landing(MANIFEST.shards[1])
        await landing.land(PIECE, DATA[SHARD + PIECE : SHARD + 2 * PIECE])
        server.clock.now += 0.1
        assert await asker.ask() == OTHER_RUN
        assert await asker.ask() is None
        for start, end in landing.missing():
            await landing.land(start, DATA[SHARD + start : SHARD + end])
        await opened.commit_shard(landing)
        landing.close()
        server.clock.now += 0.1
        assert await ask_in_turn([asker], 4) == [4, 6, 7, None]
        assert set(asker.refusals) == {"wait"}, "more comes"


async def test_landing_that_was_left_is_not_handed_out(folders: VersionFolders) -> None:
    opened = await folders.begin_version(1, LiveManifest("v1"))
    opened.append_manifest(MANIFEST.raw[: MANIFEST.raw.index(b'{"complete"')])
    landing = await opened.landing(MANIFEST.shards[0])
    await landing.land(0, DATA[: 2 * PIECE])
    async with handing(folders) as server:
        asker = Asker(server, "a")
        assert await asker.ask() == 0
        opened.landings.clear()
        landing.close()
        assert await asker.ask() is None and asker.refusals == ["pause"]
        again = await opened.landing(MANIFEST.shards[0])
        server.clock.now += 0.1
        assert await asker.ask() == 1
        again.close()


async def test_version_that_became_complete_ends(folders: VersionFolders) -> None:
    opened = await folders.begin_version(1, LiveManifest("v1"))
    async with handing(folders) as server:
        asker = Asker(server, "a")
        opened.append_manifest(MANIFEST.raw[: MANIFEST.raw.index(b'{"complete"')])
        await asker.ask()
        for shard in MANIFEST.shards:
            landing = await opened.landing(shard)
            await landing.land(0, DATA[shard.offset : shard.end])
            await opened.commit_shard(landing)
            landing.close()
        opened.append_manifest(MANIFEST.raw[MANIFEST.raw.index(b'{"complete"') :])
        await opened.complete(MANIFEST)
        server.clock.now += 0.1
        assert await ask_in_turn([asker], COUNT) == list(range(COUNT))
        assert await asker.ask() is None and asker.refusals == ["wait", "all-given"]


async def test_pieces_of_other_middles_go_to_nodes_in_need_only(folders: VersionFolders) -> None:
    await payloads.publish(folders, DATA)
    async with handing(folders, own_pieces=lambda version: 0b111) as server:
        asker = Asker(server, "a")
        assert await ask_in_turn([asker], 4) == [0, 1, 2, None]
        assert (await asker.ask(offered=False) or 0) > 2


async def test_ledger_goes_with_its_version_and_its_askers(server: Handing) -> None:
    await Asker(server, "a").ask()
    server.clock.now += UNUSED_SECONDS - 1
    server.hand_outs.tidy()
    assert "v1" in server.hand_outs
    server.clock.now += 1
    server.hand_outs.tidy()
    assert "v1" not in server.hand_outs
    await Asker(server, "a").ask()
    await server.folders.withdraw_own("v1", "wrong")
    server.hand_outs.tidy()
    assert "v1" not in server.hand_outs
    status, headers, _ = await server.post({"node": "a", "count": 0})
    assert (status, headers["Shardcast-Not-Now"]) == (404, "absent")


async def test_flood_of_nodes_takes_bounded_memory(server: Handing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version_book, "MAX_NODES", 5)
    honest = Asker(server, "honest")
    assert await honest.ask() == 0
    answers = [(await server.post({"node": f"n{number}", "count": 0}))[0] for number in range(8)]
    assert answers == [206] * 4 + [503] * 4
    assert await honest.ask() == 5, "its place is kept"
    server.clock.now += 3
    assert await honest.ask() == 6
    assert (await server.post({"node": "late", "count": 0}))[0] == 206, "silent nodes make place"


async def test_flood_of_versions_takes_bounded_memory(
    folders: VersionFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hand_outs, "MAX_VERSIONS", 2)
    for seed in range(3):
        await payloads.publish(folders, random_bytes(100, seed))
    async with handing(folders) as server:
        for version in ("v1", "v2", "v1", "v3"):
            await server.post({"node": "a", "count": 0}, version)
        assert [version in server.hand_outs for version in ("v1", "v2", "v3")] == [True, False, True]
        assert (await server.post({"node": "a", "count": 0}, "v99"))[0] == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[" * 60_000, 400),
        (b"\xff" * 100, 400),
        (b'{"node": "a"}', 400),
        (b'{"node": "a", "count": 0, "has": [[0, 99999999]]}', 400),
        (b'{"node": "a", "count": 0, "has": [[18, 1]]}', 400),
        (b" " * (64 << 10) + b"{}", 413),
    ],
)
async def test_garbage_is_refused(server: Handing, body: bytes, status: int) -> None:
    assert (await server.post(body))[0] == status
    assert await Asker(server, "b").ask() is not None


async def test_bytes_handed_out_are_counted(server: Handing) -> None:
    await ask_in_turn([Asker(server, "a")], 3)
    holds = server.folders.holds
    async with asyncio.timeout(20):
        while holds.handed_out(1) < 3 * PIECE:  # the last bytes are read before they are counted
            await asyncio.sleep(0)
    assert holds.handed_out(1) == holds.sent(1) == 3 * PIECE
