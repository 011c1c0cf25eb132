"""Work of the event loop that is not small: in slices, a fifth of the time, made once for all who ask."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from shardcast.nodes.origin import Origin
from shardcast.protocol.report import MAX_NODES, Node, encode
from shardcast.server import turns
from shardcast.server.routes import health
from shardcast.server.turns import Turns


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_other_tasks_run_between_slices() -> None:
    order: list[str] = []

    def slices() -> Iterator[int]:
        for number in range(3):
            order.append(f"slice {number}")
            yield number

    async def other() -> None:
        for number in range(3):
            order.append(f"other {number}")
            await asyncio.sleep(0)

    done, _ = await asyncio.gather(Turns().run(slices()), other())
    assert done == [0, 1, 2]
    assert order.index("other 1") < order.index("slice 2")


async def test_pause_follows_long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, pauses = Clock(), list[float]()
    turns = Turns(clock)

    def slices(seconds: float) -> Iterator[None]:
        clock.now += seconds
        yield

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock.now += seconds

    monkeypatch.setattr(asyncio, "sleep", sleep)
    await turns.run(slices(0.5))
    await turns.run(slices(0))
    assert max(pauses) == pytest.approx(2)


async def test_request_beyond_max_waiting_gets_503() -> None:
    turns = Turns()
    waiting = [asyncio.ensure_future(turns.run(iter([number]))) for number in range(9)]
    done = await asyncio.gather(*waiting, return_exceptions=True)
    refused = [one for one in done if isinstance(one, web.HTTPServiceUnavailable)]
    assert len(refused) == 1
    assert refused[0].headers["Retry-After"]
    assert await turns.run(iter([9])) == [9]


async def test_costly_status_is_shared_and_cheap_one_is_fresh() -> None:
    clock, made = Clock(), 0
    cost = 0.1

    def status() -> dict[str, Any]:
        nonlocal made
        made += 1
        clock.now += cost
        return {"made": made, "rows": [{"row": number} for number in range(250)], "none": [], "few": [1]}

    shared = health._SharedStatus(status, clock, clock)
    asked = await asyncio.gather(*(shared.now() for _ in range(8)))
    assert len(set(asked)) == 1
    assert json.loads(asked[0])["rows"] == [{"row": number} for number in range(250)]
    clock.now += 1.9
    assert await shared.now() == asked[0]
    clock.now += 0.2
    cost = 0.001
    assert json.loads(await shared.now())["made"] == 2
    assert json.loads(await shared.now())["made"] == 3


async def test_status_that_waited_for_the_processor_is_fresh() -> None:
    clock, made = Clock(), 0

    def status() -> dict[str, Any]:
        nonlocal made
        made += 1
        clock.now += 1.0  # another process has the processor
        return {"made": made}

    shared = health._SharedStatus(status, clock, lambda: 0.0)
    assert [json.loads(await shared.now())["made"] for _ in range(2)] == [1, 2]


async def test_failed_status_is_not_kept() -> None:
    answers = iter([OSError("no disk"), {"role": "origin"}])

    def status() -> dict[str, Any]:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    shared = health._SharedStatus(status)
    with pytest.raises(OSError, match="no disk"):
        await shared.now()
    assert json.loads(await shared.now()) == {"role": "origin"}


async def test_status_shows_real_node_among_5000_invented(tmp_path: Path) -> None:
    invented = encode(Node("666", "middle"), [Node(f"a{number}", "client") for number in range(MAX_NODES)])
    async with (
        Origin.running(tmp_path, "127.0.0.1", 0) as origin,
        aiohttp.ClientSession(origin.url) as session,
    ):

        async def report(raw: bytes) -> None:
            async with session.post("/report", data=raw) as answer:
                assert answer.status == 204

        await report(invented)
        await report(encode(Node("81ab", "client", "honest"), ()))
        await report(invented)
        async with session.get("/status") as answer:
            assert answer.content_type == "application/json"
            nodes = (await answer.json())["below"]
    assert len(nodes) == MAX_NODES
    assert "honest" in [one["name"] for one in nodes]
    assert [one["hops"] for one in nodes] == sorted(one["hops"] for one in nodes)


async def test_large_reports_take_turns_and_small_ones_do_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "_MAX_WAITING", 0)
    others = [Node(f"a{number}", "client") for number in range(300)]
    async with (
        Origin.running(tmp_path, "127.0.0.1", 0) as origin,
        aiohttp.ClientSession(origin.url) as session,
    ):
        async with session.post("/report", data=encode(Node("666", "middle"), others)) as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"]
        async with session.post("/report", data=encode(Node("666", "middle"), others[:10])) as answer:
            assert answer.status == 204
