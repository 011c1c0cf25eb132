"""The memory of a mirror for blobs that no server has."""

from __future__ import annotations

import pytest

from shardcast.blobs.mirror import absence_cache
from shardcast.blobs.mirror.absence_cache import AbsenceCache
from shardcast.blobs.mirror.pending_fetch import DIRECT

WANTED = ("ab" * 32, 5)


def test_absence_expires() -> None:
    now = 0.0
    cache = AbsenceCache(30, lambda: now)
    cache.add(WANTED, DIRECT)
    now = 29.0
    assert cache.has(WANTED, DIRECT)
    now = 30.0
    assert not cache.has(WANTED, DIRECT)
    assert len(cache) == 0


def test_absence_counts_for_the_same_length_and_route_only() -> None:
    cache = AbsenceCache(30, lambda: 0.0)
    cache.add(WANTED, frozenset({"a node"}))
    assert cache.has(WANTED, frozenset({"a node"}))
    assert not cache.has(WANTED, DIRECT)
    assert not cache.has((WANTED[0], 6), frozenset({"a node"}))


def test_oldest_entry_is_evicted_when_cache_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(absence_cache, "_MAX_ENTRIES", 2)
    cache = AbsenceCache(30, lambda: 0.0)
    for key in ("a", "b", "a", "c"):  # what is added again is the newest
        cache.add((key, None), DIRECT)
    assert [cache.has((key, None), DIRECT) for key in "abc"] == [True, False, True]
