"""Faults in transfers and in what speaks with servers."""

from __future__ import annotations

from fault import Fault

BULK = "shardcast/peer/bulk.py"
CHECKING = "shardcast/peer/checking.py"
SERVERS = "shardcast/transfer/servers.py"
MANIFESTS = "shardcast/transfer/manifests.py"
FOLLOWING = "shardcast/transfer/following.py"

FAULTS = [
    # Second lines of defence
    Fault(
        name="slow-server-is-never-left",
        file=SERVERS,
        old="if slow >= self._limits.timeout:",
        new="if silent >= self._limits.timeout:",
        tests=["tests/test_answers.py"],
    ),
    Fault(
        name="silent-server-is-not-left-for-another",
        file=SERVERS,
        old="elif silent >= self._limits.stall and not queued and self._another_can(claim, now):",
        new="elif False:",
        tests=["tests/test_answers.py"],
    ),
    Fault(
        name="slow-disk-is-the-servers-fault",
        file=SERVERS,
        old="claim.byte_at = claim.piece_at = now\n        if order.received - claim.piece_seen",
        new="pass\n        if order.received - claim.piece_seen",
        tests=["tests/test_transfer.py::test_a_slow_disk_is_not_the_servers_fault"],
    ),
    Fault(
        name="unread-connection-is-used-again",
        file=BULK,
        old="self.kept = not response.will_close and response.isclosed()",
        new="self.kept = not response.will_close",
        tests=["tests/test_answers.py"],
    ),
    Fault(
        name="connecting-has-no-time-out",
        file=BULK,
        old="await asyncio.wait_for(loop.sock_connect(plug, address), CONNECT_TIMEOUT)",
        new="await loop.sock_connect(plug, address)",
        tests=["tests/test_answers.py::test_connecting_has_a_time_out"],
    ),
    Fault(
        name="if-match-is-not-sent",
        file=CHECKING,
        old='headers |= {"If-Match": etag(shard.sha256), ACCEPT: LANDING}',
        new="headers |= {ACCEPT: LANDING}",
        tests=["tests/test_answers.py"],
    ),
    Fault(
        name="one-404-gives-a-version-up",
        file=MANIFESTS,
        old="if len(failures) >= len(peers) and all(type(one) is ServerLacks for one in failures):",
        new="if len(failures) >= len(peers) and any(type(one) is ServerLacks for one in failures):",
        tests=["tests/test_reading_manifests.py"],
    ),
    Fault(
        name="404-of-some-gives-a-version-up",
        file=MANIFESTS,
        old="if len(failures) >= len(peers) and all(type(one) is ServerLacks for one in failures):",
        new="if failures and all(type(one) is ServerLacks for one in failures):",
        tests=["tests/test_reading_manifests.py"],
    ),
    Fault(
        name="empty-answers-are-a-sign-of-life",
        file=MANIFESTS,
        old="elif clock() - begun > _LIVES:",
        new="else:",
        tests=["tests/test_reading_manifests.py"],
    ),
    Fault(
        name="silent-version-never-stalls",
        file=MANIFESTS,
        old="if clock() - heard > ORIGIN_SILENT:",
        new="if False:",
        tests=["tests/test_reading_manifests.py"],
    ),
    Fault(
        name="lacking-hides-not-answering",
        file=MANIFESTS,
        old="failure = error if failure is None or isinstance(failure, ServerLacks) else failure",
        new="failure = failure or error",
        tests=["tests/test_reading_manifests.py"],
    ),
    Fault(
        name="relays-at-one-distance-wait-for-each-other",
        file=FOLLOWING,
        old="if nearer_than is not None and one.hello and (one.hello.distance or 0) >= nearer_than:",
        new="if nearer_than is not None and one.hello and (one.hello.distance or 0) > nearer_than:",
        tests=["tests/test_following.py"],
    ),
    # Cancelling and races
    Fault(
        name="cancelled-answer-that-ends-well-stays-open",
        file=BULK,
        old="if not self.kept or self._line.cut:",
        new="if not self.kept:",
        tests=["tests/test_cancelling.py"],
    ),
    Fault(
        name="cancelled-answer-asks-all-the-same",
        file=BULK,
        old="            if self._line.cut:\n                raise _Stale\n",
        new="",
        tests=["tests/test_cancelling.py"],
    ),
    Fault(
        name="cancelled-answer-without-a-thread-stays-open",
        file=BULK,
        old="if not work.begun or work.kept:",
        new="if work.kept:",
        tests=["tests/test_cancelling.py"],
    ),
]
