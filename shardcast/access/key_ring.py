"""The keys of the servers that vouch for members of a swarm, with these servers' clocks."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from shardcast.access.signing import key_id

MAX_KEYS = 128
"""Keys that one source tells, at most."""
_SAME_CLOCK = 30.0
"""Seconds that a server's clock may jump without its key being told again."""
KEY_SECONDS = 120.0
"""Seconds for which a key counts after it was told last."""


@dataclass(frozen=True, slots=True)
class VouchingKey:
    """A server's public key.

    Attributes:
        public: the key.
        now: the time of the server's clock, in seconds since 1970, when the key was told.
        age: seconds since the server told it.
    """

    public: bytes
    now: float
    age: float = 0.0


@dataclass(frozen=True, slots=True)
class _Entry:
    """A key of a ring.

    Attributes:
        public: the key.
        ahead: seconds by which the server's clock is ahead of the ring's.
        told_at: when the key was told last.
    """

    public: bytes
    ahead: float
    told_at: float


class KeyRing:
    """The keys that count at a node, by who told them.

    Tickets expire by their signers' clocks, which are known from the answers: a node whose own clock is wrong
    keeps its neighbours.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, sources: int = 1) -> None:
        """Know no key.

        Args:
            clock: gives seconds.
            sources: how many may tell ``MAX_KEYS`` keys each.
        """
        self._clock = clock
        self._max_keys = MAX_KEYS * sources
        self._by_source: dict[str, dict[str, _Entry]] = {}

    def tell(self, source: str, keys: Iterable[VouchingKey], limit: int = MAX_KEYS) -> None:
        """Take the keys that a source tells, instead of those that it told before.

        Keys that exceed a bound are left out; those that are here already come first.

        Args:
            source: the name of who tells them.
            keys: the keys.
            limit: keys that count of this source.
        """
        now = self._clock()
        self._forget(now)
        before = self._by_source.pop(source, {})
        room = min(limit, self._max_keys - sum(map(len, self._by_source.values())))
        fresh = (key for key in keys if key.age < KEY_SECONDS)
        told = {key_id(key.public): _Entry(key.public, key.now - now, now - key.age) for key in fresh}
        known_first = sorted(told, key=lambda name: name not in before)
        if room > 0 and told:
            self._by_source[source] = {name: told[name] for name in known_first[:room]}

    def still_told(self, source: str) -> None:
        """Note that a source told the same keys again, at a node that passes on none."""
        now = self._clock()
        entries = self._by_source.get(source, {})
        for name, entry in entries.items():
            entries[name] = _Entry(entry.public, entry.ahead, now)

    def forget(self, source: str) -> None:
        """Drop the keys of a source."""
        self._by_source.pop(source, None)

    def public_key(self, signer: str) -> bytes | None:
        """Return a key by its id; None for a key that does not count."""
        entry = self._find(signer)
        return entry.public if entry else None

    def now(self, signer: str) -> float:
        """Return the time of a server's clock by its key's id, in seconds since 1970.

        Raises:
            KeyError: the key does not count.
        """
        entry = self._find(signer)
        if entry is None:
            raise KeyError(signer)
        return self._clock() + entry.ahead

    def keys(self, wanted: Callable[[str], bool] = lambda source: True) -> list[VouchingKey]:
        """Return the keys that sources told, each once; ``wanted`` tells whether a source counts."""
        now, found = self._clock(), dict[str, VouchingKey]()
        self._forget(now)
        for source, entries in self._by_source.items():
            for name, entry in entries.items() if wanted(source) else ():
                age = now - entry.told_at
                if name not in found or found[name].age > age:
                    found[name] = VouchingKey(entry.public, now + entry.ahead, age)
        return [found[name] for name in sorted(found)]

    def count(self, wanted: Callable[[str], bool]) -> int:
        """Return how many keys the sources told that are ``wanted``."""
        return sum(len(entries) for source, entries in self._by_source.items() if wanted(source))

    def _find(self, signer: str) -> _Entry | None:
        """Return the entry of a key that counts."""
        self._forget(self._clock())
        return next((entries[signer] for entries in self._by_source.values() if signer in entries), None)

    def _forget(self, now: float) -> None:
        """Drop the keys that were told too long ago."""
        for source, entries in list(self._by_source.items()):
            for name in [name for name, entry in entries.items() if now - entry.told_at >= KEY_SECONDS]:
                del entries[name]
            if not entries:
                del self._by_source[source]


def fingerprint(keys: Iterable[VouchingKey], now: float) -> str:
    """Return a short name of a set of keys and of their servers' clocks, which changes where a clock jumps.

    Args:
        keys: the keys, as they are told now.
        now: the time of a clock that does not jump.
    """
    ids = sorted(f"{key_id(key.public)} {round((key.now - now) / _SAME_CLOCK)}" for key in keys)
    return hashlib.sha256(" ".join(ids).encode()).hexdigest()[:16]
