"""How a publisher ends: it stays until the nodes below have its newest version, never for long in vain."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

import shardcast
from shardcast import NodeFailed, OriginServer, UsageError
from shardcast.control.waiting import finish
from shardcast.nodes.waiting import ShutdownWait
from shardcast.policy.finishing import (
    HEARD_WITHIN,
    HOP_DELAY,
    LONGEST_WAIT,
    QUIET,
    ReportedNode,
    reason_to_wait,
)
from shardcast.protocol.report import Node, encode
from shardcast.server.downstream import Downstream
from shardcast.store.events import Events
from shardcast.store.holds import READ, Holds
from shardcast.store.versions import VersionFolders
from tests.integration.test_library import lives
from tests.support import processes
from tests.support.payloads import patient
from tests.support.published import random_bytes, sha256
from tests.support.slow_links import slow_link

SIZE = 4_000_000
RATE = 1_000_000.0
"""Bytes a second to a slow follower, which then takes some 4 s for a version."""
CRAWL = 100_000.0
"""Bytes a second to a follower that takes some 40 s, while the publisher must not wait for it."""
AT_ONCE = 4.0
"""Seconds within which what does not wait has ended, where nobody follows."""
EARLY = 20.0
"""Seconds within which what does not wait for a crawling follower has ended, on a busy machine too."""
AT_LAST = 60.0

# The rules ---------------------------------------------------------------------------------------

SECONDS = st.floats(0, 200)
NODES = st.lists(
    st.builds(ReportedNode, st.sampled_from("abcdef"), SECONDS, st.integers(1, 5), st.booleans()), max_size=6
)
READ_AGES = SECONDS | st.just(math.inf)
WAITS = st.none() | st.floats(0, 120)


def reason(
    *nodes: ReportedNode,
    newest: str | None = "v7",
    feeds: int = 0,
    read_age: float = math.inf,
    waited: float = 0.0,
    wait: float | None = None,
) -> str | None:
    return reason_to_wait(newest, nodes, feeds=feeds, read_age=read_age, waited=waited, wait=wait)


LACKING = ReportedNode("gpu3", 1.0, 1, False)
HAVING = ReportedNode("gpu4", 1.0, 1, True)


def test_no_wait_without_reads_or_reports_in_last_minute() -> None:
    assert reason() is None
    assert reason(replace(LACKING, age=61.0), read_age=61.0) is None


def test_node_without_newest_version_is_awaited_and_named() -> None:
    assert reason(LACKING, HAVING) == "v7: gpu3 lacks it"
    assert reason(LACKING, replace(LACKING, name="gpu5")) == "v7: gpu3 and gpu5 lack it"
    many = [replace(LACKING, name=f"gpu{number}") for number in range(1, 7)]
    assert reason(*many) == "v7: gpu1, gpu2, gpu3 and 3 more lack it"


def test_silent_node_is_not_awaited() -> None:
    assert reason(replace(LACKING, age=HEARD_WITHIN), waited=30) is not None
    assert reason(replace(LACKING, age=HEARD_WITHIN + 0.1), waited=30) is None


def test_report_over_several_hops_may_be_older() -> None:
    far = replace(LACKING, hops=3, age=HEARD_WITHIN + 2 * HOP_DELAY)
    assert reason(far, waited=30) is not None
    assert reason(replace(far, age=far.age + 0.1), waited=30) is None


def test_wait_ends_when_all_have_version_and_no_node_reads() -> None:
    assert reason(HAVING) is None
    assert reason(HAVING, read_age=QUIET) is None
    assert reason(HAVING, read_age=QUIET - 0.1) == "v7: 5 s without a byte read"


def test_readers_without_reports_get_5_s_for_next_request() -> None:
    assert reason(read_age=30, waited=0) == "v7: 5 s without a byte read"
    assert reason(read_age=30, waited=QUIET) is None


def test_new_node_gets_5_s_for_first_report() -> None:
    assert reason(feeds=1) == "v7: 5 s without a byte read"
    assert reason(HAVING, feeds=2) == "v7: 5 s without a byte read"
    assert reason(HAVING, feeds=1) is None
    assert reason(feeds=1, waited=QUIET) is None


def test_wait_argument_is_minimum_and_0_ends_at_once() -> None:
    assert reason(wait=40, waited=39) == "v7: 40 s were asked for"
    assert reason(wait=40, waited=40) is None
    assert reason(LACKING, read_age=0, feeds=1, wait=0) is None


def test_no_wait_without_published_version() -> None:
    assert reason(LACKING, newest=None, read_age=0, feeds=1, wait=40) is None


@patient
@given(NODES, st.integers(0, 3), READ_AGES, SECONDS, WAITS)
def test_reporting_node_without_version_is_always_awaited(
    nodes: list[ReportedNode], feeds: int, read_age: float, waited: float, wait: float | None
) -> None:
    found = reason_to_wait("v7", nodes, feeds=feeds, read_age=read_age, waited=waited, wait=wait)
    lacking = any(not one.has_newest and one.age <= HEARD_WITHIN for one in nodes)
    if wait == 0:
        assert found is None
    elif lacking:
        assert found
        assert found.endswith(("lacks it", "lack it"))
    elif wait is not None and waited < wait:
        assert found


@patient
@given(NODES, st.integers(0, 3), READ_AGES, WAITS)
def test_wait_ends_soon_after_last_read_or_report(
    nodes: list[ReportedNode], feeds: int, read_age: float, wait: float | None
) -> None:
    """Whatever there was: when nobody reads or reports any more, only the silence of a node is waited for."""
    farthest = max((one.hops for one in nodes), default=1)
    bound = max(HEARD_WITHIN + HOP_DELAY * (farthest - 1), QUIET, wait or 0) + 1
    later = [replace(one, age=one.age + bound) for one in nodes]
    assert (
        reason_to_wait("v7", later, feeds=feeds, read_age=read_age + bound, waited=bound, wait=wait) is None
    )


# The origin's part -------------------------------------------------------------------------------


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Shelf:
    """What ``ShutdownWait`` looks at, with time in the hands of the test."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.holds, self.events = Holds(self.clock), Events()
        self.listings = [SimpleNamespace(version="v7")]
        self.data_dir = SimpleNamespace(origin_id="ce0d")
        self.below = Downstream("0123", self.clock)

    def finish(self, wait: float | None = None) -> ShutdownWait:
        return ShutdownWait(cast(VersionFolders, self), self.below, wait, self.clock)

    def hear(self, node: str, *has: str, origin: str | None = "ce0d") -> None:
        self.below.record([Node(node, "client", node, has, {}, 1, origin=origin)])


def test_version_of_old_line_is_no_copy_of_new_one() -> None:
    shelf = Shelf()
    shelf.hear("a", "v7", origin="ffff")
    assert shelf.finish().reason() == "v7: a lacks it"
    shelf.hear("a", "v7")
    assert shelf.finish().reason() is None


def test_report_of_0_4_0_without_origin_is_believed() -> None:
    shelf = Shelf()
    shelf.hear("a", "v6", origin=None)
    assert shelf.finish().reason() == "v7: a lacks it"
    shelf.hear("a", "v7", origin=None)
    assert shelf.finish().reason() is None


def test_wait_continues_while_bytes_are_read() -> None:
    shelf = Shelf()
    with shelf.holds.held(7, READ, "somebody") as reader:
        finishing = shelf.finish()
        for _ in range(10):
            reader.sent += 1
            assert finishing.reason() == "v7: 5 s without a byte read"
            shelf.clock.now += 4
        shelf.clock.now += 2
        assert finishing.reason() is None, "a reader that takes nothing is not waited for"


def test_wait_ends_after_a_minute_with_warning_naming_nodes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    shelf = Shelf()
    finishing = shelf.finish()
    for _ in range(int(LONGEST_WAIT)):
        shelf.hear("gpu3", "v6")
        assert finishing.reason() == "v7: gpu3 lacks it"
        shelf.clock.now += 1
    assert finishing.reason() is None
    assert [(one.levelname, "gpu3 lacks it" in one.message) for one in caplog.records] == [
        ("INFO", True),
        ("WARNING", True),
    ]


# Real processes ----------------------------------------------------------------------------------

TRAINER = """
import os, sys, time
import shardcast

data_dir, port, payload, how = sys.argv[1:]
shardcast.initialize(data_dir, int(port))
print(shardcast.api.current_origin._origin._process.pid, flush=True)
sys.stdin.readline()
print(shardcast.broadcast(payload, 500_000), flush=True)
if how == "raises":
    raise RuntimeError("the training failed")
if how == "sleeps":
    time.sleep(600)
if how == "raises in a thread":
    import threading
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
if how == "calls":
    shardcast.shutdown()
if how == "catches":
    origin = shardcast.api.current_origin._origin
    try:
        shardcast.shutdown()
    except KeyboardInterrupt:
        assert not origin._process.running
        sys.exit(4)
if how.startswith("waits"):
    shardcast.shutdown(wait=float(how.split()[1]))
if how == "forks":
    if not os.fork():
        begun = time.monotonic()
        shardcast.shutdown()
        assert time.monotonic() - begun < 1
        sys.exit()
    os.wait()
    assert shardcast.api.current_origin._origin._process.running
sys.exit(3)
"""


class Trainer:
    """A training process with an origin beside it, on a port that is known before it runs."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port
        self.origin = int(self.said())
        self.published = 0.0

    def said(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        """Have it publish, and return when it has."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        assert self.said() == "v1"
        self.published = time.monotonic()

    def waits(self) -> None:
        """Wait until its origin says what it waits for."""
        assert self.process.stderr
        while "before it ends" not in (line := self.process.stderr.readline()):
            assert line, "it ended without a wait"

    def ends(self, timeout: float = AT_LAST) -> float:
        """Wait for its end, and return how many seconds after the publication that was."""
        self.process.wait(timeout)
        processes.wait_until(lambda: not lives(self.origin), 10, "the origin to end")
        return time.monotonic() - self.published

    def log(self) -> str:
        assert self.process.stderr
        return self.process.stderr.read()


@contextlib.contextmanager
def trainer(tmp_path: Path, port: int, how: str) -> Iterator[Trainer]:
    payload = tmp_path / "model.bin"
    payload.write_bytes(random_bytes(SIZE))
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINER, str(tmp_path / "data"), str(port), str(payload), how],
        env=processes.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        running = None
        try:
            running = Trainer(process, port)
            yield running
        finally:
            process.kill()
            if running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(running.origin, signal.SIGKILL)


@contextlib.contextmanager
def network(
    tmp_path: Path, how: str, count: int = 1, rate: float = RATE
) -> Iterator[tuple[Trainer, list[processes.Node]]]:
    """A trainer, and middles that have reported to it and get its bytes slowly."""
    with (
        processes.reserved_port() as port,
        trainer(tmp_path, port, how) as publisher,
        slow_link(port, rate * count) as address,
        contextlib.ExitStack() as stack,
    ):
        middles = [
            stack.enter_context(processes.middle(address, tmp_path / f"m{number}")) for number in range(count)
        ]
        processes.wait_until(lambda: reported(port) == count, what="the reports")
        yield publisher, middles


def reported(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=10) as answer:
        return len(json.load(answer)["below"])


def has_v1(tmp_path: Path, number: int) -> bool:
    listed = tmp_path / f"m{number}" / "distribution.txt"
    digest = sha256(tmp_path / "model.bin")
    return listed.exists() and listed.read_text().startswith(f"v1: {digest}|")


@pytest.mark.parametrize("how", ["calls", "returns"])
def test_shutdown_is_immediate_without_followers(how: str, tmp_path: Path) -> None:
    with processes.reserved_port() as port, trainer(tmp_path, port, how) as publisher:
        publisher.go()
        assert publisher.ends() < AT_ONCE
        assert "before it ends" not in publisher.log()


@pytest.mark.parametrize("how", ["calls", "returns", "raises in a thread", "forks"])
def test_follower_gets_last_version_before_publisher_ends(how: str, tmp_path: Path) -> None:
    """By ``shutdown()`` and by the end of the interpreter; sys.exit(3) is no uncaught exception."""
    with network(tmp_path, how, 1) as (publisher, _):
        publisher.go()
        assert not has_v1(tmp_path, 0), "the follower is not slow"
        assert SIZE / RATE - 2 < publisher.ends() < AT_LAST
        assert publisher.process.returncode == 3
        assert has_v1(tmp_path, 0)
        waited = [line for line in publisher.log().splitlines() if "before it ends" in line]
        assert len(waited) == 1, "one line says what is waited for"
        assert re.search("60 s at most for v1: .+ lacks it", waited[0])


def test_shutdown_does_not_wait_for_a_dead_follower(tmp_path: Path) -> None:
    with network(tmp_path, "calls", 3) as (publisher, middles):
        middles[0].kill()
        publisher.go()
        assert HEARD_WITHIN - 6 < publisher.ends() < HEARD_WITHIN + 10, "the dead one is waited for 20 s"
        assert [has_v1(tmp_path, number) for number in range(3)] == [False, True, True]


@pytest.mark.parametrize("how", ["waits 0", "raises"])
def test_shutdown_is_immediate_with_wait_0_or_uncaught_exception(how: str, tmp_path: Path) -> None:
    with network(tmp_path, how, rate=CRAWL) as (publisher, _):
        publisher.go()
        assert publisher.ends() < EARLY
        assert not has_v1(tmp_path, 0)
        assert "before it ends" not in publisher.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("how", ["calls", "returns", "sleeps"])
def test_origin_never_outlives_its_parent(number: signal.Signals, how: str, tmp_path: Path) -> None:
    """Neither while the parent works nor while the parent waits for followers."""
    with network(tmp_path, how, rate=CRAWL) as (publisher, _):
        publisher.go()
        publisher.process.send_signal(number)
        assert publisher.ends() < EARLY
        assert not has_v1(tmp_path, 0)


@pytest.mark.parametrize("how", ["calls", "returns"])
def test_ctrl_c_ends_wait_and_origin(how: str, tmp_path: Path) -> None:
    with network(tmp_path, how, rate=CRAWL) as (publisher, _):
        publisher.go()
        publisher.waits()
        publisher.process.send_signal(signal.SIGINT)
        assert publisher.ends() < EARLY
        assert not has_v1(tmp_path, 0)
        assert ("interrupted" in publisher.log()) == (how == "returns")


def test_origin_has_ended_when_program_catches_ctrl_c(tmp_path: Path) -> None:
    with network(tmp_path, "catches", rate=CRAWL) as (publisher, _):
        publisher.go()
        publisher.waits()
        publisher.process.send_signal(signal.SIGINT)
        publisher.ends()
        assert publisher.process.returncode == 4, publisher.log()


def test_node_connecting_just_before_shutdown_is_awaited(tmp_path: Path) -> None:
    """It has an open feed, and sends its first report within a second."""
    with (
        processes.reserved_port() as port,
        trainer(tmp_path, port, "calls") as publisher,
        urllib.request.urlopen(f"http://127.0.0.1:{port}/feed", timeout=10),
    ):
        publisher.go()
        assert publisher.ends() > QUIET - 1


def test_interrupt_holding_the_process_lock_does_not_hang(tmp_path: Path) -> None:
    """CPython's ``Popen.poll`` does so when a signal handler raises between its two first lines."""
    origin = OriginServer(tmp_path / "data", 0)
    pid, lock = origin._process.pid, cast(Any, origin._process._child)._process._waitpid_lock
    with lock:
        begun = time.monotonic()
        origin.shutdown(wait=0)
        assert time.monotonic() - begun < 10
    processes.wait_until(lambda: not lives(pid), what="the origin to end")
    origin.shutdown(wait=0)


def test_sigterm_ends_waiting_origin_itself(tmp_path: Path) -> None:
    with network(tmp_path, "calls", rate=CRAWL) as (publisher, _):
        publisher.go()
        os.kill(publisher.origin, signal.SIGTERM)
        assert publisher.ends() < EARLY
        assert publisher.process.returncode == 3


def test_minimum_wait_passes_without_reports(tmp_path: Path) -> None:
    with processes.reserved_port() as port, trainer(tmp_path, port, "waits 4") as publisher:
        publisher.go()
        assert 4 <= publisher.ends() < 4 + AT_ONCE
        assert "v1: 4 s were asked for" in publisher.log()


def test_process_does_not_wait_without_published_version(tmp_path: Path) -> None:
    origin = OriginServer(tmp_path / "data", 0)
    begun = time.monotonic()
    with processes.middle(origin.url.replace("0.0.0.0", "127.0.0.1"), tmp_path / "m0"):
        processes.wait_until(lambda: reported(origin.port) == 1, what="the report")
        begun = time.monotonic()
        origin.shutdown()
        assert time.monotonic() - begun < AT_ONCE


def test_readme_example_delivers_last_version(tmp_path: Path) -> None:
    """A middle that connects just before the end, and has not reported yet, gets the last version too."""
    payload = tmp_path / "model.bin"
    payload.write_bytes(random_bytes(SIZE))
    shardcast.initialize(tmp_path / "data", 0)
    try:
        assert shardcast.api.current_origin._origin
        url = shardcast.api.current_origin._origin.url.replace("0.0.0.0", "127.0.0.1")
        with processes.middle(url, tmp_path / "m0"):
            shardcast.broadcast(payload)
            with shardcast.open_broadcast("other.bin") as out:
                out.write(random_bytes(SIZE, seed=2))
            shardcast.shutdown()
            assert [line[:3] for line in (tmp_path / "m0/distribution.txt").read_text().splitlines()] == [
                "v1:",
                "v2:",
            ]
    finally:
        shardcast.shutdown(wait=0)


@pytest.mark.parametrize("wait", [-1, math.nan, math.inf, 1e9])
def test_invalid_wait_raises_and_ends_nothing(wait: float, tmp_path: Path) -> None:
    shardcast.initialize(tmp_path / "data", 0)
    try:
        with pytest.raises(UsageError):
            shardcast.shutdown(wait=wait)
        assert shardcast.api.current_origin._origin
        assert shardcast.api.current_origin._origin._process.running
    finally:
        shardcast.shutdown(wait=0)


def test_other_process_can_wait_for_the_finish(
    tmp_path: Path,
) -> None:
    """The data directory's socket serves whoever may use it; asking ends nothing by itself."""
    (tmp_path / "x.bin").write_bytes(b"x")
    with processes.origin(tmp_path / "data", "--broadcast", str(tmp_path / "x.bin")) as origin:
        origin.wait_for_log("v1 is complete")
        finish(tmp_path / "data")
        raw = encode(Node("a", "client", "gpu3"), [])
        urllib.request.urlopen(f"{origin.url}/report", raw, timeout=10).close()
        begun = time.monotonic()
        with pytest.raises(NodeFailed, match=r"ended by itself|went away"):
            _finish_and_end(origin, tmp_path / "data")
        origin.process.wait(10)
        assert time.monotonic() - begun < 1 + 1.5, "the origin waited for its own answer to end"


def _finish_and_end(origin: processes.Node, data_dir: Path) -> None:
    """Wait for an origin that is ended by a signal meanwhile."""
    ending = subprocess.Popen(["sh", "-c", f"sleep 1; kill {origin.process.pid}"])
    try:
        finish(data_dir)
    finally:
        ending.wait()
