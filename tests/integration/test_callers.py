"""Callers at a data directory's socket that leave: what they did not wait for is not done."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, UnixConnector, web

from shardcast.control import client as control
from shardcast.control.client import ControlConnection
from shardcast.control.writer import BroadcastWriter
from shardcast.errors import LocalDiskError, NodeFailed, VersionNotOffered, to_wire
from shardcast.nodes.origin import Origin
from shardcast.protocol.wire import (
    CONFIRMED_PREFIX,
    COPIES_PATH,
    FINISH_PATH,
    PIN_PATH,
    PUBLISH_PATH,
    STREAM_PATH,
    UNPIN_PATH,
    WITHDRAW_PATH,
)
from shardcast.server import callers
from shardcast.server.application import application, serve_on_socket
from shardcast.store.data_dir import DataDir
from tests.integration.test_live import until
from tests.support import processes
from tests.support.published import publish, random_bytes

HTTP = "127.0.0.1", 0


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    file = tmp_path / "model.bin"
    file.write_bytes(random_bytes(100_000))
    return file


@pytest.fixture
async def origin(tmp_path: Path) -> AsyncIterator[Origin]:
    publish(tmp_path / "data", random_bytes(1000), 1000)
    async with Origin.running(tmp_path / "data", *HTTP) as running:
        yield running


def names(origin: Origin) -> list[str]:
    return [one.version for one in origin.folders.listings]


def listed(data_dir: Path) -> list[str]:
    return [line.split(":")[0] for line in (data_dir / "distribution.txt").read_text().splitlines()]


async def settled(origin: Origin) -> None:
    """Wait until nothing is being published any more."""
    await until(lambda: not origin._publisher._under_way, "the end of what is under way")


# An origin that does not answer


@contextlib.contextmanager
def stopped(node: processes.Node) -> Iterator[None]:
    node.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        node.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def without_descriptors(node: processes.Node) -> Iterator[None]:
    """The node can open nothing more, and so accepts no connection."""
    before = resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE)
    in_use = len(list(Path(f"/proc/{node.process.pid}/fd").iterdir()))
    resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE, (in_use, before[1]))
    try:
        yield
    finally:
        resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE, before)


_LINUX = pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux limits another process")


@pytest.mark.parametrize("unanswering", [stopped, pytest.param(without_descriptors, marks=_LINUX)])
def test_request_that_timed_out_is_not_carried_out_later(
    unanswering: Callable[[processes.Node], contextlib.AbstractContextManager[None]],
    payload: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data_dir = publish(tmp_path / "data", random_bytes(1000), 1000).data_dir
    monkeypatch.setattr(control, "_SILENCE_SECONDS", 0.3)
    changes: list[Callable[[], object]] = [
        lambda: list(control.publish(data_dir, payload)),
        lambda: BroadcastWriter(data_dir, "model.bin"),
        lambda: control.withdraw(data_dir, "v1"),
        lambda: control.change_pin(data_dir, "v1", pinned=True),
    ]
    with processes.origin(data_dir) as node:
        with unanswering(node):
            for change in changes:
                with pytest.raises(NodeFailed, match="went away"):
                    change()
        monkeypatch.setattr(control, "_SILENCE_SECONDS", 60.0)
        *_, last = control.publish(data_dir, payload)
        assert last == {"complete": "v2"}, "a number was used for a caller that had gone"
        with pytest.raises(VersionNotOffered, match="not pinned"):
            control.change_pin(data_dir, "v1", pinned=False)
        assert listed(data_dir) == ["v1", "v2"]


def test_full_connection_queue_is_not_reported_as_disk_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def time_out(self: ControlConnection) -> None:
        raise TimeoutError

    monkeypatch.setattr(ControlConnection, "connect", time_out)
    with pytest.raises(NodeFailed, match="does not answer"):
        control.connect(tmp_path)


# Callers that leave


@contextlib.contextmanager
def asking(origin: Origin, path: str, body: dict[str, Any]) -> Iterator[ControlConnection]:
    """A request as ``control`` begins it; the block ends it as a caller does that is killed."""
    connection = ControlConnection(origin.folders.data_dir.root)
    connection.connect()
    with contextlib.closing(connection):
        connection.start_request(CONFIRMED_PREFIX + path, body)
        yield connection


def read_until(connection: ControlConnection, word: str) -> dict[str, Any]:
    for line in connection.getresponse():
        if word in (said := json.loads(line)):
            return said
    raise AssertionError(f"the answer ended without {word}")


@pytest.mark.parametrize("path", [PUBLISH_PATH, WITHDRAW_PATH, PIN_PATH, UNPIN_PATH])
async def test_version_is_not_published_without_confirmation(
    path: str, origin: Origin, payload: Path
) -> None:
    pinned = {1} if path == UNPIN_PATH else set()
    if pinned:
        await origin.folders.pin("v1")

    def leave_when_ready() -> None:
        with asking(origin, path, {"path": str(payload), "version": "v1"}) as connection:
            assert read_until(connection, "ready") == {"ready": True}

    await asyncio.to_thread(leave_when_ready)
    await settled(origin)
    *_, last = await asyncio.to_thread(lambda: list(control.publish(origin.folders.data_dir.root, payload)))
    assert names(origin) == ["v1", last["complete"]]
    assert origin.folders.holds.pinned == pinned
    assert {entry.name for entry in origin.folders.data_dir.root.glob("v*")} == {"v1", last["complete"]}


async def test_caller_that_leaves_the_queue_publishes_nothing(origin: Origin, payload: Path) -> None:
    data_dir = origin.folders.data_dir.root

    def leave() -> str:
        with BroadcastWriter(data_dir, "first") as first:
            second = control.publish(data_dir, payload)  # waits for the first
            assert next(second) == {"version": "v3"}
            assert "progress" in next(second)
            second.close()
            first.write(b"first")
        return first.version

    assert await asyncio.to_thread(leave) == "v2"
    await settled(origin)
    assert names(origin) == ["v1", "v2"]


async def test_writer_killed_after_last_byte_publishes_nothing(origin: Origin) -> None:
    def leave() -> None:
        with asking_for_pipe(origin) as (connection, pipe):
            pipe.write(b"all of it")
            pipe.close()
            connection.send_line({"end": 9})
            assert read_until(connection, "ready") == {"ready": True}

    await asyncio.to_thread(leave)
    await settled(origin)
    assert names(origin) == ["v1"]


@contextlib.contextmanager
def asking_for_pipe(origin: Origin) -> Iterator[tuple[ControlConnection, Any]]:
    connection = ControlConnection(origin.folders.data_dir.root)
    connection.connect()
    with contextlib.closing(connection):
        connection.start_request(STREAM_PATH, {"name": "model.bin", "confirm": True})
        answer = connection.getresponse()
        connection.getresponse = lambda: answer  # type: ignore[method-assign]
        with Path(json.loads(answer.readline())["pipe"]).open("wb") as pipe:
            yield connection, pipe


async def test_stopped_caller_delays_others_for_bounded_time(
    origin: Origin, payload: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callers, "CONFIRM_SECONDS", 0.2)

    def say_nothing() -> dict[str, Any]:
        with asking(origin, PUBLISH_PATH, {"path": str(payload)}) as connection:
            return read_until(connection, "error")

    failure = await asyncio.to_thread(say_nothing)
    assert "did not confirm it within 0.2 s" in failure["error"]["message"]
    assert names(origin) == ["v1"]


async def test_origin_ends_without_waiting_for_confirmation(tmp_path: Path, payload: Path) -> None:
    ready, leave = threading.Event(), threading.Event()

    def say_nothing() -> None:
        with asking(origin, PUBLISH_PATH, {"path": str(payload)}) as connection:
            read_until(connection, "ready")
            ready.set()
            leave.wait(30)

    async with Origin.running(tmp_path / "data", *HTTP) as origin:
        silent = asyncio.ensure_future(asyncio.to_thread(say_nothing))
        await asyncio.to_thread(ready.wait, 30)
        await asyncio.wait_for(origin._publisher.close(), 10)
        leave.set()
        await silent
        assert names(origin) == []


# Nodes and callers of 0.4.0


async def test_caller_of_0_4_is_served_and_publishes_nothing_after_leaving(
    origin: Origin, payload: Path
) -> None:
    data_dir = origin.folders.data_dir.root

    def ask(then: str) -> dict[str, Any]:
        connection = ControlConnection(data_dir)
        with contextlib.closing(connection):
            headers = {"Content-Type": "application/json"}
            connection.request("POST", PUBLISH_PATH, json.dumps({"path": str(payload)}), headers)
            return read_until(connection, then)

    def leave() -> str:
        with BroadcastWriter(data_dir, "first") as first:
            assert ask("progress")
            first.write(b"first")
        return first.version

    assert await asyncio.to_thread(ask, "complete") == {"complete": "v2"}
    assert await asyncio.to_thread(leave) == "v3"
    await settled(origin)
    assert names(origin) == ["v1", "v2", "v3"]


@contextlib.asynccontextmanager
async def node_that(data_dir: Path, path: str, answer: Callable[[web.Request], Any]) -> AsyncIterator[None]:
    """A node on a data directory that answers one path."""
    held = DataDir(data_dir, "origin")
    try:
        add = partial(lambda app: app.router.add_post(path, answer))
        async with serve_on_socket(application("node", add), data_dir):
            yield
    finally:
        held.close()


async def test_node_of_0_4_gets_requests_in_its_form(tmp_path: Path, payload: Path) -> None:
    async def answer(request: web.Request) -> web.Response:
        asked = await request.json()
        return web.Response(text=f'{{"version": "v1"}}\n{{"complete": "v1", "of": "{asked["path"]}"}}\n')

    async with node_that(tmp_path / "data", PUBLISH_PATH, answer):
        said = await asyncio.to_thread(lambda: list(control.publish(tmp_path / "data", payload)))
    assert said == [{"version": "v1"}, {"complete": "v1", "of": str(payload)}]


# The last step


@pytest.mark.parametrize("written", [True, False])
async def test_list_decides_result_when_origin_dies_in_last_step(
    written: bool, tmp_path: Path, payload: Path
) -> None:
    data_dir = tmp_path / "data"

    async def die(request: web.Request) -> web.StreamResponse:
        await request.content.readline()
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"version": "v1"}\n{"ready": true}\n')
        assert json.loads(await request.content.readline()) == {"confirm": True}
        if written:
            (data_dir / "distribution.txt").write_text(f"v1: {'0' * 64}|1\n")
        assert request.transport
        request.transport.abort()
        return response

    async with node_that(data_dir, CONFIRMED_PREFIX + PUBLISH_PATH, die):
        asked = asyncio.to_thread(lambda: list(control.publish(data_dir, payload)))
        if written:
            assert (await asked)[-1] == {"complete": "v1"}
        else:
            with pytest.raises(NodeFailed, match="while it published"):
                await asked


@pytest.mark.parametrize("removes_pipe", [True, False])
async def test_error_of_the_origin_reaches_a_writer_that_finds_its_end_closed(
    removes_pipe: bool, tmp_path: Path
) -> None:
    """The origin's answer is there, but writing to what the origin has closed fails first."""
    data_dir, failed, pipe = tmp_path / "data", threading.Event(), tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    async def fail(request: web.Request) -> web.StreamResponse:
        await request.content.readline()
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(json.dumps({"version": "v1", "pipe": str(pipe)}).encode() + b"\n")
        await response.write(json.dumps({"error": to_wire(LocalDiskError("no space"))}).encode() + b"\n")
        await response.write_eof()
        assert request.transport
        request.transport.close()
        failed.set()
        return response

    def write() -> None:
        if removes_pipe:
            pipe.unlink()
        with BroadcastWriter(data_dir, "model.bin") as writer:
            writer.write(b"gathered")
            assert failed.wait(30)

    try:
        async with node_that(data_dir, STREAM_PATH, fail):
            with pytest.raises(LocalDiskError, match="no space"):
                await asyncio.to_thread(write)
    finally:
        os.close(reader)


@pytest.mark.parametrize(
    "path",
    [
        *(STREAM_PATH, FINISH_PATH, COPIES_PATH),
        *(
            p + path
            for p in ("", CONFIRMED_PREFIX)
            for path in (PUBLISH_PATH, PIN_PATH, UNPIN_PATH, WITHDRAW_PATH)
        ),
    ],
)
async def test_deeply_nested_request_is_refused(origin: Origin, path: str) -> None:
    connector = UnixConnector(str(origin.folders.data_dir.own / "socket"))
    url, body = f"http://origin{path}", b"[" * 4000 + b"\n"
    async with ClientSession(connector=connector) as session, session.post(url, data=body) as answer:
        assert answer.status == 400, await answer.text()
