"""Nonces of announcements: a member's answer proves to a server that an address is the member's own.

The server asks by the nonce's digest, known only to receivers of the announcement; the member answers by the
nonce, known only to its sender. Neither an echo nor a stranger gives the answer.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable

NONCE_SECONDS = 60.0
"""Seconds of a nonce's validity."""
_MAX_NONCES = 4096
"""Maximum nonces of a node at once: of its versions at its servers."""
_NONCE_BYTES = 16


def challenge_of(nonce: str) -> str:
    """Return a server's challenge for a nonce: 64 hex digits."""
    return hashlib.sha256(b"shardcast check 1\0" + nonce.encode()).hexdigest()


class Nonces:
    """The nonces of a node's announcements of the last minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Know no nonce; ``clock`` gives seconds."""
        self._clock = clock
        self._by_challenge: dict[str, tuple[str, float]] = {}  # oldest first

    def new(self) -> str:
        """Return a fresh nonce, valid for ``NONCE_SECONDS``; one too many drops the oldest."""
        self._forget()
        if len(self._by_challenge) >= _MAX_NONCES:
            del self._by_challenge[next(iter(self._by_challenge))]
        nonce = secrets.token_hex(_NONCE_BYTES)
        self._by_challenge[challenge_of(nonce)] = nonce, self._clock()
        return nonce

    def answer(self, challenge: str) -> str | None:
        """Return the nonce behind a challenge; None for an expired or unknown nonce."""
        self._forget()
        found = self._by_challenge.get(challenge)
        return found[0] if found else None

    def _forget(self) -> None:
        """Drop expired nonces."""
        now = self._clock()
        while self._by_challenge:
            oldest = next(iter(self._by_challenge))
            if now - self._by_challenge[oldest][1] < NONCE_SECONDS:
                return
            del self._by_challenge[oldest]
