"""The version that a follower fetches next."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

Servers = Collection[str]


def due(offered: Iterable[int], last: int, had: Collection[int] = (), every: bool = False) -> int | None:
    """Return the version after ``last`` that is fetched next: the newest, or with ``every`` the oldest of
    those that were not ``had``, since a relay may have a later one first; None when there is none yet."""
    if every:
        return min((number for number in offered if number > last and number not in had), default=None)
    return max((number for number in offered if number > max(last, *had, 0)), default=None)


class FetchQueue:
    """What a follower has had of one line, what failed, and what is next.

    Complete versions come before open ones, and first those at servers that offered nothing that failed. So
    a server that lists versions which it cannot serve keeps nobody from the versions of another one.
    """

    def __init__(self, last: int | None = None, every: bool = False, had: Collection[int] = ()) -> None:
        """Begin after ``last``; None: with the newest version that can be had. ``had`` are versions of
        earlier runs."""
        self._last = last
        self._every = every
        self._had = set(had)
        self._wrong: set[int] = set()  # complete versions that failed are passed over for a while
        self._begun: set[int] = set()  # open ones that failed are had when they are complete
        self._doubted: set[str] = set()

    def next(self, complete: Mapping[int, Servers], opened: Mapping[int, Servers]) -> int | None:
        """Return the version to fetch next, of those that are ``complete`` and ``opened`` at these servers;
        None when there is none."""
        number = self.next_elsewhere(complete, opened, ())
        return self._next(complete, opened, set()) if number is None else number

    def next_elsewhere(
        self, complete: Mapping[int, Servers], opened: Mapping[int, Servers], servers: Servers
    ) -> int | None:
        """Return the same, of what others than these ``servers`` have, and others than those that are
        doubted."""
        return self._next(complete, opened, {*self._doubted, *servers})

    def _next(
        self, complete: Mapping[int, Servers], opened: Mapping[int, Servers], without: set[str]
    ) -> int | None:
        for offered, passed_over in ((complete, self._wrong), (opened, self._begun)):
            there = {number for number, servers in offered.items() if not without.issuperset(servers)}
            begun = self._last is not None
            number = due(there - passed_over, self._last or 0, self._had, self._every and begun)
            if number is not None:
                return number
        return None

    def had(self, number: int) -> None:
        """Note that a version is here."""
        self._had.add(number)
        self._last = number if self._last is None else self._last

    def has_had(self, number: int) -> bool:
        """Return whether a version was here."""
        return number in self._had

    def withdrawn(self, number: int, newest_good: int | None) -> None:
        """Forget a withdrawn version; ``newest_good`` is fetched again (None: it is here, or there is
        none)."""
        self._had.discard(number)
        if newest_good is not None:
            self._had = {one for one in self._had if one < newest_good}
            self._last = min(self._last or newest_good, newest_good - 1)

    def doubt(self, servers: Servers) -> None:
        """Note servers that list a version and do not serve it."""
        self._doubted.update(servers)

    def failed(self, number: int, complete: bool) -> None:
        """Pass over a version for a while, since it could not be had."""
        (self._wrong if complete else self._begun).add(number)

    def try_again(self) -> None:
        """What failed may be right now."""
        self._wrong.clear()
        self._doubted.clear()
