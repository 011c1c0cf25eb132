"""Kills of the sender and of the origin of a file that is published from elsewhere: it is published once."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shardcast.nodes.payload_sources import FileSource
from shardcast.nodes.remote_broadcast import broadcast_to
from shardcast.protocol.uploads import UploadRequest
from tests.support import processes
from tests.support.published import random_bytes, sha256

SIZE = 24 << 20
MOMENTS = ("bytes", "cut", "listed")
SPREAD = 0.03
"""Seconds at most between the moment that is waited for and the kill."""


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    file = tmp_path / "model.bin"
    file.write_bytes(random_bytes(SIZE))
    return file


def lines(data_dir: Path) -> list[str]:
    """Return the lines of the distribution list."""
    file = data_dir / "distribution.txt"
    return file.read_text().splitlines() if file.exists() else []


def listed(data_dir: Path) -> list[str]:
    """Return the versions on the distribution list."""
    return [line.partition(":")[0] for line in lines(data_dir)]


def digests(data_dir: Path) -> set[str]:
    """Return the digests on the distribution list."""
    return {line.partition(": ")[2].partition("|")[0] for line in lines(data_dir)}


def moment(name: str, data_dir: Path, version: int = 1, count: int = 1) -> Callable[[], bool]:
    """Return whether an upload of the next version has come so far."""
    if name == "bytes":
        uploads = data_dir / ".shardcast" / "uploads"
        return lambda: any(file.stat().st_size > SIZE // 4 for file in uploads.glob("*/payload"))
    if name == "cut":
        return lambda: (data_dir / f"v{version}").exists()
    return lambda: len(listed(data_dir)) >= count


def await_moment(reached: Callable[[], bool], sender: subprocess.Popen[str]) -> None:
    """Wait until a moment, or until the sender has ended, then some milliseconds more."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and sender.poll() is None:
        try:
            if reached():
                break
        except FileNotFoundError:  # it was removed at this very moment
            pass
        time.sleep(0.001)
    time.sleep(random.uniform(0, SPREAD))


def send(payload: Path, url: str) -> subprocess.Popen[str]:
    """Start ``shardcast broadcast --to``."""
    return processes.Popen(
        processes.command("broadcast", str(payload), "--to", url),
        env=processes.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(sender: subprocess.Popen[str]) -> str:
    """Wait for a sender's success, and return the version."""
    out, errors = sender.communicate(timeout=120)
    assert sender.returncode == 0, errors
    return out.strip()


def test_killed_sender_goes_on_and_publishes_once(tmp_path: Path, payload: Path) -> None:
    data_dir, published = tmp_path / "data", list[str]()
    with processes.origin(data_dir, "--publish") as origin:
        for name in MOMENTS:
            newest = max((int(version[1:]) for version in published), default=0)
            sender = send(payload, origin.url)
            await_moment(moment(name, data_dir, newest + 1, len(published) + 1), sender)
            sender.send_signal(signal.SIGKILL)
            told = sender.communicate(timeout=60)[0].strip()
            published.append(told or finish(send(payload, origin.url)))
            assert listed(data_dir) == published
    assert digests(data_dir) == {sha256(payload)}


@pytest.mark.parametrize("name", MOMENTS[1:])
def test_sender_goes_on_after_a_killed_origin_and_publishes_once(
    tmp_path: Path, payload: Path, name: str
) -> None:
    data_dir = tmp_path / "data"
    with processes.reserved_port() as port:
        options = ("--publish", "--port", str(port))
        with processes.origin(data_dir, *options) as origin:
            sender = send(payload, origin.url)
            await_moment(moment(name, data_dir), sender)
            origin.kill()
        with processes.origin(data_dir, *options):
            version = finish(sender)
            assert (listed(data_dir), digests(data_dir)) == ([version], {sha256(payload)})
            processes.wait_until(lambda: not list((data_dir / ".shardcast" / "uploads").iterdir()))


def test_origin_killed_once_it_has_confirmed_keeps_no_record(tmp_path: Path, payload: Path) -> None:
    data_dir = tmp_path / "data"
    records = data_dir / ".shardcast" / "uploads"
    killed = threading.Event()
    with processes.reserved_port() as port, FileSource(payload) as source, ThreadPoolExecutor(1) as pool:
        options = ("--publish", "--port", str(port))
        request = UploadRequest(source.name, source.size, key=source.key())
        with processes.origin(data_dir, *options) as origin:

            def kill(version: str) -> None:
                origin.kill()
                killed.set()

            sending = pool.submit(asyncio.run, broadcast_to(origin.url, source, request, on_complete=kill))
            assert killed.wait(60)
        assert list(records.iterdir())
        with processes.origin(data_dir, *options):
            assert sending.result(60) == "v1"
            assert not list(records.iterdir())


def test_interrupted_sender_of_a_stream_leaves_nothing(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with processes.origin(data_dir, "--publish") as origin:
        sender = processes.Popen(
            processes.command("broadcast", "-", "--live", "--to", origin.url),
            env=processes.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert sender.stdin
        sender.stdin.write(random_bytes(100_000))
        sender.stdin.flush()
        processes.wait_until(lambda: (data_dir / "v1").exists())
        origin.wait_for_log("begins")
        sender.send_signal(signal.SIGINT)
        sender.communicate(timeout=60)
        assert sender.returncode == 130
        processes.wait_until(lambda: not (data_dir / "v1").exists())
        assert not listed(data_dir)
