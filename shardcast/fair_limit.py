"""A limit of bytes a second for coroutines and threads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Self

from shardcast.concurrency import Notifier
from shardcast.policy.byte_limit import Address, FairShares, Rates, Schedule


class FairLimit:
    """A limit shared by several readers, by the rules of ``policy.byte_limit``.

    Attributes:
        freed: notified at the end of a reader.
        sleep: waits for a number of seconds.
        wait: waits in a thread for an event, up to a number of seconds, and returns whether the event is set.
    """

    def __init__(
        self,
        rates: Rates,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ) -> None:
        """Hold ``rates``; ``clock`` is monotonic.

        Raises:
            UsageError: a rate is too low.
        """
        self.freed = Notifier()
        self.sleep = sleep
        self.wait = wait
        self._clock = clock
        self._lock = threading.Lock()
        self._shares = FairShares(rates, clock())

    @classmethod
    def of(cls, total: int | None, per_address: int | None = None) -> Self | None:
        """Return the limit of these bytes a second; None where both are None.

        Raises:
            UsageError: a rate is too low.
        """
        return None if total is None and per_address is None else cls(Rates(total, per_address))

    @property
    def rates(self) -> Rates:
        """The limits."""
        return self._shares.rates

    @property
    def readers(self) -> int:
        """Readers now."""
        return self._shares.readers

    def open(self, address: Hashable, *, counted: bool = True) -> Share:
        """Return the share of a new reader; the caller closes it.

        Args:
            address: of the reader.
            counted: whether the limit for each address applies.
        """
        with self._lock:
            return Share(self, self._shares.open(address, self._clock(), counted=counted))

    def is_full(self, address: Hashable, size: int, seconds: float) -> bool:
        """Return whether one more reader would keep readers from ``size`` bytes each within ``seconds``."""
        with self._lock:
            return self._shares.is_full(address, size, seconds)

    def count(self, address: Hashable, count: int, *, counted: bool = True) -> None:
        """Count bytes sent at once, ahead of all readers."""
        with self._lock:
            self._shares.count(address, count, self._clock(), counted=counted)

    def is_reached(self, seconds: float) -> bool:
        """Return whether the limit in all has made a reader wait within the last ``seconds``."""
        return self._shares.waited_until >= self._clock() - seconds

    def portion(self, address: Address) -> int:
        """Return the bytes of a slot of one reader at an address."""
        with self._lock:
            return self._shares.portion(address)

    def reserve(self, schedule: Schedule | None, count: int) -> float:
        """Reserve a slot of an address or, for None, of the limit in all; return the seconds to wait."""
        with self._lock:
            return self._shares.reserve(schedule, count, self._clock())

    def close(self, address: Address, unused: int) -> None:
        """Remove a reader with ``unused`` bytes of its last slot."""
        with self._lock:
            self._shares.close(address, unused, self._clock())
        self.freed.notify()


def describe_limits(**limits: FairLimit | None) -> dict[str, int | None]:
    """Return limits by ``name`` and ``name_per_address``, as ``/status`` shows them; None without one."""
    described: dict[str, int | None] = {}
    for name, limit in limits.items():
        rates = limit.rates if limit else Rates()
        described |= {name: rates.total, f"{name}_per_address": rates.per_address}
    return described


class Share:
    """The share of one reader, taken in portions.

    A cancelled wait loses its slot: a twentieth of a second of the reader's share.
    """

    def __init__(self, limit: FairLimit, address: Address) -> None:
        self._limit = limit
        self._address = address
        # The address first: a slot of the total limit is reserved only for bytes the address allows then.
        self._schedules = (address.schedule, None) if address.schedule else (None,)
        self._granted = 0
        self._is_open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def take(self, wanted: int, left: int | None = None) -> int:
        """Wait for the reader's turn, and return the allowed number of the ``wanted`` bytes.

        Args:
            wanted: bytes, at least 1.
            left: all bytes to be taken from now on; None if ``wanted`` are all.
        """
        if not self._granted:
            count = min(wanted if left is None else left, self._limit.portion(self._address))
            for schedule in self._schedules:
                if seconds := self._limit.reserve(schedule, count):
                    await self._limit.sleep(seconds)
            self._granted = count
        return self._use(wanted)

    async def take_all(self, count: int) -> None:
        """Wait until ``count`` bytes may go."""
        while count > 0:
            count -= await self.take(count)

    def take_in_thread(self, wanted: int, left: int, cancelled: threading.Event) -> int:
        """Wait like ``take``, in a thread.

        Args:
            wanted: bytes, at least 1.
            left: all bytes to be taken from now on.
            cancelled: set to cancel the reader: the wait ends, and no byte is allowed.
        """
        if not self._granted:
            count = min(left, self._limit.portion(self._address))
            for schedule in self._schedules:
                seconds = self._limit.reserve(schedule, count)
                if seconds and self._limit.wait(cancelled, seconds):
                    return 0
            self._granted = count
        return self._use(wanted)

    def _use(self, wanted: int) -> int:
        """Return the number of bytes allowed now."""
        count = min(wanted, self._granted)
        self._granted -= count
        return count

    def close(self) -> None:
        """End the reader; the other readers get its share. A second call has no effect."""
        if self._is_open:
            self._is_open = False
            self._limit.close(self._address, self._granted)
