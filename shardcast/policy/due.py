"""Which version a follower fetches next."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

Servers = Collection[str]


def due(offered: Iterable[int], last: int, had: Collection[int] = (), every: bool = False) -> int | None:
    """The version after ``last`` that is fetched next: the newest, or with ``every`` the oldest of those that
    were not ``had``, since a relay may have a later one first; None when there is none yet."""
    if every:
        return min((number for number in offered if number > last and number not in had), default=None)
    return max((number for number in offered if number > max(last, *had, 0)), default=None)


class Agenda:
    """What a follower has had, what failed, and what is next: complete versions before open ones, and first
    those at servers that offered nothing that failed. So a server that says it has what it hasn't keeps
    nobody from the versions of another one."""

    def __init__(self, last: int | None = None, every: bool = False) -> None:
        """It begins after ``last``; None: with the newest that can be had."""
        self._last = last
        self._every = every
        self._had: set[int] = set()
        self._wrong: set[int] = set()  # complete versions that failed are passed over for a while
        self._begun: set[int] = set()  # open ones that failed are had when they are complete
        self._doubted: set[str] = set()

    def next(self, complete: Mapping[int, Servers], opened: Mapping[int, Servers]) -> int | None:
        """The version to fetch next, of those that are ``complete`` and ``opened`` at these servers; None
        when there is none."""
        number = self.next_elsewhere(complete, opened, ())
        return self._next(complete, opened, set()) if number is None else number

    def next_elsewhere(
        self, complete: Mapping[int, Servers], opened: Mapping[int, Servers], servers: Servers
    ) -> int | None:
        """The same, of what others than these ``servers`` have, and others than those that are doubted."""
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
        """It is here."""
        self._had.add(number)
        self._last = number if self._last is None else self._last

    def doubt(self, servers: Servers) -> None:
        """These say that they have a version, and it can't be had from them."""
        self._doubted.update(servers)

    def failed(self, number: int, complete: bool) -> None:
        """It could not be had, and is passed over for a while."""
        (self._wrong if complete else self._begun).add(number)

    def try_again(self) -> None:
        """What failed may be right now."""
        self._wrong.clear()
        self._doubted.clear()
