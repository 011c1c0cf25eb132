"""Eviction: the versions to remove when a newer one lacks room, decided one removal at a time.

The caller carries a decision out, measures again and asks again, so each removal rests on fresh facts.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

_GIGABYTE = 1_000_000_000
NOISE = 4 << 20
"""Growth of other users of a disk during a fetch, in bytes, below which they do not count as filling it."""

FIRST, UNLISTED, PARTIAL, COMPLETE = range(4)
"""Ranks of removable versions: put aside, local and not listed, fetched in part, complete."""


class Why(Enum):
    """The reasons why a version gets no room."""

    TOO_LARGE = "all that may go is not enough"
    NOT_LISTED = "the newest complete version goes only for one that is listed, with pieces to verify"
    FAILED_BEFORE = "it ran out of room once, so nothing goes for it again"
    OTHERS_FILL = "something else fills the disk, so nothing goes for it"


@dataclass(frozen=True)
class Removable:
    """A removable version.

    Attributes:
        key: the caller's name for the version.
        order: rank; the version with the lowest rank goes first.
        alone: bytes freed by the version's removal, whichever other versions stay.
        shared: bytes of files with several names, by file: freed with the last of the names.
        names: number of names of such a file, by file.
        newest: whether this is the newest complete version here.
    """

    key: Hashable
    order: tuple[int, ...]
    alone: int
    shared: Mapping[Hashable, int] = field(default_factory=dict)
    names: Mapping[Hashable, int] = field(default_factory=dict)
    newest: bool = False


@dataclass(frozen=True)
class RoomNeed:
    """The space needed by a version.

    Attributes:
        next: bytes about to be taken.
        lacking: bytes still to be taken in all, as far as known.
        whole: whether ``next`` is reserved before its bytes arrive.
        takes_newest: whether the version is listed, so its size is known and each piece verifiable.
        filled: whether all bytes taken so far are verified.
        failed: why nothing goes for the version any more, after it ran out of room; None where it did not.
        grown: growth, in bytes, of other users of the disk since the beginning.
        noise: bytes of this growth to ignore.
    """

    next: int
    lacking: int
    whole: bool = True
    takes_newest: bool = True
    filled: bool = True
    failed: Why | None = None
    grown: int = 0
    noise: int = NOISE


@dataclass(frozen=True)
class Fits:
    """The decision to take the next bytes: there is room."""


@dataclass(frozen=True)
class Remove:
    """The decision to remove the version ``key``, measure, and ask again."""

    key: Hashable


@dataclass(frozen=True)
class Fill:
    """The decision to take the bytes piece by piece, as verified.

    Only the removal of the newest complete version could free enough, and only verified bytes justify the
    removal.
    """


@dataclass(frozen=True)
class Postpone:
    """The decision to ask again when more of the reserved bytes are verified."""


@dataclass(frozen=True)
class Refuse:
    """The decision to do without the version: there is no room."""

    why: Why


Decision = Fits | Remove | Fill | Postpone | Refuse


def reserve_of(disk: int) -> int:
    """Return the bytes of a disk to keep free."""
    return min(_GIGABYTE, disk // 100)


def freed_bytes(going: Iterable[Removable]) -> int:
    """Return the bytes freed when all these versions go.

    A file with several names counts once, with the last of its names.
    """
    alone, names = 0, dict[Hashable, int]()
    sizes, needed = dict[Hashable, int](), dict[Hashable, int]()
    for version in going:
        alone += version.alone
        for file, size in version.shared.items():
            names[file] = names.get(file, 0) + 1
            sizes[file], needed[file] = size, version.names[file]
    return alone + sum(size for file, size in sizes.items() if names[file] >= needed[file])


def infeasible_why(need: RoomNeed, available: int, removable: Sequence[Removable]) -> Why | None:
    """Return why a version will not fit, whichever versions go; None where enough could go."""
    if need.lacking <= available:
        return None
    if need.failed:
        return need.failed
    if need.grown > need.noise:
        return Why.OTHERS_FILL
    if available + freed_bytes(v for v in removable if need.takes_newest or not v.newest) >= need.lacking:
        return None
    return (
        Why.TOO_LARGE
        if need.takes_newest or available + freed_bytes(removable) < need.lacking
        else Why.NOT_LISTED
    )


def decide_start(need: RoomNeed, available: int, removable: Sequence[Removable]) -> Fits | Fill | Refuse:
    """Return how to take a version from the first bytes on.

    ``Fill`` means: the newest complete version will have to go for this one.
    """
    if need.lacking <= available:
        return Fits()
    why = infeasible_why(need, available, removable)
    if why is not None:
        return Refuse(why)
    others = freed_bytes(v for v in removable if not v.newest)
    return Fits() if available + others >= need.lacking else Fill()


def decide(need: RoomNeed, available: int, removable: Sequence[Removable]) -> Decision:
    """Return what to do for the next bytes of a version.

    Args:
        need: the space needed by the version.
        available: bytes free to take now.
        removable: versions removable in favour of this one.
    """
    if need.next <= available:
        return Fits()
    why = infeasible_why(need, available, removable)
    if why is not None:
        return Refuse(why)
    going = sorted((v for v in removable if not v.newest), key=lambda v: v.order)
    chosen: list[Removable] = []
    while going and available + freed_bytes(chosen) < need.next:
        chosen.append(going.pop(0))
    if available + freed_bytes(chosen) >= need.next:
        return Remove(_useful(chosen)[0].key)
    newest = next((v for v in removable if v.newest), None)
    if newest is None or not need.takes_newest:
        return Refuse(Why.TOO_LARGE)
    before = [v for v in _useful([*chosen, newest]) if not v.newest]
    if before:
        return Remove(before[0].key)
    if need.whole:
        return Fill()
    return Remove(newest.key) if need.filled else Postpone()


def _useful(chosen: Sequence[Removable]) -> list[Removable]:
    """Return the versions whose removal is needed to free the chosen bytes."""
    total = freed_bytes(chosen)
    return [v for v in chosen if freed_bytes(other for other in chosen if other is not v) < total]


def eviction_order(
    number: int,
    complete: Collection[int],
    *,
    pinned: Collection[int],
    leased: Collection[int],
    read: Collection[int],
    offered: Collection[int],
) -> dict[int, tuple[int, ...]]:
    """Return the complete versions removable in favour of version ``number``, with their ranks.

    These are older versions, neither ``pinned`` nor ``leased``. Versions being ``read`` go late, and versions
    no longer ``offered`` by any upstream go last.
    """
    return {
        other: (COMPLETE, other not in offered, other in read, other)
        for other in complete
        if other < number and other not in pinned and other not in leased
    }
