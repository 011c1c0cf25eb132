"""The holds on versions: readers, leases and pins that keep a version beyond retention."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from shardcast.constants import LONGEST_HOLD, RECENTLY_READ
from shardcast.policy.retention import retirable

READ, LEASE, PIN = "read", "lease", "pin"
_LEAST_AGE = 0.01
"""Minimum seconds of an answer in a rate, to keep the rate finite."""


@dataclass(eq=False)
class Reader:
    """An answer with bytes of a version, or a lease on the version.

    Attributes:
        kind: ``READ`` or ``LEASE``.
        client: the client, in words.
        sent: sent bytes of payload.
        started: beginning, in seconds by the clock of the holds.
        handed_out: whether the bytes are pieces chosen by the server for the client.
    """

    kind: str
    client: str
    sent: int = 0
    started: float = 0.0
    handed_out: bool = False


@dataclass(frozen=True, slots=True)
class Hold:
    """A reason for a version to stay.

    Attributes:
        kind: ``READ``, ``LEASE`` or ``PIN``.
        owner: the holder, in words.
        seconds: maximum remaining seconds; None for no limit, as with pins, and with readers as long as no
            newer version takes this one's place.
    """

    kind: str
    owner: str
    seconds: float | None


@dataclass
class _Held:
    """The holds on one version.

    Attributes:
        readers: open answers and leases.
        sent: bytes of ended answers.
        handed_out: handed-out bytes among these.
        last_read: end of the last answer.
        surplus_since: time at which the version fell out of retention; None while within.
    """

    readers: list[Reader] = field(default_factory=list)
    sent: int = 0
    handed_out: int = 0
    last_read: float = -math.inf
    surplus_since: float | None = None


class Holds:
    """The holds on all versions of a node, by number.

    Attributes:
        pinned: versions kept until the end of their pins.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.pinned: set[int] = set()
        self._clock = clock
        self._versions: dict[int, _Held] = {}

    @contextlib.contextmanager
    def held(self, number: int, kind: str, client: str) -> Iterator[Reader]:
        """Keep a version during an answer (``READ``) to, or a lease (``LEASE``) of, a ``client``.

        Yields:
            The reader; the answer adds its sent bytes there.
        """
        version, reader = (
            self._versions.setdefault(number, _Held()),
            Reader(kind, client, started=self._clock()),
        )
        version.readers.append(reader)
        try:
            yield reader
        finally:
            version.readers.remove(reader)
            version.sent += reader.sent
            version.handed_out += reader.sent if reader.handed_out else 0
            if kind == READ:
                version.last_read = self._clock()

    def forget(self, number: int) -> None:
        """Forget a removed version; running answers end well."""
        self._versions.pop(number, None)

    def retirable(self, surplus: Collection[int]) -> list[int]:
        """Return the retirable versions among those beyond retention.

        A pinned version stays. A version being read, or read within ``RECENTLY_READ``, stays for at most
        ``LONGEST_HOLD`` after the first call with it in ``surplus``; a call without it starts anew.
        """
        now = self._clock()
        for number, version in self._versions.items():
            if number not in surplus:
                version.surplus_since = None
        since: dict[int, float] = {}
        for number in surplus:
            version = self._versions.setdefault(number, _Held())
            version.surplus_since = now if version.surplus_since is None else version.surplus_since
            since[number] = version.surplus_since
        last_read = {number: self._last_read(version) for number, version in self._versions.items()}
        free = [number for number in surplus if number not in self.pinned]
        return retirable(free, last_read, since, now=now, recently=RECENTLY_READ, longest=LONGEST_HOLD)

    def recently_read(self) -> set[int]:
        """Return the versions read or leased now, or read within ``RECENTLY_READ``."""
        recently = self._clock() - RECENTLY_READ
        return {number for number, version in self._versions.items() if self._last_read(version) > recently}

    def leased(self) -> set[int]:
        """Return the versions with an open lease."""
        return {
            number
            for number, version in self._versions.items()
            if any(reader.kind == LEASE for reader in version.readers)
        }

    def seconds_since_read(self) -> float:
        """Return the seconds since the last answer of any version ended.

        0 while an answer is under way, and infinity when there was none.
        """
        reading = any(
            reader.kind == READ for version in self._versions.values() for reader in version.readers
        )
        last = max((version.last_read for version in self._versions.values()), default=-math.inf)
        return 0.0 if reading else self._clock() - last

    def sent_in_all(self) -> int:
        """Return the bytes sent of all versions since the node began, except removed ones."""
        return sum(map(self.sent, self._versions))

    def _last_read(self, version: _Held) -> float:
        return math.inf if version.readers else version.last_read

    def sent(self, number: int) -> int:
        """Return the bytes sent of a version since the node began."""
        version = self._versions.get(number, _Held())
        return version.sent + sum(reader.sent for reader in version.readers)

    def handed_out(self, number: int) -> int:
        """Return the bytes of a version's pieces handed out since the node began."""
        version = self._versions.get(number, _Held())
        return version.handed_out + sum(reader.sent for reader in version.readers if reader.handed_out)

    def rate(self, number: int) -> float:
        """Return the bytes of a version sent a second: the sum over open answers, each since its start."""
        now, version = self._clock(), self._versions.get(number, _Held())
        return sum(reader.sent / max(now - reader.started, _LEAST_AGE) for reader in version.readers)

    def holds_on(self, number: int) -> list[Hold]:
        """Return the holds on a version now."""
        now, version = self._clock(), self._versions.get(number, _Held())
        since = version.surplus_since
        left = None if since is None else max(0.0, since + LONGEST_HOLD - now)
        holds = [Hold(PIN, "this machine", None)] if number in self.pinned else []
        holds += [Hold(reader.kind, reader.client, left) for reader in version.readers]
        recent = version.last_read + RECENTLY_READ - now
        if not version.readers and recent > 0:
            holds.append(Hold(READ, "somebody a moment ago", recent if left is None else min(recent, left)))
        return holds
