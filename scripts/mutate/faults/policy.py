"""Faults in what chooses: policies without sockets and disks."""

from __future__ import annotations

from fault import Fault

OPENING = "shardcast/policy/opening.py"
WIDENING = "shardcast/policy/widening.py"
DUE = "shardcast/policy/due.py"

FAULTS = [
    Fault(
        name="opening-one-version-too-many",
        file=OPENING,
        old="if len(taken) >= places:",
        new="if len(taken) > places:",
        tests=["tests/test_retention.py"],
    ),
    Fault(
        name="opening-one-of-a-server-too-many",
        file=OPENING,
        old="for server in servers) < share:",
        new="for server in servers) <= share:",
        tests=["tests/test_retention.py"],
    ),
    Fault(
        name="opening-what-is-complete-elsewhere",
        file=OPENING,
        old="if old or number in complete or number in taken:",
        new="if old or number in taken:",
        tests=["tests/test_retention.py"],
    ),
    Fault(
        name="opening-what-is-under-way",
        file=OPENING,
        old="if old or number in complete or number in taken:",
        new="if old or number in complete:",
        tests=["tests/test_retention.py"],
    ),
    Fault(
        name="opening-what-is-old-at-one-server",
        file=OPENING,
        old="min(newest.get(server, 0) for server in servers)])",
        new="max(newest.get(server, 0) for server in servers)])",
        tests=["tests/test_retention.py"],
    ),
    Fault(
        name="widening-least-not-two-a-server",
        file=WIDENING,
        old="2 * self._servers",
        new="self._servers",
        tests=["tests/test_widening.py"],
    ),
    Fault(
        name="widening-measures-before-the-first-byte",
        file=WIDENING,
        old="if under_way < self.value or not received:",
        new="if under_way < self.value:",
        tests=["tests/test_widening.py"],
    ),
    Fault(
        name="widening-measures-what-is-not-used",
        file=WIDENING,
        old="if under_way < self.value or not received:",
        new="if not received:",
        tests=["tests/test_widening.py"],
    ),
    Fault(
        name="widening-rests-for-ever",
        file=WIDENING,
        old="self._rest = min(2 * self._rest, LONGEST_REST)",
        new="self._rest = 2 * self._rest",
        tests=["tests/test_widening.py"],
    ),
    Fault(
        name="widening-rests-never-longer",
        file=WIDENING,
        old="self._rest = min(2 * self._rest, LONGEST_REST)",
        new="pass",
        tests=["tests/test_widening.py"],
    ),
    Fault(
        name="widening-keeps-what-brings-nothing",
        file=WIDENING,
        old="(1 + GAIN * (self.value / self._kept - 1))",
        new="1",
        tests=["tests/test_widening.py"],
    ),
    Fault(
        name="widening-ignores-who-joins",
        file=WIDENING,
        old="if self.value == self._kept < self._least:",
        new="if False:",
        tests=["tests/test_widening.py"],
    ),
    Fault(
        name="doubt-is-never-forgotten",
        file=DUE,
        old="        self._doubted.clear()\n",
        new="",
        tests=["tests/test_following.py"],
    ),
    Fault(
        name="failure-is-never-forgotten",
        file=DUE,
        old="        self._wrong.clear()\n",
        new="",
        tests=["tests/test_following.py"],
    ),
    Fault(
        name="next-is-had-already",
        file=DUE,
        old="number > max(last, *had, 0)",
        new="number >= max(last, *had, 0)",
        tests=["tests/test_following.py"],
    ),
]
