"""Origins, middles and clients as processes, the way an operator runs them."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.legacy import listed
from tests.support.published import random_bytes, sha256

MB = 1_000_000


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def payload(tmp_path: Path, size: int, seed: int = 1) -> Path:
    file = tmp_path / f"payload-{seed}.bin"
    file.write_bytes(random_bytes(size, seed))
    return file


def broadcast(file: Path, data_dir: Path, shard_size: int = MB) -> str:
    done = processes.run("broadcast", str(file), "--data-dir", str(data_dir), "--shard-size", str(shard_size))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def wait_for_versions(node: processes.Node, *versions: str) -> None:
    processes.wait_until(lambda: set(versions) <= listed(node.url).keys(), 30, f"{versions} at {node.url}")


def connect(node: processes.Node, path: str) -> socket.socket:
    """A reader that asks for a path and has read nothing yet, with little room to take anything."""
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    reader.settimeout(20)
    reader.connect(("127.0.0.1", node.port))
    reader.sendall(f"GET {path} HTTP/1.1\r\nHost: {node.port}\r\n\r\n".encode())
    return reader


# How a node ends ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("role", ["origin", "middle"])
def test_running_answers_end_well_before_a_node_does(
    role: str, number: signal.Signals, tmp_path: Path
) -> None:
    file = payload(tmp_path, 30 * MB)
    broadcast(file, tmp_path / "origin", 30 * MB)
    with (
        processes.origin(tmp_path / "origin") as origin,
        processes.middle(origin.url, tmp_path / "middle") as middle,
    ):
        wait_for_versions(middle, "v1")
        node = origin if role == "origin" else middle
        with connect(node, "/v1/shard_001.bin") as reader:
            answer = bytearray(reader.recv(1 << 16))
            node.process.send_signal(number)
            while len(answer) - answer.find(b"\r\n\r\n") - 4 < 30 * MB:
                part = reader.recv(1 << 20)
                assert part, "the answer was cut off"
                answer += part
                time.sleep(len(part) / (15 * MB))
        assert node.process.wait(5) == 0, node.log
    assert answer.partition(b"\r\n\r\n")[2] == file.read_bytes()


def test_a_reader_that_takes_nothing_holds_a_node_up_for_five_seconds(tmp_path: Path) -> None:
    broadcast(payload(tmp_path, 30 * MB), tmp_path / "data", 30 * MB)
    with (
        processes.origin(tmp_path / "data") as origin,
        connect(origin, "/v1/shard_001.bin") as reader,
        connect(origin, "/healthcheck") as idle,
    ):
        assert reader.recv(1)
        assert idle.recv(1000)
        begun = time.monotonic()
        assert origin.stop() == 0, origin.log
        took = time.monotonic() - begun
    assert took < 7.5, f"it took {took:.1f} s to end"


# Middles -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("others", [True, False], ids=["beside-an-origin", "alone"])
def test_a_middle_that_is_its_own_upstream_asks_itself_once(others: bool, tmp_path: Path) -> None:
    broadcast(payload(tmp_path, 3 * MB), tmp_path / "origin")
    port = free_port()
    with processes.origin(tmp_path / "origin") as origin:
        upstream = f"127.0.0.1:{port}" + (f",{origin.url}" if others else "")
        words = ("--data-dir", str(tmp_path / "middle"), "--host", "127.0.0.1", "--port", str(port))
        with processes.node("middle", "--upstream", upstream, *words, "--check-interval", "0.1") as middle:
            middle.wait_for_log("this very middle")
            if others:
                wait_for_versions(middle, "v1")
                broadcast(payload(tmp_path, 3 * MB, seed=2), tmp_path / "origin")
                wait_for_versions(middle, "v1", "v2")
            else:
                begun = time.monotonic()
                processes.wait_until(lambda: time.monotonic() - begun > 0.5, 5, "a few more looks")
            assert middle.log.count("this very middle") == 1
            assert middle.stop() == 0, middle.log
            assert "Traceback" not in middle.log


def test_a_shard_that_went_bad_is_not_taken_over_into_the_next_version(tmp_path: Path) -> None:
    """The two versions share all shards but the last, so that a middle links what it has."""
    first = payload(tmp_path, 8 * MB)
    second = tmp_path / "second.bin"
    second.write_bytes(first.read_bytes()[: 7 * MB] + random_bytes(MB, seed=2))
    broadcast(first, tmp_path / "origin")
    with (
        processes.origin(tmp_path / "origin") as origin,
        processes.middle(origin.url, tmp_path / "middle") as middle,
    ):
        wait_for_versions(middle, "v1")
        with (tmp_path / "middle" / "v1" / "shard_003.bin").open("r+b") as shard:
            shard.seek(500_000)
            shard.write(b"bit rot")
        broadcast(second, tmp_path / "origin")
        wait_for_versions(middle, "v2")
        for number in range(1, 9):
            name = f"shard_{number:03}.bin"
            right = sha256(tmp_path / "origin" / "v2" / name)
            assert sha256(tmp_path / "middle" / "v2" / name) == right, f"{name} of v2 is wrong"
