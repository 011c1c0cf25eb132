"""Waiting for copies: a broadcast that returns when so many nodes below have the version."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shardcast
from shardcast import CopiesMissing, NodeFailed, OriginServer, ShardcastError, UsageError, VersionNotOffered
from shardcast.control.waiting import wait_for_copies
from shardcast.errors import from_wire, to_wire
from shardcast.protocol.report import Node, encode
from shardcast.server.downstream import Downstream
from tests.support import processes
from tests.support.published import random_bytes

COPIES_MISSING, NOT_OFFERED, USAGE = 7, 3, 2
PROMPT = 15.0
"""Seconds in which three hops have passed on and reported a small version; their usual reports take 45 s."""


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    file = tmp_path / "model.bin"
    file.write_bytes(random_bytes(700_000))
    return file


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[OriginServer]:
    running = OriginServer(tmp_path / "data", 0)
    yield running
    running.shutdown(wait=0)


def url(origin: OriginServer) -> str:
    return origin.url.replace("0.0.0.0", "127.0.0.1")


def origin_id(tmp_path: Path) -> str:
    return (tmp_path / "data" / ".shardcast" / "origin").read_text().strip()


def report(to: str, node: str, *has: str, origin: str | None, below: tuple[Node, ...] = ()) -> None:
    """Report as a node that has these versions."""
    raw = encode(Node(node, "client", node, has, origin=origin), below)
    urllib.request.urlopen(f"{to}/report", raw, timeout=10).close()


@contextlib.contextmanager
def following(servers: str, folder: Path) -> Iterator[None]:
    words = processes.command("client", "--servers", servers, "--follow", "--output-dir", str(folder))
    with processes.started(words, timeout=0.1):
        yield


# Reached -----------------------------------------------------------------------------------------


def test_middles_and_client_in_layers_count_within_seconds(
    payload: Path, origin: OriginServer, tmp_path: Path
) -> None:
    """News climbs a hop a second instead of waiting for the next report of each hop."""
    with (
        processes.middle(url(origin), tmp_path / "m1") as first,
        processes.middle(first.url, tmp_path / "m2") as second,
        following(second.url, tmp_path / "out"),
    ):
        assert origin.broadcast(payload, copies=3, timeout=60) == "v1"
        begun = time.monotonic()
        assert origin.broadcast(payload, copies=3, timeout=60) == "v2"
        assert time.monotonic() - begun < PROMPT
        for number in ("m1", "m2"):
            assert "v2: " in (tmp_path / number / "distribution.txt").read_text()
        assert (tmp_path / "out" / "download_v2.bin").read_bytes() == payload.read_bytes()


def test_handle_waits_for_copies_and_counts_them(payload: Path, origin: OriginServer, tmp_path: Path) -> None:
    handle = origin.broadcast(payload, wait=False, copies=2, timeout=30)
    other = origin.broadcast(payload, wait=False)
    assert (handle.version, other.result(10)) == ("v1", "v2")
    with pytest.raises(TimeoutError, match=r"v1 does not have its 2 copies after 0\.5 s"):
        handle.result(0.5)
    report(url(origin), "a", "v1", origin=origin_id(tmp_path))
    processes.wait_until(lambda: handle.progress.copies == 1, what="the first copy")
    assert not handle.done()
    report(url(origin), "b", "v1", "v2", origin=origin_id(tmp_path))
    assert handle.result(10) == "v1"
    assert handle.done()
    assert handle.progress.copies == 2
    assert other.wait_for(copies=1, timeout=5) == handle.wait_for(timeout=5).replace("1", "2") == "v2"
    with pytest.raises(UsageError):
        other.wait_for()


def test_nodes_of_other_origins_do_not_count(payload: Path, origin: OriginServer, tmp_path: Path) -> None:
    """A node of 0.4.0 names no origin. It may have another line's v1, and does not count."""
    ours = origin_id(tmp_path)
    origin.broadcast(payload)
    handle = origin.broadcast(payload, wait=False)
    report(url(origin), "old", "v1", "v2", origin=None)
    report(url(origin), "other", "v1", "v2", origin="ffff")
    report(url(origin), "behind", "v1", origin=ours)
    below = (Node("c1", "client", has=["v2"], origin=ours), Node("c2", "client", has=["v2"], origin=None))
    report(url(origin), "middle", "v2", origin=ours, below=below)
    assert handle.wait_for(copies=2, timeout=10) == "v2"
    with pytest.raises(CopiesMissing) as failure:
        handle.wait_for(copies=3, timeout=0.5)
    assert failure.value.have == 2


def test_partial_version_is_not_counted_as_copy() -> None:
    below = Downstream("0123")
    below.record([Node("a", "client", has=["v1"], coming={"v2": 5}, hops=1, origin="ce0d")])
    assert (below.copies("v1", "ce0d"), below.copies("v2", "ce0d")) == (1, 0)


# Not reached -------------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", [True, False])
def test_too_few_copies_in_time_raise_with_their_number(
    wait: bool, payload: Path, origin: OriginServer, tmp_path: Path
) -> None:
    report(url(origin), "a", "v1", origin=origin_id(tmp_path))
    begun = time.monotonic()
    with pytest.raises(CopiesMissing, match=r"1 of 3 nodes have v1 after .+ s; it stays pub") as failure:
        if wait:
            origin.broadcast(payload, copies=3, timeout=1.5)
        else:
            origin.broadcast(payload, wait=False, copies=3, timeout=1.5).result(30)
    assert 1.5 <= time.monotonic() - begun < 10
    assert isinstance(failure.value, TimeoutError | ShardcastError)
    assert isinstance(failure.value, TimeoutError)
    assert (failure.value.version, failure.value.have, failure.value.copies) == ("v1", 1, 3)
    assert origin.broadcast(payload) == "v2", "the first one was published"


def test_zero_timeout_checks_once(payload: Path, origin: OriginServer, tmp_path: Path) -> None:
    handle = origin.broadcast(payload, wait=False)
    handle.result(10)
    with pytest.raises(CopiesMissing):
        handle.wait_for(copies=1, timeout=0)
    report(url(origin), "a", "v1", origin=origin_id(tmp_path))
    assert handle.wait_for(copies=1, timeout=0) == "v1"


@pytest.mark.parametrize(
    ("copies", "timeout"), [(0, None), (-1, None), (1.5, None), ("3", None), (True, None), (None, 5), (3, -1)]
)
def test_invalid_copies_or_timeout_publishes_nothing(
    copies: Any, timeout: Any, payload: Path, origin: OriginServer
) -> None:
    for wait in (True, False):
        with pytest.raises(UsageError):
            origin.broadcast(payload, wait=wait, copies=copies, timeout=timeout)
    handle = origin.broadcast(payload, wait=False)
    assert handle.result(10) == "v1"
    with pytest.raises(UsageError):
        handle.wait_for(copies, timeout)


def meanwhile(work: Callable[[], object], seconds: float = 1.0) -> threading.Timer:
    timer = threading.Timer(seconds, work)
    timer.start()
    return timer


def test_wait_raises_when_version_is_retired(payload: Path, tmp_path: Path) -> None:
    origin = OriginServer(tmp_path / "data", 0, max_distribution_folders=1)
    try:
        handle = origin.broadcast(payload, wait=False)
        handle.result(10)
        timer = meanwhile(lambda: origin.broadcast(payload))
        with pytest.raises(VersionNotOffered, match=r"v1 .any more.; 0 of 2 nodes had it"):
            handle.wait_for(copies=2, timeout=30)
        timer.join()
        with pytest.raises(VersionNotOffered):
            list(wait_for_copies(tmp_path / "data", "v9", 1, timeout=30))
    finally:
        origin.shutdown(wait=0)


@pytest.mark.parametrize("how", ["shut down", "killed"])
def test_wait_raises_when_origin_ends(how: str, payload: Path, tmp_path: Path) -> None:
    origin = OriginServer(tmp_path / "data", 0)
    try:
        handle = origin.broadcast(payload, wait=False)
        handle.result(10)
        pid = origin._process.pid
        timer = meanwhile(
            lambda: origin.shutdown(wait=0) if how == "shut down" else os.kill(pid, signal.SIGKILL)
        )
        begun = time.monotonic()
        with pytest.raises(NodeFailed, match=r"ended while this waited for 2 copies of v1|went away"):
            handle.wait_for(copies=2, timeout=60)
        assert time.monotonic() - begun < PROMPT
        timer.join()
    finally:
        origin.shutdown(wait=0)


def test_failed_broadcast_raises_its_own_error(tmp_path: Path, origin: OriginServer) -> None:
    gone = tmp_path / "gone.bin"
    gone.write_bytes(b"here now")
    with origin.open_broadcast("first.bin"):  # keeps the origin busy until the file has gone
        handle = origin.broadcast(gone, wait=False, copies=1, timeout=30)
        with pytest.raises(CopiesMissing, match="0 of 1"):
            handle.wait_for(copies=1, timeout=0.2)
        gone.unlink()
    for wait in (lambda: handle.result(30), lambda: handle.wait_for(1, 30)):
        with pytest.raises(FileNotFoundError, match="gone"):
            wait()


def test_copies_missing_can_be_pickled() -> None:
    error = from_wire(to_wire(CopiesMissing("1 of 3 nodes have v1", "v1", 1, 3)))
    assert isinstance(error, CopiesMissing)
    assert str(error) == "1 of 3 nodes have v1"


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"version": "v1", "wait": -1}',
        b'{"version": "x", "copies": 1, "wait": "1"}',
        b'{"version": "v1", "copies": 0}',
        b'{"version": "v1", "copies": true}',
    ],
)
def test_malformed_copies_request_is_refused(body: bytes, tmp_path: Path, origin: OriginServer) -> None:
    from shardcast.control.client import ControlConnection

    with contextlib.closing(ControlConnection(tmp_path / "data")) as connection:
        for path in ("/copies", "/finish"):
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            assert answer.status == 400
            answer.read()


# The command -------------------------------------------------------------------------------------


def test_command_waits_for_copies_and_prints_version(payload: Path, tmp_path: Path) -> None:
    words = ("broadcast", str(payload), "--data-dir", str(tmp_path / "data"))
    with processes.origin(tmp_path / "data") as origin, processes.middle(origin.url, tmp_path / "m1"):
        done = processes.run(*words, "--copies", "1", "--timeout", "1m")
        assert (done.returncode, done.stdout) == (0, "v1\n"), done.stderr
        assert "v1: 1 of 1 copies" in done.stderr
        as_json = processes.run(*words, "--copies", "1", "--json", "--quiet")
        assert json.loads(as_json.stdout) == {"version": "v2", "path": str(payload), "copies": 1}
        assert as_json.stderr == ""
        missing = processes.run(*words, "--copies", "2", "--timeout", "5s")
        assert (missing.returncode, missing.stdout) == (COPIES_MISSING, "v3\n")
        assert "Error: 1 of 2 nodes have v3 after 5 s; it stays published" in missing.stderr
        as_json = processes.run(*words, "--copies", "2", "--timeout", "5s", "--json")
        assert as_json.returncode == COPIES_MISSING
        assert json.loads(as_json.stdout) == {"version": "v4", "path": str(payload), "copies": 1}


@pytest.mark.parametrize(
    "words", [("--copies", "0"), ("--timeout", "5s"), ("--copies", "1", "--timeout", "soon")]
)
def test_invalid_copies_options_are_usage_errors(
    words: tuple[str, ...], payload: Path, tmp_path: Path
) -> None:
    done = processes.run("broadcast", str(payload), "--data-dir", str(tmp_path / "data"), *words)
    assert (done.returncode, done.stdout) == (USAGE, ""), done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("there", [False, True], ids=["no directory", "a directory"])
def test_copies_without_origin_publish_nothing(there: bool, payload: Path, tmp_path: Path) -> None:
    words = ("broadcast", str(payload), "--data-dir", str(tmp_path / "data"))
    if there:
        assert processes.run(*words).stdout == "v1\n"
    done = processes.run(*words, "--copies", "1")
    assert (done.returncode, done.stdout) == (USAGE, ""), done.stderr
    assert f"shardcast-origin --data-dir {tmp_path / 'data'}" in done.stderr
    assert [one.name for one in tmp_path.glob("data/v*")] == ["v1"] * there


def test_copies_into_middle_directory_are_refused(payload: Path, tmp_path: Path) -> None:
    with processes.middle("127.0.0.1:1", tmp_path / "data"):
        done = processes.run("broadcast", str(payload), "--data-dir", str(tmp_path / "data"), "--copies", "1")
    assert done.returncode == 1
    assert "in use by a shardcast middle" in done.stderr


def test_broadcast_without_origin_says_how_to_start_one(payload: Path, tmp_path: Path) -> None:
    data = tmp_path / "my data"
    words = ("broadcast", str(payload), "--data-dir", str(data))
    done = processes.run(*words)
    assert (done.returncode, done.stdout) == (0, "v1\n")
    assert f"no origin runs on {data}, so v1 is published but not served" in done.stderr
    assert f"shardcast-origin --data-dir '{data}'" in done.stderr
    assert processes.run(*words, "--quiet").stderr == ""
    shutil.rmtree(data)
    with processes.origin(data):
        assert "no origin" not in processes.run(*words).stderr


def test_module_functions_pass_copies_to_the_origin(payload: Path, tmp_path: Path) -> None:
    shardcast.initialize(tmp_path / "data", 0)
    try:
        assert shardcast.api.current_origin._origin
        report(url(shardcast.api.current_origin._origin), "a", "v1", "v2", origin=origin_id(tmp_path))
        assert shardcast.broadcast(payload, copies=1, timeout=10) == "v1"
        handle = shardcast.broadcast(payload, wait=False, copies=1, timeout=10)
        assert handle.result(10) == "v2"
        assert handle.progress.copies == 1
    finally:
        shardcast.shutdown(wait=0)
