"""A node as a child process: an interrupt at any moment leaves none behind."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import shardcast
from shardcast.errors import DataDirInUse, NodeFailed
from shardcast.nodes import child_process as process_module
from shardcast.nodes.child_process import NodeProcess, deferred_interrupts, start_command
from shardcast.store.data_dir import DataDir
from tests.support import processes


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """SIGINT raises, as in any program; the commands' package takes that away when it is imported."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    """What every process that the test starts has in its environment."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("without /proc nobody can tell which processes are left")
    value = uuid.uuid4().hex
    monkeypatch.setenv("SHARDCAST_TEST_MARK", value)
    return value


def start(tmp_path: Path) -> NodeProcess:
    return NodeProcess("origin", ["--data-dir", str(tmp_path / "o"), "--host", "127.0.0.1", "--port", "0"])


@pytest.fixture
def interrupted_popen(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt comes when the process is there, and before anybody has heard of it."""
    popen: Callable[..., Any] = subprocess.Popen

    def and_interrupt(*words: Any, **options: Any) -> Any:
        process = popen(*words, **options)
        signal.raise_signal(signal.SIGINT)
        return process

    monkeypatch.setattr(subprocess, "Popen", and_interrupt)


@pytest.mark.usefixtures("interrupted_popen")
def test_interrupt_during_start_leaves_no_process(mark: str, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path)
    assert not processes.processes_with_mark(mark)


def test_interrupt_while_waiting_leaves_no_process(
    mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(tmp_path)
    interrupt = SimpleNamespace(select=lambda *_: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr(process_module, "select", interrupt)
    with pytest.raises(KeyboardInterrupt):
        process.wait_until_listening()
    assert not processes.processes_with_mark(mark)


def test_uninterrupted_node_listens_and_ends(mark: str, tmp_path: Path) -> None:
    process = start(tmp_path)
    process.wait_until_listening()
    assert process.running and process.url.startswith("http://127.0.0.1:")
    process.stop()
    assert not processes.processes_with_mark(mark)


def test_node_ignoring_sigterm_is_killed(mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "SHUTDOWN_GRACE", -4.9)
    process = start(tmp_path)
    process.wait_until_listening()
    os.kill(process.pid, signal.SIGSTOP)
    process.stop()
    assert not processes.processes_with_mark(mark)


def test_node_that_never_reports_ready_is_ended(
    mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "_START_SECONDS", 0.1)

    def start_another(words: list[str], secrets: object, **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["sleep", "1000"], **options)

    monkeypatch.setattr(process_module, "start_command", start_another)
    process = start(tmp_path)
    with pytest.raises(
        NodeFailed, match=r"the origin could not start \(it did not listen within 0.1 s, and was killed"
    ):
        process.wait_until_listening()
    assert not processes.processes_with_mark(mark)


def test_failed_start_raises_the_reason(mark: str, tmp_path: Path) -> None:
    with contextlib.closing(DataDir(tmp_path / "o", "middle")):
        process = start(tmp_path)
        with pytest.raises(DataDirInUse, match="in use by a shardcast middle"):
            process.wait_until_listening()
    assert not processes.processes_with_mark(mark)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_deferred_interrupt_acts_at_block_end_by_prior_handler(
    number: signal.Signals,
) -> None:
    came: list[int] = []
    before = signal.signal(number, lambda one, _: came.append(one))
    try:
        with deferred_interrupts(), deferred_interrupts():
            signal.raise_signal(number)
            assert came == []
        assert came == [number]
        signal.raise_signal(number)
        assert came == [number, number]
    finally:
        signal.signal(number, before)


def test_other_threads_start_nodes_without_changing_handlers() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def look() -> None:
        with deferred_interrupts():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before]


# What a child imports ----------------------------------------------------------------------------

PRINT_PATH = "import json, os, sys; print(json.dumps([sys.path, os.environ.get('PYTHONPATH')])); sys.exit()"
INITIALIZE = """\
import sys
sys.path.append(sys.argv[1])
import shardcast
shardcast.initialize(sys.argv[2], 0)
print(shardcast.__file__)
"""


@pytest.mark.parametrize("safe", ["", "1"], ids=["", "PYTHONSAFEPATH"])
def test_child_has_sys_path_of_its_parent_in_order(
    safe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "click.py").write_text(PRINT_PATH)
    path = [str(tmp_path), "", str(tmp_path / "n\udcffn"), *sys.path, str(tmp_path / "last")]
    monkeypatch.setattr(sys, "path", path)
    monkeypatch.setenv("PYTHONPATH", "/nowhere:/else")
    monkeypatch.setenv("PYTHONSAFEPATH", safe)
    process = start_command(["--version"], stdout=subprocess.PIPE)
    assert process.stdout
    with process.stdout as printed:
        assert json.loads(printed.read()) == [path, "/nowhere:/else"]
    assert process.wait(30) == 0


@pytest.mark.parametrize("module", ["dataclasses", "shardcast"])
def test_child_ignores_modules_beside_package_or_in_cwd(module: str, tmp_path: Path) -> None:
    """A backport in site-packages, where shardcast lies as well; another shardcast where the child begins."""
    packages, here = tmp_path / "site-packages", tmp_path / "here"
    shutil.copytree(Path(shardcast.__file__).parent, packages / "shardcast")
    here.mkdir()
    ((packages if module == "dataclasses" else here) / f"{module}.py").write_text("raise SystemExit(99)")
    (tmp_path / "program.py").write_text(INITIALIZE)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py"), str(packages), str(tmp_path / "data")],
        env=processes.environment(),
        cwd=here,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, f"{packages / 'shardcast' / '__init__.py'}\n"), done.stderr


def test_node_starts_without_standard_streams(tmp_path: Path) -> None:
    code = (
        "import os, sys; os.closerange(0, 3); import shardcast; shardcast.initialize(sys.argv[1], 0); "
        "shardcast.broadcast(sys.argv[2]); shardcast.shutdown(0); os.mkdir(sys.argv[1] + '/done')"
    )
    (tmp_path / "payload").write_bytes(b"payload")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "data"), str(tmp_path / "payload")],
        env=processes.environment(),
        timeout=60,
    )
    assert done.returncode == 0
    assert (tmp_path / "data" / "done").exists()
    assert (tmp_path / "data" / "v1" / "shard_001.bin").read_bytes() == b"payload"
