"""Withdrawing a version at its origin: the command, the library and the door on the socket."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import shardcast
from shardcast import (
    NotInitialized,
    OriginServer,
    UsageError,
    VersionNotOffered,
    VersionWithdrawn,
    Withdrawal,
)
from shardcast.control import client as control
from shardcast.control.client import ControlConnection, NoNode
from shardcast.errors import NodeFailed
from shardcast.nodes.offline_withdrawal import withdraw_in
from shardcast.nodes.origin import Origin
from shardcast.protocol.feed import MAX_REASON, check_reason
from shardcast.server.application import application, serve_on_socket
from shardcast.server.routes.withdraw import add_withdraw_routes
from shardcast.store.data_dir import DataDir
from tests.support import processes
from tests.support.published import publish, random_bytes

USAGE, NOT_OFFERED, DISK, OTHER = 2, 3, 6, 1
DIGEST = "9f" * 32
REASON = "loss was NaN, see run 12"


class Versions:
    """An origin's versions as the door needs them: v7 is here."""

    def __init__(self) -> None:
        self.withdrawn: list[tuple[str, str]] = []

    async def withdraw_own(self, version: str, reason: str) -> Withdrawal:
        if version != "v7":
            raise VersionNotOffered(f"{version} is not complete here, which holds v7")
        self.withdrawn.append((version, reason))
        return Withdrawal(version, DIGEST, reason)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory with v1 and v2."""
    for seed in (1, 2):
        publish(tmp_path / "data", random_bytes(1000, seed), 1000)
    return tmp_path / "data"


@pytest.fixture
async def versions(data_dir: Path) -> AsyncIterator[Versions]:
    """What is behind a door on that directory."""
    here = Versions()
    async with serve_on_socket(application("node", partial(add_withdraw_routes, versions=here)), data_dir):
        yield here


def command(
    data_dir: Path, *words: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    done = processes.run("withdraw", *words, "--data-dir", str(data_dir), env=env)
    assert "Traceback" not in done.stderr
    return done


# The command, beside a node --------------------------------------------------------------------------


async def test_command_withdraws_and_prints_it(versions: Versions, data_dir: Path) -> None:
    done = await asyncio.to_thread(command, data_dir, "v7", "--reason", f" {REASON}\n")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"v7 is withdrawn from {data_dir}\n"
    assert versions.withdrawn == [("v7", REASON)]


async def test_json_describes_the_withdrawal(versions: Versions, data_dir: Path) -> None:
    done = await asyncio.to_thread(command, data_dir, "v7", "--json", env={"SHARDCAST_REASON": REASON})
    assert json.loads(done.stdout) == {"version": "v7", "digest": DIGEST, "reason": REASON}
    assert versions.withdrawn == [("v7", REASON)]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("v8",), NOT_OFFERED, "v8 is not complete"),
        (("latest",), USAGE, "latest"),
        (("v07",), USAGE, "v07"),
        (("../v7",), USAGE, "../v7"),
        (("v7", "--reason", "two\nlines"), USAGE, "one line"),
        (("v7", "--reason", "x" * (MAX_REASON + 1)), USAGE, "500"),
        (("v7", "--reason", "bell \a"), USAGE, "printable"),
        ((), USAGE, "VERSION"),
    ],
)
async def test_invalid_command_withdraws_nothing(
    words: tuple[str, ...], code: int, told: str, versions: Versions, data_dir: Path
) -> None:
    done = await asyncio.to_thread(command, data_dir, *words)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert told in done.stderr
    assert versions.withdrawn == []


def test_foreign_folder_is_left_unchanged(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").touch()
    for name in ("home", "nowhere"):
        assert command(tmp_path / name, "v1").returncode == DISK
    assert [entry.name for entry in tmp_path.rglob("*")] == ["home", "letter.txt"]


# Only an origin --------------------------------------------------------------------------------------


def test_running_middle_refuses_withdrawal(data_dir: Path, tmp_path: Path) -> None:
    with (
        processes.origin(data_dir) as origin,
        processes.middle(origin.url, tmp_path / "middle") as middle,
    ):
        middle.wait_for_log("v2 is complete")
        done = command(tmp_path / "middle", "v2")
    assert done.returncode == USAGE
    assert "only the origin of v2 can withdraw it" in done.stderr
    assert str(tmp_path / "middle") in done.stderr


def test_directory_of_stopped_middle_is_left_unchanged(data_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "middle"
    shutil.copytree(data_dir, copy)
    (copy / ".shardcast" / "origin").write_text("another\n")
    landing = copy / "v3"
    landing.mkdir()
    (landing / "shard_001.bin.part").write_bytes(b"verified")
    done = command(copy, "v2")
    assert done.returncode == USAGE
    assert "v2 in" in done.stderr
    assert "only the origin of v2 withdraws it" in done.stderr
    done = command(copy, "v3")
    assert done.returncode == NOT_OFFERED
    assert "v1, v2" in done.stderr
    assert (landing / "shard_001.bin.part").exists()


async def test_directory_held_by_another_process_is_reported(data_dir: Path) -> None:
    with contextlib.closing(DataDir(data_dir, "broadcast")), pytest.raises(shardcast.DataDirInUse):
        await withdraw_in(data_dir, "v2", "")


# The door --------------------------------------------------------------------------------------------


def ask(data_dir: Path, body: bytes) -> tuple[int, Any]:
    with contextlib.closing(ControlConnection(data_dir)) as connection:
        connection.request("POST", "/withdraw", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if answer.status == 200 else text


async def test_route_answers_with_the_withdrawal(versions: Versions, data_dir: Path) -> None:
    body = json.dumps({"version": "v7", "reason": REASON}).encode()
    done = {"version": "v7", "digest": DIGEST, "reason": REASON}
    assert await asyncio.to_thread(ask, data_dir, body) == (200, {"done": done})
    assert (await asyncio.to_thread(ask, data_dir, b'{"version": "v7"}'))[1]["done"]["reason"] == ""


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"", 400, ""),
        (b"{", 400, ""),
        (b"[]", 400, ""),
        (b"7", 400, ""),
        (b"{}", 400, ""),
        (b'{"version": null}', 200, "UsageError"),
        (b'{"version": "../../etc"}', 200, "UsageError"),
        (b'{"version": "v' + b"9" * 10_000 + b'"}', 200, "UsageError"),
        (b'{"version": "v7", "reason": "two\\nlines"}', 200, "UsageError"),
        (b'{"version": "v7", "reason": "' + b"x" * 501 + b'"}', 200, "UsageError"),
        (b'{"version": "v8"}', 200, "VersionNotOffered"),
    ],
)
async def test_malformed_request_withdraws_nothing(
    body: bytes, status: int, kind: str, versions: Versions, data_dir: Path
) -> None:
    answered, told = await asyncio.to_thread(ask, data_dir, body)
    assert answered == status
    assert status == 400 or told["error"]["kind"] == kind
    assert versions.withdrawn == []


async def test_withdraw_route_is_not_reachable_over_tcp(tmp_path: Path) -> None:
    def post(url: str) -> int:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
        with contextlib.closing(connection):
            connection.request("POST", "/withdraw", b'{"version": "v1"}')
            return connection.getresponse().status

    async with Origin.running(tmp_path / "data", "127.0.0.1", 0) as origin:
        assert await asyncio.to_thread(post, origin.url) in (404, 405)


async def test_call_raises_the_origins_error(versions: Versions, data_dir: Path) -> None:
    done = await asyncio.to_thread(control.withdraw, data_dir, "v7", REASON)
    assert done == Withdrawal("v7", DIGEST, REASON)
    with pytest.raises(VersionNotOffered, match="v8"):
        await asyncio.to_thread(control.withdraw, data_dir, "v8")
    with pytest.raises(UsageError, match="not a version"):
        await asyncio.to_thread(control.withdraw, data_dir, "8")


async def test_call_raises_when_origin_goes_away(versions: Versions, data_dir: Path) -> None:
    async def crash(version: str, reason: str) -> Withdrawal:
        raise ZeroDivisionError

    versions.withdraw_own = crash  # type: ignore[method-assign]
    with pytest.raises(NodeFailed, match="refused"):
        await asyncio.to_thread(control.withdraw, data_dir, "v7")


def test_call_raises_without_origin(data_dir: Path) -> None:
    with pytest.raises(NoNode):
        control.withdraw(data_dir, "v1")


# Messages --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["", REASON, "Verlust: ∞ – naïve Läufe", "x" * MAX_REASON])
def test_reason_must_be_one_printable_line(reason: str) -> None:
    assert check_reason(f"\n {reason}\t") == reason


@pytest.mark.parametrize(
    ("reason", "newest", "told"),
    [
        (REASON, "v6", f"v7 was withdrawn by its publisher: {REASON}; newest good version: v6"),
        ("", "v6", "v7 was withdrawn by its publisher; newest good version: v6"),
        (REASON, None, f"v7 was withdrawn by its publisher: {REASON}; no other version is offered yet"),
    ],
)
def test_download_error_has_reason_and_alternatives(reason: str, newest: str | None, told: str) -> None:
    error = VersionWithdrawn.of("v7", reason, newest)
    assert str(error) == told
    assert isinstance(error, VersionNotOffered), "so that its exit code is 3"


# The library -----------------------------------------------------------------------------------------


def test_withdraw_requires_initialize() -> None:
    with pytest.raises(NotInitialized, match="initialize"):
        shardcast.withdraw("v1")


def test_library_raises_on_invalid_version_names(tmp_path: Path) -> None:
    origin = OriginServer(tmp_path / "data", 0)
    try:
        with pytest.raises(UsageError, match="latest"):
            origin.withdraw("latest")
        with pytest.raises(UsageError, match="one line"):
            origin.withdraw("v1", "two\nlines")
    finally:
        origin.shutdown()


# With the store --------------------------------------------------------------------------------------


def test_version_is_withdrawn_without_a_node(data_dir: Path) -> None:
    done = command(data_dir, "v2", "--reason", REASON, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["reason"] == REASON
    assert [line[:3] for line in (data_dir / "distribution.txt").read_text().splitlines()] == ["v1:"]
    assert command(data_dir, "v9").returncode == NOT_OFFERED
    assert publish(data_dir, random_bytes(1000, 3), 1000).version == "v3", "the number is never used again"


def test_version_is_withdrawn_through_its_origin(data_dir: Path) -> None:
    with processes.origin(data_dir) as origin:
        assert command(data_dir, "v2").returncode == 0
        assert command(data_dir, "v9").returncode == NOT_OFFERED
        listed = processes.run("client", "--servers", origin.url, "--list").stdout
    assert [line.split()[0] for line in listed.splitlines()] == ["v1"]


def test_library_withdraws_published_version(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(random_bytes(1000))
    shardcast.initialize(tmp_path / "data", 0)
    try:
        version = shardcast.broadcast(file)
        done = shardcast.withdraw(version, REASON)
        assert (done.version, done.reason) == (version, REASON)
        with pytest.raises(VersionNotOffered):
            shardcast.withdraw("v9")
    finally:
        shardcast.shutdown()
