"""Sets to draw members from at random, fair to hosts: a host with invented members is drawn no more often."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from random import Random
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

SLOTS = 16
"""Members of a host up to which each raises the host's chance; further ones share its chance."""


class RandomPool(Generic[T]):
    """A set whose items are added, removed and drawn in constant time."""

    def __init__(self) -> None:
        self._items: list[T] = []
        self._places: dict[T, int] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def add(self, item: T) -> None:
        """Add an item not in the set."""
        self._places[item] = len(self._items)
        self._items.append(item)

    def remove(self, item: T) -> None:
        """Remove an item."""
        place, last = self._places.pop(item), self._items.pop()
        if last != item:
            self._items[place], self._places[last] = last, place

    def draw(self, random: Random) -> T:
        """Return an item, each equally likely."""
        return self._items[int(random.random() * len(self._items))]


class HostPool(Generic[T]):
    """Members by their hosts: a host is drawn first, then one of its members."""

    def __init__(self) -> None:
        self._hosts: dict[str, RandomPool[T]] = {}
        self._slots = RandomPool[tuple[str, int]]()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, host: str, member: T) -> None:
        """Add a member not in the pool."""
        members = self._hosts.setdefault(host, RandomPool())
        if len(members) < SLOTS:
            self._slots.add((host, len(members)))
        members.add(member)
        self._count += 1

    def remove(self, host: str, member: T) -> None:
        """Remove a member."""
        members = self._hosts[host]
        members.remove(member)
        if len(members) < SLOTS:
            self._slots.remove((host, len(members)))
        if not members:
            del self._hosts[host]
        self._count -= 1

    def draw(
        self, random: Random, count: int, wanted: Callable[[T], bool], better: Callable[[T], int]
    ) -> list[T]:
        """Return members, each once: at most ``count``, and perhaps fewer where many are not wanted.

        Args:
            random: to draw by.
            count: members to return.
            wanted: whether a member can be returned.
            better: the larger of a member, the more likely the member is returned, up to twice.
        """
        if self._count <= count:
            return [member for members in self._hosts.values() for member in members if wanted(member)]
        drawn: dict[T, None] = {}
        for _ in range(4 * count):
            member = self._hosts[self._slots.draw(random)[0]].draw(random)
            if random.random() < 0.5:
                other = self._hosts[self._slots.draw(random)[0]].draw(random)
                member = max(member, other, key=better)
            if wanted(member):
                drawn[member] = None
            if len(drawn) == count:
                break
        return list(drawn)
