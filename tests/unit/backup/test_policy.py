"""The policy of forgetting, against a plain model of each of its rules."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.backup.policy import Arrival, KeepRules, plan_forget
from shardcast.errors import UsageError

_NOW = datetime(2026, 11, 29, 12, tzinfo=UTC).timestamp()
_DAY = 86400
_WORK = ("host", b"/home/work")

arrivals = st.lists(
    st.builds(
        lambda number, ago, folder, tags: (number, _NOW - ago, folder, tags),
        st.integers(0, 10**9),
        st.one_of(st.integers(-_DAY, 400 * _DAY), st.integers(0, 30).map(lambda days: days * _DAY)),
        st.sampled_from([b"/a", b"/b"]),
        st.frozensets(st.sampled_from(["x", "y"])),
    ),
    max_size=60,
    unique_by=lambda values: values[0],
).map(lambda many: [Arrival(f"{n:016x}", at, ("host", folder), tags) for n, at, folder, tags in many])

small = st.integers(0, 6)
rules = st.builds(
    KeepRules,
    last=small,
    hourly=small,
    daily=small,
    weekly=small,
    monthly=small,
    yearly=small,
    within=st.sampled_from([0, 3600, 10 * _DAY]),
    tags=st.frozensets(st.sampled_from(["x", "z"])),
)

_FORMATS = {
    "hourly": "%Y-%m-%d %H",
    "daily": "%Y-%m-%d",
    "weekly": "%G-%V",
    "monthly": "%Y-%m",
    "yearly": "%Y",
}


def _model(snapshots: list[Arrival], rules: KeepRules, min_age: float) -> set[str]:
    """Return the ids that stay: rule by rule, snapshot by snapshot, without any order made use of."""
    stay = set()
    for one in snapshots:
        series = [other for other in snapshots if other.series == one.series]
        old = [other for other in series if _NOW - other.arrived >= min_age]
        if one not in old:
            stay.add(one.id)
            continue
        newer = [other for other in old if (other.arrived, other.id) > (one.arrived, one.id)]
        if len(newer) < rules.last or one.tags & rules.tags:
            stay.add(one.id)
        if rules.within and max(other.arrived for other in series) - one.arrived <= rules.within:
            stay.add(one.id)
        for name, shape in _FORMATS.items():
            labels = [datetime.fromtimestamp(other.arrived, UTC).strftime(shape) for other in newer]
            label = datetime.fromtimestamp(one.arrived, UTC).strftime(shape)
            if label not in labels and len(set(labels)) < getattr(rules, name):
                stay.add(one.id)
    return stay


@given(arrivals, rules, st.sampled_from([0.0, 3600.0, 20.0 * _DAY]))
def test_policy_keeps_what_the_model_keeps(
    snapshots: list[Arrival], rules: KeepRules, min_age: float
) -> None:
    plan = plan_forget(snapshots, rules, now=_NOW, min_age=min_age)
    assert set(plan.keep) == _model(snapshots, rules, min_age)
    assert sorted([*plan.keep, *plan.forget]) == sorted(one.id for one in snapshots)
    assert all(plan.keep.values())


@given(arrivals, rules, st.integers(1, 50))
def test_new_snapshots_push_out_no_old_ones_inside_min_age(
    snapshots: list[Arrival], rules: KeepRules, count: int
) -> None:
    min_age = 2.0 * _DAY
    rules = KeepRules(**{**rules.__dict__, "within": 0})
    flood = [Arrival(f"flood{n}", _NOW - n, ("host", b"/a")) for n in range(count)]
    calm = plan_forget(snapshots, rules, now=_NOW, min_age=min_age)
    flooded = plan_forget([*snapshots, *flood], rules, now=_NOW, min_age=min_age)
    assert set(calm.keep) <= set(flooded.keep)
    assert {one.id for one in flood} <= set(flooded.keep)


def test_kept_snapshots_say_why() -> None:
    plan = plan_forget(
        [Arrival("old", _NOW - 9 * _DAY, _WORK), Arrival("new", _NOW, _WORK, frozenset({"x"}))],
        KeepRules(last=1, tags=frozenset({"x"})),
        now=_NOW,
    )
    assert plan.keep == {"new": ["last", "tag"]}
    assert plan.forget == ["old"]


def test_rules_that_keep_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match="--keep-last"):
        KeepRules().checked()
