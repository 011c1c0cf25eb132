"""The limits of a server's checks of members' addresses, against scans and floods of third parties."""

from __future__ import annotations

from dataclasses import dataclass

from shardcast.policy.backoff import Backoff
from shardcast.policy.swarm.addresses import owner_of
from shardcast.policy.swarm.members import Entry

RECHECK_SECONDS = 60.0
"""Seconds until a reached member is checked again."""
_RETRIES = Backoff(6.0, RECHECK_SECONDS)
"""Pauses after failed checks: at most ten checks a minute."""
_MAX_KEYS = 4096
"""Hosts whose checks are counted; where more have checks, others wait."""


def is_check_due(entry: Entry, now: float) -> bool:
    """Return whether to check a member at its announcement: a listening one whose last check is old."""
    if entry.facts.host is None or entry.teller.above:
        return False
    if entry.checked_at is None:
        return True
    pause = RECHECK_SECONDS if entry.reachable else _RETRIES.pause(max(0, entry.failures - 1))
    return now - entry.checked_at >= pause


class RateLimit:
    """A number of events a second for each of many hosts, with a burst."""

    def __init__(self, rate: float, burst: int) -> None:
        """Allow ``rate`` events a second, and ``burst`` at once."""
        self._rate = rate
        self._burst = burst
        self._full_after = burst / rate
        # By host: events left, and the time of this count; the longest unasked come first.
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, host: str, now: float) -> bool:
        """Return whether a host has an event left, and count it; False for a host beyond ``_MAX_KEYS``."""
        self._forget(now)
        if host not in self._left and len(self._left) >= _MAX_KEYS:
            return False
        left, at = self._left.pop(host, (float(self._burst), now))
        left = min(self._burst, left + (now - at) * self._rate)
        self._left[host] = (left - 1 if left >= 1 else left), now
        return left >= 1

    def _forget(self, now: float) -> None:
        """Drop the hosts with a whole burst again."""
        while self._left:
            host = next(iter(self._left))
            if now - self._left[host][1] < self._full_after:
                return
            del self._left[host]


@dataclass(frozen=True, slots=True)
class CheckTarget:
    """A possible check by a server.

    Attributes:
        announcer: the owner of the announcing address (``owner_of``).
        host: the place's address.
    """

    announcer: str
    host: str


class CheckLimits:
    """The decision whether a server makes a check now.

    A place at the announcer's own address costs the announcer more than the server. A place elsewhere,
    advertised or relayed by another server, has narrower limits, by announcer and by host.
    """

    def __init__(self) -> None:
        self._own, self._subnet = RateLimit(5.0, 128), RateLimit(50.0, 1024)
        self._advertised = RateLimit(10 / 60, 10)
        self._relayed = RateLimit(2.0, 40)
        self._targets = RateLimit(1.0, 16)

    def allows(self, target: CheckTarget, now: float, *, relayed: bool) -> bool:
        """Return whether a check may be made now, and count the check.

        Args:
            target: the check.
            now: the time, in seconds.
            relayed: whether another server told the place.
        """
        if owner_of(target.host) == target.announcer:
            return (self._subnet if "/" in target.announcer else self._own).take(target.announcer, now)
        limit = self._relayed if relayed else self._advertised
        return limit.take(target.announcer, now) and self._targets.take(target.host, now)
