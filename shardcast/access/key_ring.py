"""The keys of the servers vouching for members of a swarm, with these servers' clocks."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from shardcast.access.signing import key_id

MAX_KEYS = 128
"""Maximum keys from one source."""
_SAME_CLOCK = 30.0
"""Maximum jump of a server's clock, in seconds, before its key is told again."""
KEY_SECONDS = 120.0
"""Seconds of a key's validity after the last news of it."""


@dataclass(frozen=True, slots=True)
class VouchingKey:
    """A server's public key.

    Attributes:
        public: the key.
        now: the time of the server's clock, in seconds since 1970, at the news of the key.
        age: seconds since the news.
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
        told_at: time of the last news.
    """

    public: bytes
    ahead: float
    told_at: float


class KeyRing:
    """The valid keys at a node, by their sources.

    Tickets expire by their signers' clocks, known from the answers: a node with a wrong clock keeps its
    neighbours.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, sources: int = 1) -> None:
        """Know no key.

        Args:
            clock: gives seconds.
            sources: bound of the keys of all sources together, in multiples of ``MAX_KEYS``.
        """
        self._clock = clock
        self._max_keys = MAX_KEYS * sources
        self._by_source: dict[str, dict[str, _Entry]] = {}

    def tell(self, source: str, keys: Iterable[VouchingKey], limit: int = MAX_KEYS) -> None:
        """Replace the keys of a source by its present ones.

        Keys beyond a bound are left out, new ones before known ones; so are those without news for
        ``KEY_SECONDS``.

        Args:
            source: name of the source.
            keys: the keys.
            limit: maximum keys of this source.
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
        """Renew the keys of a source that says they are unchanged; for a node that passes on no keys."""
        now = self._clock()
        entries = self._by_source.get(source, {})
        for name, entry in entries.items():
            entries[name] = _Entry(entry.public, entry.ahead, now)

    def forget(self, source: str) -> None:
        """Drop the keys of a source."""
        self._by_source.pop(source, None)

    def public_key(self, signer: str) -> bytes | None:
        """Return a key by its id; None for a key that no source told within ``KEY_SECONDS``."""
        entry = self._find(signer)
        return entry.public if entry else None

    def now(self, signer: str) -> float:
        """Return the time of a server's clock by its key's id, in seconds since 1970.

        Raises:
            KeyError: no source told the key within ``KEY_SECONDS``.
        """
        entry = self._find(signer)
        if entry is None:
            raise KeyError(signer)
        return self._clock() + entry.ahead

    def keys(self, wanted: Callable[[str], bool] = lambda source: True) -> list[VouchingKey]:
        """Return the keys of all sources, each once; ``wanted`` returns whether a source counts."""
        now, found = self._clock(), dict[str, VouchingKey]()
        self._forget(now)
        for source, entries in self._by_source.items():
            for name, entry in entries.items() if wanted(source) else ():
                age = now - entry.told_at
                if name not in found or found[name].age > age:
                    found[name] = VouchingKey(entry.public, now + entry.ahead, age)
        return [found[name] for name in sorted(found)]

    def count(self, wanted: Callable[[str], bool]) -> int:
        """Return the number of keys from ``wanted`` sources; a key of two sources counts twice."""
        return sum(len(entries) for source, entries in self._by_source.items() if wanted(source))

    def _find(self, signer: str) -> _Entry | None:
        """Return the entry of a valid key."""
        self._forget(self._clock())
        return next((entries[signer] for entries in self._by_source.values() if signer in entries), None)

    def _forget(self, now: float) -> None:
        """Drop the keys without recent news."""
        for source, entries in list(self._by_source.items()):
            for name in [name for name, entry in entries.items() if now - entry.told_at >= KEY_SECONDS]:
                del entries[name]
            if not entries:
                del self._by_source[source]


def fingerprint(keys: Iterable[VouchingKey], now: float) -> str:
    """Return a short name of a set of keys and of their servers' clocks; a jump of a clock changes the name.

    Args:
        keys: the keys, as told now.
        now: the time of a clock without jumps.
    """
    ids = sorted(f"{key_id(key.public)} {round((key.now - now) / _SAME_CLOCK)}" for key in keys)
    return hashlib.sha256(" ".join(ids).encode()).hexdigest()[:16]
