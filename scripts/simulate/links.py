"""Links as fluids: uplinks that their answers share evenly, pipes that carry one range after the other."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

from agenda import Agenda
from flows import Flow

NEVER = float("inf")
ROUNDING = 1.0
"""Bytes short of its end at which an answer counts as sent."""


class Uplink:
    """The uplink of a host, shared evenly by the answers that it sends.

    All answers advance at the same rate. So each ends when the bytes sent for every one of them reach a mark
    that is known at its start, and only the next one to end needs an event.

    Attributes:
        rate: bytes a second.
        sent: bytes sent so far.
    """

    __slots__ = (
        "_active",
        "_agenda",
        "_due",
        "_flows",
        "_number",
        "_on_sent",
        "_passed",
        "_passed_at",
        "rate",
        "sent",
    )

    def __init__(self, agenda: Agenda, rate: float, on_sent: Callable[[Flow], None]) -> None:
        self.rate = rate
        self.sent = 0.0
        self._agenda = agenda
        self._on_sent = on_sent
        self._flows: list[tuple[float, int, Flow]] = []
        self._number = 0
        self._active = 0
        self._passed = 0.0  # bytes sent for each answer that was there all the time
        self._passed_at = 0.0
        self._due = NEVER

    def start(self, flow: Flow) -> None:
        """Begin to send an answer."""
        self._advance()
        self._active += 1
        self._number += 1
        flow.started = self._agenda.now
        flow.ends = self._passed + flow.size
        heappush(self._flows, (flow.ends, self._number, flow))
        self._plan()

    def cancel(self, flow: Flow) -> None:
        """Stop sending an answer; the caller has marked it as cancelled."""
        self._advance()
        self._active -= 1
        self.sent += flow.size - max(0.0, flow.ends - self._passed)
        self._plan()

    def _advance(self) -> None:
        """Bring the account of what was sent up to now."""
        now = self._agenda.now
        if self._active:
            self._passed += (now - self._passed_at) * self.rate / self._active
        self._passed_at = now

    def _plan(self) -> None:
        """Enter the end of the next answer, unless an earlier moment is entered."""
        flows = self._flows
        while flows and flows[0][2].cancelled:
            heappop(flows)
        if not flows:
            return
        due = self._passed_at + max(0.0, flows[0][0] - self._passed) * self._active / self.rate
        if due < self._due:
            self._due = due
            self._agenda.at(due, self._look, due)

    def _look(self, due: float) -> None:
        """Let go of the answers that have ended."""
        if due != self._due:
            return
        self._due = NEVER
        self._advance()
        flows, ended = self._flows, []
        while flows and (flows[0][2].cancelled or flows[0][0] <= self._passed + ROUNDING):
            flow = heappop(flows)[2]
            if not flow.cancelled:
                ended.append(flow)
        self._active -= len(ended)
        for flow in ended:
            self.sent += flow.size
            flow.sent = True
            self._on_sent(flow)
        self._plan()


class Pipe:
    """A link that carries ranges in the order in which they leave the links before it.

    Attributes:
        rate: bytes a second.
        carried: bytes carried so far.
    """

    __slots__ = ("_free_at", "carried", "rate")

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.carried = 0.0
        self._free_at = 0.0

    def carry(self, size: float, first: float, last: float) -> float:
        """Return when the last byte of a range has come through.

        Args:
            size: bytes of the range.
            first: when its first byte gets here.
            last: when its last byte does.
        """
        self._free_at = max(self._free_at, first) + size / self.rate
        self.carried += size
        return max(self._free_at, last)
