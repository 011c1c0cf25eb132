"""Faults in what chooses: policies without sockets and disks."""

from __future__ import annotations

from fault import Fault

OPENING = "shardcast/policy/opening.py"
WIDENING = "shardcast/policy/widening.py"

FAULTS = [
    Fault(
        name="opening-one-version-too-many",
        file=OPENING,
        old="if len(taken) >= places:",
        new="if len(taken) > places:",
        tests=["tests/test_wanted.py"],
    ),
    Fault(
        name="widening-least-not-two-a-server",
        file=WIDENING,
        old="2 * self._servers",
        new="self._servers",
        tests=["tests/test_widening.py"],
    ),
]
