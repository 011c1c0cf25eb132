"""A node as a child process: an interrupt at any moment leaves none behind."""

from __future__ import annotations

import select
import signal
import subprocess
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shardcast.nodes.process import NodeProcess, deferred_interrupts
from tests.support import processes


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
def test_an_interrupt_while_it_starts_leaves_no_process(mark: str, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path)
    assert not processes.marked(mark)


def test_an_interrupt_while_it_is_waited_for_leaves_no_process(
    mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(tmp_path)
    monkeypatch.setattr(select, "select", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        process.wait_until_listening()
    assert not processes.marked(mark)


def test_one_that_is_not_interrupted_listens_and_ends(mark: str, tmp_path: Path) -> None:
    process = start(tmp_path)
    process.wait_until_listening()
    assert process.running and process.url.startswith("http://127.0.0.1:")
    process.stop()
    assert not processes.marked(mark)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_acts_at_the_end_of_the_block_by_the_handler_that_was_there(
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


def test_other_threads_may_start_nodes_and_change_no_handler() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def look() -> None:
        with deferred_interrupts():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before]
