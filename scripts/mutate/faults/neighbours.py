"""Faults in what bounds requests to servers that stop or trickle."""

from __future__ import annotations

from fault import Fault

HEADS = "shardcast/peer/heads.py"

FAULTS = [
    Fault(
        name="head-by-aiohttp-has-no-deadline",
        file=HEADS,
        old="            left = seconds + (upload",
        new="            left = 1e6 + (upload",
        tests=["tests/test_slow_servers.py"],
    ),
    Fault(
        name="head-by-http-client-has-no-deadline",
        file=HEADS,
        old="self._deadline = None if silence is None else time.monotonic() + silence",
        new="self._deadline = None",
        tests=["tests/test_slow_servers.py"],
    ),
    Fault(
        name="trickled-line-keeps-a-lease",
        file="shardcast/peer/peer.py",
        old="content.read(_LEASE_PORTION), dead_at - loop.time()",
        new="content.read(_LEASE_PORTION), FEED_DEAD",
        tests=["tests/test_slow_servers.py"],
    ),
    Fault(
        name="next-server-is-asked-when-the-first-has-ended",
        file="shardcast/concurrency.py",
        old="silent = not done and progress() == seen",
        new="silent = False",
        tests=["tests/test_concurrency.py"],
    ),
    Fault(
        name="silent-server-is-left-only-after-a-first-byte",
        file="shardcast/transfer/servers.py",
        old="known = self._begun or self._manifest.whole is not None",
        new="known = self._begun",
        tests=["tests/test_answers.py"],
    ),
    Fault(
        name="server-that-others-overtook-is-asked-again-at-once",
        file="shardcast/blobs/mirror.py",
        old="dict.fromkeys(under_way, self._clock() + _LEFT_ALONE)",
        new="{}",
        tests=["tests/test_slow_neighbours.py"],
    ),
    Fault(
        name="large-buffer-takes-its-memory-at-once",
        file="shardcast/peer/pouring.py",
        old="if size <= BUFFER_SIZE else",
        new="if True else",
        tests=["tests/test_slow_servers.py"],
    ),
]
