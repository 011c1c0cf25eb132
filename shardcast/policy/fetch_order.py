"""The order of fetching versions: a follower's next version, and a middle's versions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

Servers = Collection[str]


def missing_versions(
    offered: Iterable[int], here: Collection[int], under_way: Collection[int], keep: int
) -> list[int]:
    """Return the ``offered`` versions to fetch, the first one first.

    Of the newest ``keep`` versions, those under way come first, then the newest. An offered version retired
    ``here`` for its age is not fetched again.
    """
    newest = sorted({*offered, *here}, reverse=True)[:keep]
    missing = [number for number in newest if number not in here]
    return sorted(missing, key=lambda number: (number not in under_way, -number))


def versions_to_fetch(
    offers: Mapping[int, Servers],
    here: Collection[int],
    under_way: Collection[int],
    *,
    keep: int,
    suspect: Servers = (),
) -> list[int]:
    """Return the versions to fetch, the first one first; ``offers`` has the servers of each version.

    The newest ``keep`` versions of each server are fetched, so the versions of one server take no place from
    those of another. Versions at ``suspect`` servers alone come last: earlier fetches from these servers
    failed.
    """
    servers = {server for holders in offers.values() for server in holders}
    found: set[int] = set()
    for server in servers:
        offered = [number for number, holders in offers.items() if server in holders]
        found.update(missing_versions(offered, here, under_way, keep))

    def rank(number: int) -> tuple[bool, bool, int]:
        return not set(offers[number]) - set(suspect), number not in under_way, -number

    return sorted(found, key=rank)


def versions_to_start(
    opened: Mapping[int, Servers],
    complete: Mapping[int, Servers],
    *,
    here: Collection[int],
    fetching: Mapping[int, Servers],
    places: int,
    share: int,
) -> list[int]:
    """Return the open versions for a middle to start fetching.

    A version must be newer than each complete one here, and newer than the newest complete version of at
    least one of its servers.

    Args:
        opened: the open versions, with their servers.
        complete: the complete versions, with their servers.
        here: the complete versions of this node.
        fetching: the open versions under way, with their servers.
        places: open versions fetched at once.
        share: maximum places for the versions of one server.
    """
    newest: dict[str, int] = {}
    for number, servers in complete.items():
        newest.update({server: max(number, newest.get(server, 0)) for server in servers})
    taken = dict(fetching)
    started = []
    for number in round_robin(opened):
        if len(taken) >= places:
            break
        servers = opened[number]
        old = number <= max([*here, min(newest.get(server, 0) for server in servers)])
        if old or number in complete or number in taken:
            continue
        if min(sum(server in others for others in taken.values()) for server in servers) < share:
            taken[number] = servers
            started.append(number)
    return started


def round_robin(offers: Mapping[int, Servers]) -> list[int]:
    """Return all of these versions, the newest first, but each server's newest before another's second."""
    places: dict[str, int] = {}
    rank: dict[int, int] = {}
    for number in sorted(offers, reverse=True):
        rank[number] = min(places.get(server, 0) for server in offers[number])
        for server in offers[number]:
            places[server] = places.get(server, 0) + 1
    return sorted(offers, key=lambda number: (rank[number], -number))


def next_version(
    offered: Iterable[int], last: int, fetched: Collection[int] = (), every: bool = False
) -> int | None:
    """Return the next version to fetch after ``last``; None when there is none yet.

    This is the newest version, if newer than all ``fetched`` ones. With ``every`` it is the oldest one not
    ``fetched``: a relay may have a later version first.
    """
    if every:
        return min((number for number in offered if number > last and number not in fetched), default=None)
    return max((number for number in offered if number > max(last, *fetched, 0)), default=None)


class FetchQueue:
    """The fetched and failed versions of one follower's line, and the next one.

    Complete versions come before open ones, and first those at servers without a failed offer. So a server
    that lists versions without serving them does not delay the versions of another server.
    """

    def __init__(self, last: int | None = None, every: bool = False, fetched: Collection[int] = ()) -> None:
        """Begin a queue.

        Args:
            last: the number after which to begin; None to begin with the newest version on offer.
            every: whether to fetch each version; else only the newest of several new ones.
            fetched: versions of earlier runs.
        """
        self._last = last
        self._every = every
        self._had = set(fetched)
        self._failed: set[int] = set()  # complete versions to pass over until everything is tried again
        self._failed_open: set[int] = set()  # open versions that failed; they are fetched when complete
        self._suspect: set[str] = set()  # URLs of servers that list a version and did not serve it

    def next(self, complete: Mapping[int, Servers], opened: Mapping[int, Servers]) -> int | None:
        """Return the version to fetch next; None when there is none.

        Args:
            complete: the complete versions, with their servers.
            opened: the open versions, with their servers.
        """
        number = self.next_elsewhere(complete, opened, ())
        return self._next(complete, opened, set()) if number is None else number

    def next_elsewhere(
        self, complete: Mapping[int, Servers], opened: Mapping[int, Servers], servers: Servers
    ) -> int | None:
        """Return the same, of the versions at other servers than these ``servers`` and the suspect ones."""
        return self._next(complete, opened, {*self._suspect, *servers})

    def _next(
        self, complete: Mapping[int, Servers], opened: Mapping[int, Servers], without: set[str]
    ) -> int | None:
        """Return the next version at other servers than ``without``."""
        for offered, passed_over in ((complete, self._failed), (opened, self._failed_open)):
            remote = {number for number, servers in offered.items() if not without.issuperset(servers)}
            started = self._last is not None  # until then the newest is next, also with every
            number = next_version(remote - passed_over, self._last or 0, self._had, self._every and started)
            if number is not None:
                return number
        return None

    def mark_fetched(self, number: int) -> None:
        """Record a fetched version; a queue without ``last`` begins after the first of them."""
        self._had.add(number)
        self._last = number if self._last is None else self._last

    def was_fetched(self, number: int) -> bool:
        """Return whether a version was fetched, here or in an earlier run."""
        return number in self._had

    def forget_withdrawn(self, number: int, newest_good: int | None) -> None:
        """Forget a withdrawn version, and also ``newest_good`` and all later ones: they can be fetched again.

        ``newest_good`` is None where this version is local, or where there is none.
        """
        self._had.discard(number)
        if newest_good is not None:
            self._had = {had for had in self._had if had < newest_good}
            self._last = min(self._last or newest_good, newest_good - 1)

    def mark_suspect(self, servers: Servers) -> None:
        """Put versions of these servers last until ``retry_all``: a version listed there was not served."""
        self._suspect.update(servers)

    def mark_failed(self, number: int, complete: bool) -> None:
        """Pass over a version after a failed fetch: a complete one until ``retry_all``, an open one for good.

        The open version is fetched once it is complete.
        """
        (self._failed if complete else self._failed_open).add(number)

    def retry_all(self) -> None:
        """Pass over no complete version and suspect no server any more; failed open versions stay so."""
        self._failed.clear()
        self._suspect.clear()
