"""Wrong tokens by address: how long the answer to the next one waits.

A token can't be guessed. Slowing keeps a client that tries all the same, or is set up wrongly, from taking
the time of a server; requests with valid tokens never wait, whatever else their address sends.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

FIRST_DELAY = 0.1
"""Seconds that the answer to an address's first wrong token waits; each further one waits twice as long."""
LONGEST_DELAY = 5.0
FORGET_SECONDS = 60.0
"""Seconds after its last wrong token until an address is forgotten."""
MAX_ADDRESSES = 1024
"""Addresses that are remembered; one more displaces the one that was silent for longest."""
MAX_WAITING = 256
"""Answers that wait at a time."""
MAX_WAITING_OF_ADDRESS = 16
"""Answers that wait at a time of one address."""
_DOUBLINGS = 16


@dataclass(frozen=True)
class Slowing:
    """How to answer a wrong token.

    Attributes:
        seconds: that the answer waits; None where too many wait already, and the connection ends instead.
        first: whether it is the address's first wrong token in a while.
    """

    seconds: float | None
    first: bool


class WrongTokens:
    """The addresses that sent wrong tokens lately, and how many of their answers wait."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: OrderedDict[str, tuple[int, float]] = OrderedDict()  # count and time of the last one
        self._waiting: Counter[str] = Counter()

    @contextlib.contextmanager
    def attempt(self, host: str) -> Iterator[Slowing]:
        """Record a wrong token, and yield how to answer; the answer counts as waiting inside the block."""
        key, now = address_key(host), self._clock()
        count, at = self._seen.pop(key, (0, now))
        if now - at >= FORGET_SECONDS:
            count = 0
        self._seen[key] = min(count + 1, _DOUBLINGS), now
        if len(self._seen) > MAX_ADDRESSES:
            self._seen.popitem(last=False)
        if self._waiting[key] >= MAX_WAITING_OF_ADDRESS or self._waiting.total() >= MAX_WAITING:
            yield Slowing(None, first=not count)
            return
        self._waiting[key] += 1
        try:
            yield Slowing(min(LONGEST_DELAY, FIRST_DELAY * 2**count), first=not count)
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key]

    @property
    def remembered(self) -> int:
        """Number of addresses that take memory."""
        return len(self._seen)


def address_key(host: str) -> str:
    """Return what counts as one address: of IPv6 the /64, since a machine has all of those."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return host
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"
