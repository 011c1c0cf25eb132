"""Limits of bytes a second, shared fairly: by all readers together, and by those at one address.

A reader reserves the next slot of the schedule before each portion and waits for the slot's beginning.
Portions are equal and a reader has one slot at a time, so slots rotate among the readers; an idle reader
leaves its share to the others. The caller waits (``fair_limit``).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from shardcast.errors import UsageError

MIN_RATE = 32 << 10
"""Lowest limit, in bytes a second: readers leave a server that sends no piece of 256 KiB within 30 s."""
CREDIT = 0.1
"""Seconds of unused rate available later, to make up for the late wake-ups of a busy event loop."""
MAX_DEBT = 5.0
"""Maximum delay of other readers by urgent bytes, in seconds of the rate."""
_ROUND = 0.05
"""Seconds of one round: each busy reader gets a portion within a round."""
_MIN_PORTION = 4096
"""Bytes of a portion at least, where ``_ROUND`` seconds of the whole rate are more."""
_MAX_PORTIONS = 2000
"""Portions a second at the most; each costs some 50 µs of a processor."""
_UNLIMITED = 16 << 20
"""Bytes of a portion where no limit holds for a reader."""
_IDLE_ADDRESSES = 1024
"""Addresses without a reader to remember before those with past slots are forgotten."""


class Schedule:
    """The slots of one rate.

    Attributes:
        rate: bytes a second.
    """

    def __init__(self, rate: float, now: float, credit: float = CREDIT) -> None:
        """Begin now; ``credit``: seconds of unused rate available later."""
        self.rate = rate
        self._credit = credit
        self._free_at = now

    def reserve(self, count: int, now: float) -> float:
        """Reserve the next slot for ``count`` bytes, and return the seconds until its beginning."""
        start = max(self._free_at, now - self._credit)
        self._free_at = start + count / self.rate
        return max(0.0, start - now)

    def count(self, count: int, now: float) -> None:
        """Count urgent bytes, sent without a slot; delay later slots by at most ``MAX_DEBT`` seconds."""
        start = max(self._free_at, now - self._credit)
        self._free_at = max(start, min(start + count / self.rate, now + MAX_DEBT))

    def give_back(self, count: int) -> None:
        """Give back the unused rest of a slot."""
        self._free_at -= count / self.rate

    def seconds_ahead(self, now: float) -> float:
        """Return the seconds until the next slot would begin."""
        return max(0.0, self._free_at - now)


@dataclass(frozen=True, slots=True)
class Rates:
    """Limits in bytes a second; None for no limit.

    Attributes:
        total: of all readers together.
        per_address: of the readers at one address together.
    """

    total: int | None = None
    per_address: int | None = None

    def check(self) -> None:
        """Refuse rates too low to serve any reader in time.

        Raises:
            UsageError: a rate is less than ``MIN_RATE``.
        """
        for rate in (self.total, self.per_address):
            if rate is not None and rate < MIN_RATE:
                raise UsageError(
                    f"a limit of {rate} bytes a second is too low: readers leave a server that sends no "
                    f"piece of 256 KiB within 30 s; choose {MIN_RATE} (32KiB) or more"
                )


@dataclass(eq=False, slots=True)
class Address:
    """The readers at one address.

    Attributes:
        key: the address.
        schedule: schedule of the limit for each address; None where this limit does not apply.
        readers: present number of readers.
    """

    key: Hashable
    schedule: Schedule | None
    readers: int = 0

    def is_idle(self, now: float) -> bool:
        """Return whether the address can be forgotten: without readers, and with all its slots past."""
        return not self.readers and not (self.schedule and self.schedule.seconds_ahead(now))


class FairShares:
    """The readers that share two limits, and the slots of both.

    Each address with a reader gets an equal share, and each reader an equal part of its address's share.

    Attributes:
        rates: the limits.
        waited_until: end of the last wait for the limit in all.
        readers: readers now.
    """

    def __init__(self, rates: Rates, now: float) -> None:
        """Begin now.

        Raises:
            UsageError: a rate is too low.
        """
        rates.check()
        self.rates = rates
        self.waited_until = float("-inf")
        self._total = Schedule(rates.total, now) if rates.total else None
        self._addresses: dict[Hashable, Address] = {}
        self.readers = 0
        self._busy = 0  # addresses with readers

    @property
    def remembered(self) -> int:
        """Addresses in memory."""
        return len(self._addresses)

    def open(self, key: Hashable, now: float, *, counted: bool = True) -> Address:
        """Add a reader, and return its address.

        Args:
            key: the address.
            now: the time.
            counted: whether the limit for each address applies to the reader.
        """
        address = self._find(key, now, counted)
        self._busy += not address.readers
        self.readers += 1
        address.readers += 1
        return address

    def close(self, address: Address, unused: int, now: float) -> None:
        """Remove a reader, and give the ``unused`` bytes of its last slot back to both limits."""
        address.readers -= 1
        self.readers -= 1
        self._busy -= not address.readers
        for schedule in (self._total, address.schedule):
            if schedule and unused:
                schedule.give_back(unused)
        if address.is_idle(now) and self._addresses.get(address.key) is address:
            del self._addresses[address.key]

    def is_full(self, key: Hashable, size: int, seconds: float) -> bool:
        """Return whether one more reader would keep readers from ``size`` bytes each within ``seconds``.

        An only reader always gets its turn.
        """
        address, rates, share = self._addresses.get(key), self.rates, size / seconds
        local = address.readers if address and address.schedule else 0
        if rates.per_address and local and (local + 1) * share > rates.per_address:
            return True
        return bool(rates.total and self.readers and (self.readers + 1) * share > rates.total)

    def portion(self, address: Address) -> int:
        """Return the bytes of a slot of one reader at an address."""
        shares = []
        if self.rates.total:
            shares.append((self.rates.total, self._busy * address.readers))
        if address.schedule:
            shares.append((int(address.schedule.rate), address.readers))
        portions = (
            max(rate * _ROUND / readers, rate / _MAX_PORTIONS, min(_MIN_PORTION, rate * _ROUND))
            for rate, readers in shares
        )
        return int(min(portions, default=_UNLIMITED))

    def reserve(self, schedule: Schedule | None, count: int, now: float) -> float:
        """Reserve a slot of an address or, for None, of the limit in all; return the seconds to wait."""
        if schedule is not None:
            return schedule.reserve(count, now)
        seconds = self._total.reserve(count, now) if self._total else 0.0
        if seconds:
            self.waited_until = max(self.waited_until, now + seconds)
        return seconds

    def count(self, key: Hashable, count: int, now: float, *, counted: bool = True) -> None:
        """Count bytes sent at once to an address, ahead of all readers, against both limits.

        ``counted``: whether the limit for each address applies.
        """
        if self._total:
            self._total.count(count, now)
        if counted and self.rates.per_address:
            schedule = self._find(key, now, counted).schedule
            if schedule:
                schedule.count(count, now)

    def _find(self, key: Hashable, now: float, counted: bool) -> Address:
        """Return an address, and forget idle ones where there are many."""
        address = self._addresses.get(key)
        if address is None:
            if len(self._addresses) >= _IDLE_ADDRESSES + 2 * self._busy:
                known = self._addresses.items()
                self._addresses = {other: one for other, one in known if not one.is_idle(now)}
            rate = self.rates.per_address
            address = Address(key, Schedule(rate, now) if counted and rate else None)
            self._addresses[key] = address
        return address
