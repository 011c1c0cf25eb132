"""Requests for a next range that a server keeps until it has one, or for as long as they allow."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest

from shardcast.nodes.open_data_dir import open_data_dir
from shardcast.peer.next_range import RangeServer
from shardcast.peer.session import open_session
from shardcast.policy.swarm.ledger import Asked
from shardcast.policy.swarm.rules import SwarmRules
from shardcast.protocol.piece_numbers import PieceNumbers
from shardcast.server.application import application, serve
from shardcast.server.hand_outs import HandOuts
from shardcast.server.routes.next_range import add_next_range_routes
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.open_version import OpenVersion
from shardcast.store.versions import VersionFolders
from shardcast.swarm.handing_server import HandingServer
from tests.support import payloads
from tests.support.payloads import PIECE, random_bytes

DATA = random_bytes(8 * PIECE)
MANIFEST = payloads.manifest(DATA, shard_size=len(DATA))
Answer = tuple[int, str, str]
"""Status, reason and milliseconds to wait."""


@dataclass
class Growing:
    """A server of a version that grows."""

    url: str
    web: aiohttp.ClientSession
    opened: OpenVersion
    hand_outs: HandOuts

    async def ask(self, node: str, wait: int, **more: Any) -> Answer:
        """Ask for a range, and return the head of the answer; of a range, ``Content-Range`` as the reason."""
        values = {"node": node, "count": 0, "offered": True, "wait": wait} | more
        async with self.web.post(f"{self.url}/v1/next", data=json.dumps(values)) as answer:
            await answer.read()
            head = answer.headers
            reason = head.get("Shardcast-Not-Now") or head.get("Content-Range", "")
            return answer.status, reason, head.get("Shardcast-Retry-After-Ms", "")

    async def land(self, *pieces: int) -> None:
        """Have pieces arrive."""
        landing = self.opened.landings.get(1) or await self.opened.landing(MANIFEST.shards[0])
        for number in pieces:
            await landing.land(number * PIECE, DATA[number * PIECE : (number + 1) * PIECE])

    async def until_kept(self, count: int) -> None:
        """Wait until the server has been asked by so many nodes."""
        async with asyncio.timeout(20):
            while "v1" not in self.hand_outs or self.hand_outs._books["v1"].node_count < count:
                await asyncio.sleep(0.001)


@asynccontextmanager
async def growing(tmp_path: Path, rules: SwarmRules | None = None) -> AsyncIterator[Growing]:
    """Serve a version of which nothing has arrived yet."""
    async with open_data_dir(tmp_path / "data", "middle") as folders:
        assert isinstance(folders, VersionFolders)
        opened = await folders.begin_version(1, LiveManifest("v1"))
        opened.append_manifest(MANIFEST.raw[: MANIFEST.raw.index(b'{"complete"')])
        ledgers = HandOuts(folders, random=Random(1), rules=rules)
        app = application(
            "aa", partial(add_next_range_routes, shelf=folders, hand_outs=ledgers), as_sent=True
        )
        async with aiohttp.ClientSession() as web, serve(app, "127.0.0.1", 0) as url:
            yield Growing(url, web, opened, ledgers)
        for landing in opened.landings.values():
            landing.close()


async def test_kept_request_gets_the_piece_that_arrives(tmp_path: Path) -> None:
    async with growing(tmp_path) as server:
        kept = [asyncio.ensure_future(server.ask(node, 2000)) for node in ("a", "b", "c")]
        await server.until_kept(3)
        await server.land(0, 1, 2)
        answers = await asyncio.gather(*kept)
    assert sorted(answers) == [
        (206, f"bytes {n * PIECE}-{(n + 1) * PIECE - 1}/{len(DATA)}", "") for n in range(3)
    ]


async def test_request_is_kept_no_longer_than_it_allows(tmp_path: Path) -> None:
    async with growing(tmp_path) as server:
        assert await server.ask("a", 60) == (204, "wait", "1"), "it may ask again at once: it has waited here"
        assert (await server.ask("a", 0))[2] == "50"
        assert (await server.ask("a", 2001))[0] == 400


async def test_request_of_a_node_with_enough_is_kept_until_another_tells_of_it(tmp_path: Path) -> None:
    async with growing(tmp_path, SwarmRules(credit=1)) as server:
        await server.land(0, 1, 2, 3)
        assert (await server.ask("b", 0))[0] == (await server.ask("a", 0))[0] == 206
        assert await server.ask("a", 20) == (204, "pause", "1")
        kept = asyncio.ensure_future(server.ask("a", 2000))
        while not kept.done():  # 100 ms at most, then the node asks again
            await server.ask("b", 0, has=[[1, 1]], count=1, asked=[[2, 6]])
            if kept.done() and kept.result()[1] == "pause":
                kept = asyncio.ensure_future(server.ask("a", 2000))
        assert kept.result()[0] == 206


async def test_server_that_ends_keeps_nobody_waiting(tmp_path: Path) -> None:
    async with growing(tmp_path) as server:
        kept = asyncio.ensure_future(server.ask("a", 2000))
        await server.until_kept(1)
    assert kept.done() and kept.result() == (204, "wait", "20"), "answered at once, not after its time"


async def test_piece_for_a_node_that_hung_up_goes_to_another(tmp_path: Path) -> None:
    async with growing(tmp_path) as server:
        gone = asyncio.ensure_future(server.ask("gone", 2000))
        await server.until_kept(1)
        gone.cancel()
        await asyncio.wait([gone])
        other = asyncio.ensure_future(server.ask("other", 2000))
        await server.until_kept(2)
        await server.land(0)
        assert (await other)[0] == 206


async def test_node_asks_anew_after_a_request_that_was_kept(tmp_path: Path) -> None:
    async with growing(tmp_path) as server, open_session() as session:
        live = LiveManifest.of(MANIFEST)
        numbers = PieceNumbers.of(MANIFEST)
        ranges = RangeServer(server.url, session, 0.4).ranges("v1", "81ab", numbers)
        asking = HandingServer(server.url, ranges, numbers, lambda: 0, live=live)
        assert (await asking.next_piece(Asked(""))).waited
        await server.land(5)
        assert (await asking.next_piece(Asked(""))).number == 5


async def test_node_that_has_a_piece_by_now_does_not_take_it_again(tmp_path: Path) -> None:
    async with growing(tmp_path) as server, open_session() as session:
        live, held = LiveManifest.of(MANIFEST), [0]
        numbers = PieceNumbers.of(MANIFEST)
        ranges = RangeServer(server.url, session, 8.0).ranges("v1", "81ab", numbers)
        asking = HandingServer(server.url, ranges, numbers, lambda: held[0], live=live)
        kept = asyncio.ensure_future(asking.next_piece(Asked("")))
        await server.until_kept(1)
        held[0] = 1
        await server.land(0)
        assert (await kept).number is None


async def test_thousand_kept_requests_are_looked_at_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with growing(tmp_path, replace(SwarmRules(), answers=64)) as server:
        looked, choose = [0], server.hand_outs.next_for

        def counted(*words: Any, **more: Any) -> Any:
            looked[0] += more.get("again", False)
            return choose(*words, **more)

        monkeypatch.setattr(server.hand_outs, "next_for", counted)
        kept = [asyncio.ensure_future(server.ask(f"n{number}", 400)) for number in range(40)]
        await server.until_kept(40)
        answers = await asyncio.gather(*kept)
    assert {answer[1] for answer in answers} == {"wait"}
    assert 0 < looked[0] <= 8 * 20
