"""Waiting for the nodes below an origin, through the Unix socket of its data directory."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shardcast.control.client import ControlConnection, connect, node_errors, request_lines
from shardcast.errors import CopiesMissing, NodeFailed, ShardcastError, UsageError
from shardcast.protocol.wire import COPIES_PATH, FINISH_PATH, MAX_FINISH_WAIT

_FIRST_LINE_SECONDS = 10.0
"""Maximum seconds for the first line; an origin sends the line at once."""
_SILENCE_SECONDS = 60.0
"""Seconds without a line after which the origin counts as stuck; an origin sends a line every 5 s."""


def finish(data_dir: Path, wait: float | None = None) -> None:
    """Wait until the origin may end; the origin writes the reason for waiting to stderr.

    Args:
        data_dir: the origin's.
        wait: seconds to stay at least; 0 to end at once; None for as long as is useful.

    Raises:
        NoNode: no origin runs on the data directory.
        NodeFailed: the origin ended meanwhile.
    """
    for line in _ask(data_dir, FINISH_PATH, {"wait": wait}, None):
        if "done" in line:
            return
    raise NodeFailed(f"the origin of {data_dir} ended by itself")


def wait_for_copies(
    data_dir: Path, version: str, copies: int, *, timeout: float | None = None, since: float | None = None
) -> Iterator[int]:
    """Wait until ``copies`` nodes below the origin have a version.

    Args:
        data_dir: the origin's.
        version: name of the version.
        copies: number of nodes.
        timeout: maximum seconds to wait; None for no maximum.
        since: start of the time-out, by ``time.monotonic``; None for now.

    Yields:
        The number of nodes with the version, after each change and every few seconds.

    Raises:
        CopiesMissing: too few nodes had it in time.
        VersionNotOffered: the origin does not have the version (any more).
        NoNode: no origin runs on the data directory.
        NodeFailed: the origin ended meanwhile.
    """
    have = 0
    deadline = None if timeout is None else (time.monotonic() if since is None else since) + timeout
    try:
        for line in _ask(data_dir, COPIES_PATH, {"version": version, "copies": copies}, deadline):
            if "done" in line:
                return
            have = int(line.get("copies", have))
            yield have
            if have >= copies:
                return
    except _OutOfTime:
        raise copies_missing(version, have, copies, timeout or 0.0) from None
    raise NodeFailed(
        f"the origin of {data_dir} ended while this waited for {copies} copies of {version}; "
        f"{have} nodes had the version"
    )


def copies_missing(version: str, have: int, copies: int, timeout: float) -> CopiesMissing:
    """Return the error for too few copies in time."""
    return CopiesMissing(
        f"{have} of {copies} nodes have {version} after {timeout:.3g} s; it stays published. `below` in the "
        "origin's /status names the nodes that lack it; wait again, or longer",
        version,
        have,
        copies,
    )


def check_copies(copies: int | None, timeout: float | None) -> None:
    """Check a number of copies and of seconds to wait for them.

    Raises:
        UsageError: a number makes no sense.
    """
    if copies is not None and (not isinstance(copies, int) or isinstance(copies, bool) or copies < 1):
        raise UsageError(f"{copies!r} copies make no sense; wait for at least 1")
    if timeout is not None and not timeout >= 0:
        raise UsageError(f"a time-out of {timeout!r} makes no sense; it is a number of seconds")
    if timeout is not None and copies is None:
        raise UsageError("a time-out needs a number of copies to wait for")


def check_wait(wait: float | None) -> None:
    """Check the seconds that an origin waits before ending.

    Raises:
        UsageError: the number is negative, infinite or NaN.
    """
    if wait is not None and not 0 <= wait <= MAX_FINISH_WAIT:
        raise UsageError(
            f"an origin can't wait for {wait!r} seconds before it ends; give a number from 0 to "
            f"{MAX_FINISH_WAIT:.0f}"
        )


class _OutOfTime(Exception):
    """The deadline has passed."""


def _ask(
    data_dir: Path, path: str, body: Mapping[str, Any], deadline: float | None
) -> Iterator[Mapping[str, Any]]:
    """Send a request and yield the lines of the answer.

    Raises:
        _OutOfTime: the deadline passed before the end of the answer.
        ShardcastError: the origin does not answer, or reports a failure.
    """
    connection = connect(data_dir)
    try:
        with node_errors(f"the origin of {data_dir} went away"):
            yield from _lines(connection, data_dir, path, body, deadline=deadline)
    finally:
        connection.close()


def _lines(
    connection: ControlConnection,
    data_dir: Path,
    path: str,
    body: Mapping[str, Any],
    *,
    deadline: float | None,
) -> Iterator[Mapping[str, Any]]:
    """Send a request on a connection and yield the lines of the answer until the deadline."""
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    sock, lines = connection.sock, request_lines(connection, data_dir)
    seconds = _FIRST_LINE_SECONDS  # also when there is no time left: the origin answers at once
    while True:
        sock.settimeout(seconds)
        try:
            line = next(lines, None)
        except ShardcastError:
            raise
        except TimeoutError as error:
            if deadline is not None and time.monotonic() >= deadline:
                raise _OutOfTime from error
            raise NodeFailed(f"the origin of {data_dir} has stopped answering") from error
        if line is None:
            return
        yield line
        left = _SILENCE_SECONDS if deadline is None else deadline - time.monotonic()
        if left <= 0:
            raise _OutOfTime
        seconds = min(left, _SILENCE_SECONDS)
