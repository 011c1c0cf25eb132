"""Programs that use an origin which another process started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import shardcast
from shardcast import ClientNode, DataDirInUse, NodeFailed, NoNode, NotInitialized, OriginServer, UsageError
from shardcast.control.running import find_origin
from tests.support import processes
from tests.support.published import random_bytes

HOLD = """
import sys, shardcast
data_dir, payload = sys.argv[1], sys.argv[2]
shardcast.initialize(data_dir, 0, 3)
print(shardcast.api.current_origin._origin.port, flush=True)
sys.stdin.readline()
shardcast.shutdown(wait=0)
"""
"""A program that starts an origin and waits."""

RANK = """
import sys, shardcast
data_dir, payload = sys.argv[1], sys.argv[2]
shardcast.initialize(data_dir, attach=True)
origin = shardcast.api.current_origin._origin
print(origin.is_attached, origin.port, flush=True)
for line in sys.stdin:
    print(shardcast.broadcast(payload), origin.is_attached, flush=True)
shardcast.shutdown(wait=0)
"""
"""A program that attaches, and broadcasts for each line that it reads."""


FORK = """
import os, signal, sys, threading, shardcast
data_dir, payload = sys.argv[1], sys.argv[2]
origin = shardcast.OriginServer(data_dir, attach=True)
held, go = threading.Event(), threading.Event()

def restart():
    with origin._process._starting:
        held.set()
        go.wait()

thread = threading.Thread(target=restart)
thread.start()
held.wait()
worker = os.fork()
if not worker:
    signal.alarm(20)
    print(origin.broadcast(payload), origin.is_attached, flush=True)
    origin.shutdown()
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]))
go.set()
thread.join()
"""
"""A program that forks a worker while one of its threads starts the origin again."""


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    file = tmp_path / "model.bin"
    file.write_bytes(random_bytes(100_000))
    return file


@contextlib.contextmanager
def program(script: str, data_dir: Path, payload: Path) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-c", script, str(data_dir), str(payload)]
    with subprocess.Popen(
        words, env=processes.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            yield running
        finally:
            assert running.stdin
            with contextlib.suppress(BrokenPipeError):
                running.stdin.close()
            running.kill() if running.poll() is None and not _ends(running) else None


def _ends(running: subprocess.Popen[str]) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        running.wait(20)
        return True
    return False


def read(running: subprocess.Popen[str]) -> list[str]:
    assert running.stdout
    return running.stdout.readline().split()


def ask(running: subprocess.Popen[str]) -> list[str]:
    assert running.stdin
    running.stdin.write("\n")
    running.stdin.flush()
    return read(running)


def listed(port: int) -> list[str]:
    return list(ClientNode(f"127.0.0.1:{port},").list_available_versions())


def test_only_attach_uses_the_origin_of_another_program(payload: Path, tmp_path: Path) -> None:
    with program(HOLD, tmp_path / "data", payload) as holder:
        port = int(read(holder)[0])
        with pytest.raises(DataDirInUse, match="attach=True") as refused:
            OriginServer(tmp_path / "data")
        assert refused.value.role == "origin"
        attached = OriginServer(tmp_path / "data", attach=True)
        assert attached.is_attached
        assert attached.port == port
        assert attached.broadcast(payload) == "v1"
        with attached.open_broadcast("stream.bin") as out:
            out.write(b"x")
        attached.shutdown()
        assert listed(port) == ["v1", "v2"], "shutdown of an attached process ended the origin"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"port": 1}, r"listens on port {port}, not on 1"),
        ({"max_distribution_folders": 7}, r"keeps 3 versions, not 7"),
        ({"publish": True}, r"has no --publish; leave that argument out"),
        ({"upload_limit": 1_000_000}, r"has no --upload-limit, not --upload-limit 1000000"),
    ],
)
def test_attaching_with_other_settings_is_an_error_that_names_both(
    arguments: dict[str, int], told: str, payload: Path, tmp_path: Path
) -> None:
    with program(HOLD, tmp_path / "data", payload) as holder:
        port = read(holder)[0]
        with pytest.raises(UsageError, match=told.replace("{port}", port)):
            OriginServer(tmp_path / "data", attach=True, **arguments)  # type: ignore[arg-type]
        OriginServer(tmp_path / "data", int(port), 3, attach=True)


def test_spawned_worker_attaches_by_itself(payload: Path, tmp_path: Path) -> None:
    shardcast.initialize(tmp_path / "data", 0)
    try:
        script = RANK.replace(", attach=True", "")
        with program(script, tmp_path / "data", payload) as worker:
            assert read(worker)[0] == "True"
            assert ask(worker) == ["v1", "True"]
        assert shardcast.broadcast(payload) == "v2", "the worker's end ended the origin"
    finally:
        shardcast.shutdown(wait=0)


def test_of_two_ranks_that_start_at_once_one_starts_the_origin(payload: Path, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        script = RANK.replace("attach=True", "port=0, attach=True")
        ranks = [stack.enter_context(program(script, tmp_path / "data", payload)) for _ in range(3)]
        began = [read(rank) for rank in ranks]
        assert sorted(attached for attached, _ in began) == ["False", "True", "True"]
        assert len({port for _, port in began}) == 1
        assert sorted(ask(rank)[0] for rank in ranks) == ["v1", "v2", "v3"]


def test_one_attached_process_restarts_origin_of_a_dead_starter(payload: Path, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        holder = stack.enter_context(program(HOLD, tmp_path / "data", payload))
        port = int(read(holder)[0])
        ranks = [stack.enter_context(program(RANK, tmp_path / "data", payload)) for _ in range(2)]
        assert [read(rank) for rank in ranks] == [["True", str(port)]] * 2
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        for rank in ranks:  # both at once
            assert rank.stdin
            rank.stdin.write("\n")
            rank.stdin.flush()
        assert sorted(read(rank)[1] for rank in ranks) == ["False", "True"], "one of them is its starter now"
        restarted = find_origin(tmp_path / "data")
        assert restarted
        assert restarted.port == port
        assert restarted.keep == 3, "it was not started as before"
        assert len(listed(port)) == 2


def test_starter_attaches_where_a_worker_has_restarted_the_origin(payload: Path, tmp_path: Path) -> None:
    shardcast.initialize(tmp_path / "data", 0)
    origin = shardcast.api.current_origin._origin
    assert origin
    try:
        with program(RANK, tmp_path / "data", payload) as worker:
            read(worker)
            os.kill(origin._process.pid, signal.SIGKILL)
            processes.wait_until(lambda: not origin._process.running, what="it to die")
            assert ask(worker) == ["v1", "False"]
            assert shardcast.broadcast(payload) == "v2"
            assert origin.is_attached
        assert shardcast.broadcast(payload) == "v3", "the worker has ended, and its origin with it"
        assert not origin.is_attached
    finally:
        shardcast.shutdown(wait=0)


@pytest.mark.parametrize("how", ["shut down", "terminated", "killed"])
def test_end_of_starter_breaks_off_attached_broadcast_in_words(
    how: str, payload: Path, tmp_path: Path
) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(300_000_000))
    with program(HOLD, tmp_path / "data", payload) as holder:
        port = int(read(holder)[0])
        attached = OriginServer(tmp_path / "data", attach=True)
        try:
            handle = attached.broadcast(large, 100_000, wait=False)
            processes.wait_until(lambda: handle.progress.done, what="it to begin")
            if how == "shut down":
                assert holder.stdin
                holder.stdin.write("\n")
                holder.stdin.flush()
            else:
                holder.send_signal(signal.SIGTERM if how == "terminated" else signal.SIGKILL)
            with pytest.raises(NodeFailed, match=r"v1 is not published: its publisher ended .*again"):
                handle.result(20)
            assert attached.broadcast(payload) == "v2", "not even while the origin ends"
            assert (attached.is_attached, attached.port) == (False, port)
            assert listed(port) == ["v2"]
        finally:
            attached.shutdown(wait=0)


def test_attached_process_does_not_publish_through_an_origin_elsewhere(payload: Path, tmp_path: Path) -> None:
    with program(HOLD, tmp_path / "data", payload) as holder:
        read(holder)
        attached = OriginServer(tmp_path / "data", attach=True)
    with processes.origin(tmp_path / "data") as other:
        with pytest.raises(DataDirInUse, match=f"another origin meanwhile, at {other.url} instead"):
            attached.broadcast(payload)
        assert listed(int(other.url.rsplit(":", 1)[1])) == []


def test_worker_forked_while_its_parent_restarts_is_not_locked_out(payload: Path, tmp_path: Path) -> None:
    with program(HOLD, tmp_path / "data", payload) as holder:
        read(holder)
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", FORK, str(tmp_path / "data"), str(payload)],
            env=processes.environment(), capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.stdout.split() == ["v1", "True", "0"], done.stderr


def test_origin_of_a_command_is_used_and_left_to_who_started_it(payload: Path, tmp_path: Path) -> None:
    with processes.origin(tmp_path / "data"):
        with pytest.raises(DataDirInUse, match="attach=True"):
            OriginServer(tmp_path / "data")
        attached = OriginServer(tmp_path / "data", attach=True)
        assert attached.broadcast(payload) == "v1"
    with pytest.raises(NoNode, match="shardcast-origin --data-dir"):
        attached.broadcast(payload)


def test_middle_is_nothing_to_attach_to(payload: Path, tmp_path: Path) -> None:
    with (
        processes.origin(tmp_path / "data") as origin,
        processes.middle(origin.url, tmp_path / "m"),
        pytest.raises(DataDirInUse, match="shardcast middle"),
    ):
        OriginServer(tmp_path / "m", attach=True)


def test_broadcast_names_a_data_directory_instead_of_initialize(payload: Path, tmp_path: Path) -> None:
    with pytest.raises(NotInitialized, match="data_dir="):
        shardcast.broadcast(payload)
    with pytest.raises(NoNode, match="no origin runs"):
        shardcast.broadcast(payload, data_dir=tmp_path / "data")
    with pytest.raises(UsageError, match="data_dir"):
        shardcast.broadcast(payload, data_dir=tmp_path / "data", to="127.0.0.1")
    with processes.origin(tmp_path / "data"):
        assert shardcast.broadcast(payload, data_dir=tmp_path / "data") == "v1"
        handle = shardcast.broadcast(payload, "50kB", wait=False, data_dir=tmp_path / "data")
        assert handle.result(30) == "v2"


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "lots", ""])
def test_shard_size_that_is_none_is_told(size: object, payload: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"not a (usable )?size"):
        shardcast.broadcast(payload, size, data_dir=tmp_path)  # type: ignore[call-overload]
