"""When nodes report to their upstreams: news within a second, the rest rarely, and never in floods."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shardcast.errors import AccessDenied, ServerUnreachable
from shardcast.protocol.report import Node
from shardcast.server.downstream import Downstream
from shardcast.upstream.follow import Following
from shardcast.upstream.report import send_reports

ME = Node("81ab", "middle", "rack7", ["v1"], origin="ce0d")
CLIENT = Node("c2d0", "client", "gpu3", ["v1"], origin="ce0d")


@dataclass
class Upstream:
    """An upstream that notes when it was told what."""

    url: str
    clock: Clock
    answers: bool = True
    fails: bool = False
    refuses: str = ""
    told: list[tuple[float, dict[str, Any]]] = field(default_factory=list)

    async def report(self, raw: bytes) -> None:
        self.told.append((self.clock.now, json.loads(raw)))
        if not self.answers:
            await asyncio.Event().wait()
        if self.fails:
            raise ServerUnreachable(self.url, "refused")
        if self.refuses:
            raise AccessDenied(self.url, self.refuses, ["report"], wants_token=True)

    @property
    def times(self) -> list[float]:
        return [when for when, _ in self.told]


class Clock:
    """Virtual time: a sleep moves it, and a test moves it on by ``run``."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.end = 1000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        while self.now + seconds > self.end:
            await asyncio.sleep(0)
        self.now += seconds

    async def run(self, seconds: float) -> None:
        self.end += seconds
        for _ in range(int(seconds * 10) + 50):
            await asyncio.sleep(0)


class Reporter:
    """A node that reports to upstreams."""

    def __init__(self, count: int = 1) -> None:
        self.clock = Clock()
        self.me = ME
        self.below = Downstream("81ab", self.clock)
        self.upstreams = [Upstream(f"http://{number}", self.clock) for number in range(count)]
        self.followers = [
            SimpleNamespace(peer=one, hello=SimpleNamespace(node=f"a{number}"))
            for number, one in enumerate(self.upstreams)
        ]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        following = cast(Following, SimpleNamespace(followers=self.followers))
        work = asyncio.ensure_future(
            send_reports(
                following,
                lambda: self.me,
                self.below,
                clock=self.clock,
                random=Random(1),
                sleep=self.clock.sleep,
            )
        )
        try:
            yield
        finally:
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work


async def test_own_version_is_reported_within_a_second() -> None:
    node = Reporter()
    async with node.running():
        await node.clock.run(5)
        assert len(node.upstreams[0].told) == 1, "the first report is due at once, the second after 15 s"
        node.me = replace(ME, has=["v1", "v2"])
        changed = node.clock.now
        await node.clock.run(5)
        assert node.upstreams[0].told[-1][1]["has"] == ["v1", "v2"]
        assert node.upstreams[0].times[-1] - changed <= 1


async def test_version_of_downstream_node_is_reported_within_a_second() -> None:
    node = Reporter()
    async with node.running():
        await node.clock.run(5)
        node.below.record([replace(CLIENT, hops=1)])
        changed = node.clock.now
        await node.clock.run(2)
        when, said = node.upstreams[0].told[-1]
        assert (when - changed <= 1, [one["has"] for one in said["below"]]) == (True, [["v1"]])
        node.below.record([replace(CLIENT, hops=1, has=["v1", "v2"])])
        changed = node.clock.now
        await node.clock.run(2)
        when, said = node.upstreams[0].told[-1]
        assert (when - changed <= 1, [one["has"] for one in said["below"]]) == (True, [["v1", "v2"]])


async def test_changed_origin_is_reported_within_a_second() -> None:
    node = Reporter()
    async with node.running():
        await node.clock.run(5)
        node.me = replace(ME, origin="ffff")
        await node.clock.run(1)
        assert [said["origin"] for _, said in node.upstreams[0].told] == ["ce0d", "ffff"]


async def test_constant_changes_are_reported_about_once_a_second() -> None:
    node = Reporter()
    async with node.running():
        for number in range(600):
            node.below.record([replace(CLIENT, hops=1, has=[f"v{number + 1}"])])
            await node.clock.run(0.1)
        assert 50 <= len(node.upstreams[0].told) <= 80, "60 s"


async def test_reports_repeat_every_15_s_or_every_5_s_when_refreshed() -> None:
    node = Reporter()
    async with node.running():
        await node.clock.run(61)
        assert 4 <= len(node.upstreams[0].told) <= 5
        before = len(node.upstreams[0].told)
        for _ in range(60):
            node.below.record([replace(CLIENT, hops=1)])
            await node.clock.run(1)
        assert 10 <= len(node.upstreams[0].told) - before <= 14


async def test_silent_upstream_does_not_delay_reports_to_others() -> None:
    node = Reporter(3)
    node.upstreams[0].answers = False
    node.upstreams[1].fails = True
    async with node.running():
        for number in range(10):
            node.me = replace(ME, has=[f"v{number + 1}"])
            await node.clock.run(1)
        assert len(node.upstreams[0].told) == 1
        assert len(node.upstreams[1].told) >= 8
        assert len(node.upstreams[2].told) >= 8


async def test_restarted_upstream_gets_a_report_at_once() -> None:
    node = Reporter()
    async with node.running():
        await node.clock.run(2)
        node.followers[0].hello = SimpleNamespace(node="other")
        await node.clock.run(1)
        assert len(node.upstreams[0].told) == 2


async def test_upstream_without_feed_gets_no_report() -> None:
    node = Reporter()
    node.followers[0].hello = None
    async with node.running():
        await node.clock.run(20)
        assert node.upstreams[0].told == []


async def test_refused_report_is_logged_once_and_sent_again_after_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = Reporter(2)
    node.upstreams[0].refuses = "POST /report: 403: the token lacks the scope"
    async with node.running():
        for minute in range(3):
            await node.clock.run(10)
            node.me = replace(ME, has=[f"v{minute}"])
            await node.clock.run(50)
        assert len(node.upstreams[0].told) == 3
        assert len(node.upstreams[1].told) > 6
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "http://0: POST /report: 403" in caplog.text
        node.upstreams[0].refuses = ""
        await node.clock.run(90)
        assert len(node.upstreams[0].told) > 4
