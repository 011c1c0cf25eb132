"""The local bytes of an open version, counted as its shards come."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from shardcast.errors import NoRoom
from shardcast.policy.eviction import Why
from shardcast.protocol.manifest import Shard
from shardcast.store.disk_usage import space_of
from shardcast.store.landing import Landing
from shardcast.store.live_manifest import LiveManifest


class OpenSpace:
    """Running totals of an open version's local and arriving shards.

    A total costs the same with any number of shards. Threads that name shards call ``add_verified`` and
    ``link``; the event loop opens landings (``arrive``) and gives room to writing threads (``extend``). Every
    change, and every read of more than one value, holds one lock, never during disk access.

    Attributes:
        verified_shards: numbers of the whole shards. Threads add to the set, and none iterates over the set;
            a look-up needs no lock.
        reserves_verified_only: whether room is taken for verified bytes only, not for whole shards; the event
            loop's.
        measured: whether the way of taking room was decided; the event loop's.
        linked_all: whether all shards of other versions were linked; the event loop's.
        shard_size: bytes of the shards of a payload to be cut; 0 for a received version.
        refused: the error for lack of room; None with enough room.
        refused_as_listed: whether the version was listed at that time.
        refused_why: why no version was removed for this one at that time.
    """

    def __init__(self, live: LiveManifest, landings: Mapping[int, Landing]) -> None:
        """Start with empty totals.

        Args:
            live: the version's manifest.
            landings: the arriving shards, by number; the event loop's.
        """
        self.verified_shards: set[int] = set()
        self.reserves_verified_only = False
        self.measured = False
        self.linked_all = False
        self.shard_size = 0
        self.refused: NoRoom | None = None
        self.refused_as_listed = False
        self.refused_why: Why | None = None
        self._live = live
        self._landings = landings
        self._counted = 0  # lines of the manifest whose shards are in _all_space; the event loop's
        self._all_space = 0
        self._lock = threading.Lock()
        self._had_bytes = 0
        self._had_space = 0
        self._arriving: dict[int, int] = {}  # bytes on the disk of shards that are not whole
        self._arriving_space = 0
        self._linked: dict[int, int] = {}  # space of shards that lie here as links, not looked at yet
        self._linked_space = 0

    def add_verified(self, shard: int, size: int) -> bool:
        """Count a whole shard of ``size`` bytes; return whether it was counted for the first time."""
        with self._lock:
            if shard in self.verified_shards:
                return False
            self.verified_shards.add(shard)
            self._had_bytes += size
            self._had_space += space_of(size)
            self._arriving_space -= self._arriving.pop(shard, 0)
            self._linked_space -= self._linked.pop(shard, 0)
            return True

    def link(self, shard: int, size: int) -> None:
        """Count a shard of ``size`` bytes present as a link, without need of room."""
        with self._lock:
            if shard not in self.verified_shards:
                self._linked_space += space_of(size) - self._linked.get(shard, 0)
                self._linked[shard] = space_of(size)

    def unlink(self, shard: int) -> bool:
        """Stop counting a shard as a link; return whether it was counted as one."""
        with self._lock:
            was = shard in self._linked
            self._linked_space -= self._linked.pop(shard, 0)
            return was

    def is_linked(self, shard: int) -> bool:
        """Return whether a shard is present as an unverified link."""
        return shard in self._linked

    def arrive(self, shard: int, space: int) -> None:
        """Count ``space`` bytes on the disk for an incomplete shard."""
        with self._lock:
            if shard not in self.verified_shards:
                self._arriving_space += space - self._arriving.get(shard, 0)
                self._arriving[shard] = space

    def extend(self, shard: int, size: int) -> None:
        """Count ``size`` more bytes on the disk for an incomplete shard."""
        with self._lock:
            if shard not in self.verified_shards:
                self._arriving_space += size
                self._arriving[shard] = self._arriving.get(shard, 0) + size

    def arriving_of(self, shard: int) -> int:
        """Return the bytes on the disk of an incomplete shard."""
        return self._arriving.get(shard, 0)

    @property
    def arriving(self) -> int:
        """Bytes on the disk of incomplete shards."""
        return self._arriving_space

    @property
    def accounted_space(self) -> int:
        """Bytes on the disk of all whole, arriving or linked shards."""
        with self._lock:
            return self._had_space + self._arriving_space + self._linked_space

    @property
    def verified_bytes(self) -> int:
        """Verified bytes of the payload; for the event loop."""
        landed = {number: landing.verified_bytes for number, landing in self._landings.items()}
        with self._lock:
            return self._had_bytes + sum(
                size for shard, size in landed.items() if shard not in self.verified_shards
            )

    @property
    def is_size_known(self) -> bool:
        """Whether the size of the payload is known."""
        return self._live.manifest is not None or (
            self._live.has_header and self._live.header.size is not None
        )

    @property
    def missing_space(self) -> int:
        """Bytes on the disk still to be taken by the version, as far as known; for the event loop."""
        shards = self._live.shards
        if len(shards) < self._counted:
            self._counted = self._all_space = 0
        for index in range(self._counted, len(shards)):
            self._all_space += space_of(shards[index].size)
            self._counted = index + 1
        announced = self._live.size - (shards[self._counted - 1].end if self._counted else 0)
        return max(0, self._all_space + space_of(max(0, announced)) - self.accounted_space)

    @property
    def is_filled(self) -> bool:
        """Whether all room reserved for shards holds verified bytes."""
        landings = self._landings.items()
        return all(
            landing.whole or landing.extend is not None
            for number, landing in landings
            if number not in self.verified_shards
        )

    def space_of_next(self, shard: Shard) -> int:
        """Return the bytes on the disk about to be taken by a shard; 0 for a local or arriving one."""
        if (
            shard.number in self.verified_shards
            or shard.number in self._landings
            or self.is_linked(shard.number)
        ):
            return 0
        return max(0, space_of(shard.size) - self.arriving_of(shard.number))

    def space_for(self, size: int) -> int:
        """Return the bytes on the disk of a payload of ``size`` bytes, cut into shards."""
        shards, rest = divmod(size, self.shard_size or max(size, 1))
        return shards * space_of(self.shard_size or size) + space_of(rest)
