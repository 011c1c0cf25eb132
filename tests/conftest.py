"""Settings and fixtures of all tests."""

from __future__ import annotations

import asyncio
import faulthandler
import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

INSTALLING = 600.0
"""Seconds for a test that may have to install a published program first."""
GRACE = 60.0
"""Seconds after its time-out, or after it failed, in which a test must have ended; else its process does."""

settings.register_profile("quick", max_examples=10)
"""For ``make quick``; the whole run has ten times as many."""

_stderr = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Let an interrupt end the processes that the tests start, as at a terminal.

    A shell has its background jobs ignore SIGINT, and so do the processes that those start. Nor do these read
    the machine's certificates, which aiohttp does when it is imported.
    """
    os.environ.setdefault("SSL_CERT_FILE", os.devnull)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[_stderr] = os.dup(2)  # before it is captured


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close what pytest_configure opened."""
    os.close(config.stash[_stderr])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let tests that may install something take longer."""
    for item in items:
        if item.get_closest_marker("legacy") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(INSTALLING))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """End the process, with the stacks of its threads on stderr, if a test ignores its time-out.

    pytest-timeout raises in the main thread, once. A test whose clean-up hangs as well, or that waits where
    no signal handler runs, would go on for ever; xdist names the test whose worker ended.
    """
    mark = item.get_closest_marker("timeout")
    limit = mark.args[0] if mark and mark.args else item.config.getoption("timeout", None)
    limit = float(limit or item.config.getini("timeout") or 0)
    if limit:
        _end_after(limit + GRACE, item)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Iterator[pytest.TestReport]:
    """Add the stacks of all tasks where a test hung: its own stack ends in the event loop."""
    report: pytest.TestReport = yield
    if call.excinfo and "from pytest-timeout" in str(call.excinfo.value):
        report.sections.append(("tasks", _stacks_of_tasks()))
    return report


def _stacks_of_tasks() -> str:
    """Return the stacks of the tasks of this thread's loop."""
    try:
        tasks = asyncio.all_tasks(asyncio.get_event_loop_policy().get_event_loop())
    except RuntimeError:
        return "no event loop"
    text = io.StringIO()
    for task in tasks:
        task.print_stack(file=text)
    return text.getvalue()


@pytest.hookimpl(trylast=True)
def pytest_exception_interact(node: pytest.Item | pytest.Collector) -> None:
    """Bound the clean-up of a test that failed: pytest has just cancelled the end of the process."""
    if isinstance(node, pytest.Item):
        _end_after(GRACE, node)


def _end_after(seconds: float, item: pytest.Item) -> None:
    """End the process after ``seconds``, unless that is cancelled."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=item.config.stash[_stderr])


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the library that makes system calls fail; skip, with the reason, where it can't be built."""
    from tests.support.faults.building import NoShim, build  # this file also serves tests elsewhere

    try:
        return build(tmp_path_factory.mktemp("shim"))
    except NoShim as why:
        pytest.skip(str(why))
