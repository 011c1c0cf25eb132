"""Forgetting: the snapshots that a policy keeps, and those that can go. Pure; times are the server's.

Only a snapshot older than ``min_age`` can go, and only such snapshots are counted by the rules: however many
a taken-over client makes today, yesterday's stay as long as ``min_age`` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby

from shardcast.errors import UsageError


@dataclass(frozen=True)
class Arrival:
    """A snapshot as the server lists it.

    Attributes:
        id: its id.
        arrived: when the server accepted it, in seconds since 1970 by the server's clock.
        series: the host and the folder; rules count each series by itself.
        tags: what ``backup --tag`` gave it.
    """

    id: str
    arrived: float
    series: tuple[str, bytes]
    tags: AbstractSet[str] = frozenset()


@dataclass(frozen=True)
class KeepRules:
    """Rules that each keep snapshots of a series; what no rule keeps can go.

    Attributes:
        last: the newest so many.
        hourly: the newest of each of so many hours that have a snapshot.
        daily: the same for days.
        weekly: the same for weeks, from Monday.
        monthly: the same for months.
        yearly: the same for years.
        within: all not older than so many seconds than the newest of the series.
        tags: all with one of these tags.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: float = 0
    tags: AbstractSet[str] = frozenset()

    def checked(self) -> KeepRules:
        """Return these rules.

        Raises:
            UsageError: they keep nothing, which is never meant.
        """
        if self == KeepRules():
            raise UsageError("no rule says what to keep; give one, such as --keep-last 7 or --keep-daily 14")
        return self


@dataclass(frozen=True)
class ForgetPlan:
    """What a policy decides.

    Attributes:
        keep: why each kept snapshot stays, oldest first.
        forget: the snapshots that can go, oldest first.
    """

    keep: Mapping[str, Sequence[str]] = field(default_factory=dict)
    forget: Sequence[str] = ()


def plan_forget(
    snapshots: Iterable[Arrival], rules: KeepRules, *, now: float, min_age: float = 0.0
) -> ForgetPlan:
    """Return which snapshots a policy keeps and which it lets go.

    Args:
        snapshots: those of one client.
        rules: of the policy.
        now: the server's time.
        min_age: seconds in which no snapshot goes; one that seems to arrive in the future is young.
    """
    ordered = sorted(snapshots, key=lambda one: (one.series, one.arrived, one.id))
    reasons: dict[str, list[str]] = {one.id: [] for one in sorted(ordered, key=_time)}
    for _, group in groupby(ordered, key=lambda one: one.series):
        series = list(group)
        old = [one for one in series if now - one.arrived >= min_age]
        for one in series[len(old) :]:
            reasons[one.id].append("min-age")
        for one, reason in _kept(old, rules, newest=series[-1].arrived):
            reasons[one.id].append(reason)
    return ForgetPlan(
        keep={name: why for name, why in reasons.items() if why},
        forget=[name for name, why in reasons.items() if not why],
    )


def _time(one: Arrival) -> tuple[float, str]:
    return one.arrived, one.id


_PERIODS: tuple[tuple[str, Callable[[datetime], object]], ...] = (
    ("hourly", lambda at: (at.date(), at.hour)),
    ("daily", lambda at: at.date()),
    ("weekly", lambda at: tuple(at.isocalendar())[:2]),
    ("monthly", lambda at: (at.year, at.month)),
    ("yearly", lambda at: at.year),
)
"""The rules by periods of the calendar in UTC, and the period of a time."""


def _kept(series: Sequence[Arrival], rules: KeepRules, newest: float) -> Iterable[tuple[Arrival, str]]:
    """Yield the snapshots of a series, oldest first, that rules keep, each with the name of a rule."""
    if rules.last:
        yield from ((one, "last") for one in series[-rules.last :])
    for name, period in _PERIODS:
        yield from ((one, name) for one in _newest_of_periods(series, getattr(rules, name), period))
    for one in series:
        if rules.within and newest - one.arrived <= rules.within:
            yield one, "within"
        if one.tags & rules.tags:
            yield one, "tag"


def _newest_of_periods(
    series: Sequence[Arrival], count: int, period: Callable[[datetime], object]
) -> Iterable[Arrival]:
    """Yield the newest snapshot of each of the newest ``count`` periods that have one."""
    seen: set[object] = set()
    for one in reversed(series):
        if len(seen) >= count:
            return
        found = period(datetime.fromtimestamp(one.arrived, UTC))
        if found not in seen:
            seen.add(found)
            yield one
