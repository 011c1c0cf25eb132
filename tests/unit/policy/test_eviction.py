"""Which versions go for a newer one: the rules, and a model of a disk on which they are carried out."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from shardcast.policy.eviction import (
    COMPLETE,
    FIRST,
    NOISE,
    Decision,
    Fill,
    Fits,
    Postpone,
    Refuse,
    Removable,
    Remove,
    RoomNeed,
    Why,
    decide,
    decide_start,
    eviction_order,
    freed_bytes,
    infeasible_why,
    reserve_of,
)
from tests.support.payloads import patient

OLD = [
    Removable(1, (COMPLETE, 1), 10),
    Removable(2, (COMPLETE, 2), 20),
    Removable(3, (COMPLETE, 3), 30, newest=True),
]


def test_reserve_is_one_percent_of_disk_up_to_one_gigabyte() -> None:
    assert reserve_of(60_000_000) == 600_000
    assert reserve_of(100_000_000_000) == reserve_of(10**15) == 1_000_000_000


# What goes, and in which order


def test_nothing_is_removed_when_it_fits() -> None:
    assert decide(RoomNeed(10, 100), 10, OLD) == Fits()


def test_oldest_version_is_removed_first_one_at_a_time() -> None:
    assert decide(RoomNeed(11, 11), 10, OLD) == Remove(1)
    assert decide(RoomNeed(30, 30), 10, OLD) == Remove(1)  # and then the second
    assert decide(RoomNeed(30, 30), 20, OLD[1:]) == Remove(2)


def test_eviction_order_is_set_aside_then_unread_then_read_then_unoffered() -> None:
    order = eviction_order(
        9, complete=[1, 2, 3, 4, 5, 9, 10], pinned=[2], leased=[4], read=[1, 3], offered=[1, 5]
    )
    assert sorted(order, key=order.__getitem__) == [5, 1, 3]
    assert min(order.values()) > (FIRST, 100)
    unread = eviction_order(9, complete=[1, 2, 3], pinned=[], leased=[], read=[2], offered=[2, 3])
    assert sorted(unread, key=unread.__getitem__) == [3, 2, 1]


def test_nothing_is_removed_for_too_large_version() -> None:
    assert decide(RoomNeed(11, 71), 10, OLD) == Refuse(Why.TOO_LARGE)
    assert decide(RoomNeed(11, 70), 10, OLD) == Remove(1)


def test_newest_is_removed_last_and_only_for_version_filling_the_disk() -> None:
    need = RoomNeed(20, 40, whole=False)
    assert decide(need, 0, OLD) == Remove(1)
    assert decide(need, 10, OLD[1:]) == Remove(2)
    assert decide(RoomNeed(20, 20, whole=False), 10, OLD[2:]) == Remove(3)
    assert decide(RoomNeed(20, 20, whole=False, filled=False), 10, OLD[2:]) == Postpone()
    assert decide(RoomNeed(20, 20), 10, OLD[2:]) == Fill()
    assert decide(RoomNeed(20, 20, takes_newest=False), 10, OLD[2:]) == Refuse(Why.NOT_LISTED)


def test_begin_decides_how_room_is_made_before_first_byte() -> None:
    assert decide_start(RoomNeed(5, 10), 10, OLD) == Fits()
    assert decide_start(RoomNeed(5, 40), 10, OLD) == Fits()  # older ones are enough
    assert decide_start(RoomNeed(5, 41), 10, OLD) == Fill()
    assert decide_start(RoomNeed(5, 71), 10, OLD) == Refuse(Why.TOO_LARGE)
    assert decide_start(RoomNeed(5, 41, takes_newest=False), 10, OLD) == Refuse(Why.NOT_LISTED)


def test_previously_failed_version_takes_only_free_space() -> None:
    for why in (Why.FAILED_BEFORE, Why.OTHERS_FILL):
        assert decide(RoomNeed(11, 11, failed=why), 10, OLD) == Refuse(why)
        assert decide_start(RoomNeed(1, 11, failed=why), 10, OLD) == Refuse(why)
        assert decide(RoomNeed(10, 10, failed=why), 10, OLD) == Fits()
        assert infeasible_why(RoomNeed(10, 10, failed=why), 10, OLD) is None


def test_nothing_is_removed_when_other_programs_fill_the_disk() -> None:
    assert decide(RoomNeed(11, 11, grown=NOISE + 1), 10, OLD) == Refuse(Why.OTHERS_FILL)
    assert decide(RoomNeed(11, 11, grown=NOISE), 10, OLD) == Remove(1)
    assert decide(RoomNeed(11, 11, grown=NOISE + 1, noise=NOISE + 1), 10, OLD) == Remove(1)


# Only what comes free counts


def shared(key: int, alone: int, files: dict[str, int], names: int, newest: bool = False) -> Removable:
    return Removable(key, (COMPLETE, key), alone, files, dict.fromkeys(files, names), newest)


def test_hard_linked_file_is_freed_with_its_last_name() -> None:
    one, two = shared(1, 5, {"x": 50}, 2), shared(2, 5, {"x": 50}, 2)
    assert freed_bytes([one]) == freed_bytes([two]) == 5
    assert freed_bytes([one, two]) == 60
    assert (
        freed_bytes([shared(1, 5, {"x": 50}, 3), shared(2, 5, {"x": 50}, 3)]) == 10
    )  # the third is elsewhere


def test_version_freeing_nothing_is_not_removed() -> None:
    held = Removable(1, (COMPLETE, 1), 0)
    assert decide(RoomNeed(20, 20), 5, [held, *OLD[1:]]) == Remove(2)
    assert decide(RoomNeed(20, 20), 5, [held]) == Refuse(Why.TOO_LARGE)
    pair = [shared(1, 0, {"x": 50}, 2), shared(2, 0, {"x": 50}, 2)]
    assert decide(RoomNeed(20, 20), 5, pair) == Remove(1)  # since the other one goes next


# A model


@dataclass
class Version:
    files: dict[int, int]
    pinned: bool = False
    leased: bool = False
    read: bool = False
    offered: bool = True
    held: set[int] = field(default_factory=set)
    """Files that somebody has open."""


@dataclass
class Disk:
    """A disk with versions on it, whose files may have several names, some of them elsewhere."""

    versions: dict[int, Version]
    elsewhere: set[int]
    room: int
    ballast: int = 0
    lost: int = 0
    """Bytes of removed files that somebody still has open."""

    @property
    def free(self) -> int:
        files: dict[int, int] = {}
        for version in self.versions.values():
            files.update(version.files)
        return self.room - sum(files.values()) - self.ballast - self.lost

    def remove(self, number: int) -> None:
        gone = self.versions.pop(number)
        for file, size in gone.files.items():
            left = any(file in one.files for one in self.versions.values())
            if not left and (file in gone.held or file in self.elsewhere):
                self.lost += size

    def facts(self, number: int) -> list[Removable]:
        def chosen(kind: str) -> set[int]:
            return {one for one, version in self.versions.items() if getattr(version, kind)}

        pinned, leased, read, offered = map(chosen, ("pinned", "leased", "read", "offered"))
        order = eviction_order(
            number, self.versions, pinned=pinned, leased=leased, read=read, offered=offered
        )
        newest = max(self.versions, default=0)  # the last one may have gone
        facts = []
        for one, rank in order.items():
            names = {
                file: sum(file in other.files for other in self.versions.values()) + (file in self.elsewhere)
                for file in self.versions[one].files
            }
            free = {
                f: size for f, size in self.versions[one].files.items() if f not in self.versions[one].held
            }
            alone = sum(size for file, size in free.items() if names[file] == 1)
            several = {file: size for file, size in free.items() if names[file] > 1}
            facts.append(Removable(one, rank, alone, several, {f: names[f] for f in several}, one == newest))
        return facts


versions = st.builds(
    Version,
    st.dictionaries(st.integers(1, 12), st.just(10), max_size=4),
    *(st.sampled_from([False, False, False, True]) for _ in range(3)),
    st.sampled_from([True, True, False]),
)
disks = st.builds(
    Disk,
    st.dictionaries(st.integers(1, 9), versions, min_size=1),
    st.sets(st.integers(1, 12), max_size=2),
    st.integers(150, 250),
)


@patient
@given(
    disks,
    st.integers(2, 12),
    st.integers(1, 150),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 30)), max_size=4),
    st.data(),
)
def test_eviction_rules_hold_at_every_step_of_disk_model(
    disk: Disk,
    number: int,
    size: int,
    listed: bool,
    failed: bool,
    whole: bool,
    strangers: list[tuple[int, int]],
    data: st.DataObject,
) -> None:
    """A version comes in small parts; meanwhile others write, and files are held open."""
    for version in disk.versions.values():
        version.held = data.draw(st.sets(st.sampled_from(sorted(version.files)))) if version.files else set()
    before = dict(disk.versions)
    began, got, gone = disk.ballast, 0, []
    part = size if whole else 7
    decision: Decision = Fits()
    while got < size:
        if strangers and got >= strangers[0][0]:
            disk.ballast += min(strangers.pop(0)[1], max(0, disk.free - got))
        need = RoomNeed(
            next=min(part, size - got),
            lacking=size - got if listed else min(part, size - got),
            whole=whole and part == size,
            takes_newest=listed,
            failed=Why.FAILED_BEFORE if failed else None,
            grown=disk.ballast - began,
            noise=5,
        )
        available, facts = disk.free - got, disk.facts(number)
        decision = decide(need, available, facts)
        if isinstance(decision, Fits):
            assert need.next <= available
            got += need.next
            continue
        assert need.next > available
        if isinstance(decision, Fill):
            assert whole and listed
            part, whole = 7, False
            continue
        if isinstance(decision, Refuse):
            allowed = freed_bytes(fact for fact in facts if listed or not fact.newest)
            enough = available + allowed >= need.lacking
            assert enough == (decision.why in (Why.FAILED_BEFORE, Why.OTHERS_FILL)) or not enough
            break
        assert isinstance(decision, Remove)
        # Nothing goes but what may, and only where all that may go is enough.
        one = decision.key
        assert isinstance(one, int)
        chosen = next(fact for fact in facts if fact.key == one)
        assert one < number and not disk.versions[one].pinned and not disk.versions[one].leased
        assert not failed and disk.ballast - began <= 5
        assert available + freed_bytes(fact for fact in facts if listed or not fact.newest) >= need.lacking
        # What comes before it in the order would free nothing; the newest comes after all, when nothing fits.
        earlier = [fact for fact in facts if not fact.newest and (chosen.newest or fact.order < chosen.order)]
        for fact in earlier:
            assert freed_bytes([*earlier, chosen]) == freed_bytes(
                [chosen, *(one for one in earlier if one is not fact)]
            )
        assert not chosen.newest or (listed and not need.whole)
        disk.remove(one)
        gone.append(one)
    assert not isinstance(decision, Postpone)
    assert all(before[one].pinned is False and before[one].leased is False for one in gone)
