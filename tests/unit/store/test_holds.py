"""What keeps a version beyond its time: readers, leases and pins, by a clock that the test turns."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardcast.constants import LONGEST_HOLD, RECENTLY_READ
from shardcast.store.data_dir import DataDir
from shardcast.store.holds import LEASE, PIN, READ, Hold, Holds
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.versions import VersionFolders
from tests.support.payloads import manifest, publish, random_bytes


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def holds(clock: Clock) -> Holds:
    return Holds(clock)


@pytest.fixture
def folders(clock: Clock, tmp_path: Path) -> Iterator[VersionFolders]:
    held = DataDir(tmp_path / "data", "origin")
    folders = VersionFolders(held, keep=1, clock=clock)
    folders.load(False)
    yield folders
    held.close()


# How long ------------------------------------------------------------------------------------------


def test_unread_version_has_no_holds(holds: Holds) -> None:
    assert holds.retirable([1]) == [1]
    assert holds.recently_read() == set()
    assert holds.holds_on(1) == []


@pytest.mark.parametrize("kind", [READ, LEASE])
def test_active_hold_delays_retirement_by_ten_minutes_at_most(kind: str, holds: Holds, clock: Clock) -> None:
    with holds.held(1, kind, "somebody"):
        clock.now += 10 * LONGEST_HOLD  # as long as nothing newer takes its place it costs nothing
        assert holds.retirable([]) == []
        assert holds.retirable([1]) == []
        clock.now += LONGEST_HOLD - 0.1
        assert holds.retirable([1]) == []
        clock.now += 0.1
        assert holds.retirable([1]) == [1]


def test_finished_read_holds_version_for_a_minute(holds: Holds, clock: Clock) -> None:
    with holds.held(1, READ, "somebody"):
        clock.now += 1000
    assert holds.recently_read() == {1}
    clock.now += RECENTLY_READ - 0.1
    assert holds.retirable([1]) == []
    assert holds.recently_read() == {1}
    clock.now += 0.1
    assert holds.retirable([1]) == [1]
    assert holds.recently_read() == set()


def test_lease_ends_with_its_holder(holds: Holds) -> None:
    with holds.held(1, LEASE, "somebody"):
        assert holds.retirable([1]) == []
        assert holds.recently_read() == {1}
    assert holds.retirable([1]) == [1]
    assert holds.recently_read() == set()


def test_released_hold_does_not_affect_other_holds(holds: Holds) -> None:
    with holds.held(1, LEASE, "one"):
        with holds.held(1, LEASE, "another"), holds.held(1, READ, "a third"):
            pass
        assert holds.retirable([1]) == []
        assert [one.owner for one in holds.holds_on(1)] == ["one"]


def test_new_reader_does_not_restart_the_ten_minutes(holds: Holds, clock: Clock) -> None:
    for _ in range(int(LONGEST_HOLD // 30)):
        assert holds.retirable([1]) == [] or clock.now == 1000.0
        with holds.held(1, LEASE, "one of many"), holds.held(1, READ, "one of many"):
            clock.now += 30
    assert holds.retirable([1]) == [1]


def test_ten_minutes_restart_when_version_is_retained_again(holds: Holds, clock: Clock) -> None:
    with holds.held(1, LEASE, "somebody"):
        assert holds.retirable([1]) == []
        clock.now += LONGEST_HOLD - 1
        assert holds.retirable([]) == []
        clock.now += 2
        assert holds.retirable([1]) == []


def test_pinned_version_is_never_retirable(holds: Holds, clock: Clock) -> None:
    holds.pinned.add(1)
    with holds.held(1, LEASE, "somebody"):
        assert holds.retirable([1, 2]) == [2]
        clock.now += 100 * LONGEST_HOLD
        assert holds.retirable([1, 2]) == [2]


# What is said of it --------------------------------------------------------------------------------


def test_holds_report_kind_holder_and_seconds_left(holds: Holds, clock: Clock) -> None:
    holds.pinned.add(1)
    with holds.held(1, READ, "10.0.0.1"), holds.held(1, LEASE, "10.0.0.2 (rack7)"):
        assert holds.holds_on(1) == [
            Hold(PIN, "this machine", None),
            Hold(READ, "10.0.0.1", None),
            Hold(LEASE, "10.0.0.2 (rack7)", None),
        ]
        holds.pinned.clear()
        holds.retirable([1])
        clock.now += 100
        left = LONGEST_HOLD - 100
        assert holds.holds_on(1) == [Hold(READ, "10.0.0.1", left), Hold(LEASE, "10.0.0.2 (rack7)", left)]


def test_recent_read_reports_seconds_left_of_its_minute(holds: Holds, clock: Clock) -> None:
    with holds.held(1, READ, "10.0.0.1"):
        pass
    clock.now += 20
    (hold,) = holds.holds_on(1)
    assert (hold.kind, hold.seconds) == (READ, RECENTLY_READ - 20)
    assert "10.0.0.1" not in hold.owner
    clock.now += RECENTLY_READ - 20
    assert holds.holds_on(1) == []


def test_recent_read_hold_is_capped_by_the_ten_minutes(holds: Holds, clock: Clock) -> None:
    holds.retirable([1])
    clock.now += LONGEST_HOLD - 10
    with holds.held(1, READ, "somebody"):
        pass
    assert [one.seconds for one in holds.holds_on(1)] == [10]


def test_seconds_left_are_never_negative(holds: Holds, clock: Clock) -> None:
    with holds.held(1, LEASE, "somebody"):
        holds.retirable([1])
        clock.now += LONGEST_HOLD + 3  # nobody has looked at it yet
        assert [one.seconds for one in holds.holds_on(1)] == [0]


def test_sent_bytes_are_counted_during_and_after_a_read(holds: Holds, clock: Clock) -> None:
    assert (holds.sent(1), holds.rate(1)) == (0, 0)
    with holds.held(1, READ, "one") as one:
        clock.now += 3
        with holds.held(1, READ, "another") as another:
            clock.now += 2
            one.sent += 10
            another.sent += 5
            assert (holds.sent(1), holds.rate(1)) == (15, 10 / 5 + 5 / 2)
    assert (holds.sent(1), holds.rate(1)) == (15, 0)
    assert holds.sent(2) == 0


# Nothing is left -----------------------------------------------------------------------------------


def objects() -> int:
    """How many objects this process has."""
    gc.collect()
    return len(gc.get_objects())


def test_queries_of_missing_versions_keep_no_memory(holds: Holds) -> None:
    before = objects()
    for number in range(1, 10_000):
        assert holds.holds_on(number) == []
        assert holds.sent(number) == 0
    assert objects() - before < 1000


async def test_leases_on_100000_missing_versions_keep_no_memory(folders: VersionFolders) -> None:
    await publish(folders, b"one")
    before = objects()
    for number in range(2, 100_000):
        with folders.reading(f"v{number}", "somebody"), folders.leased(f"v{number}", "somebody") as leased:
            assert not leased
    for nonsense in ("", "v0", "v01", "v-1", "latest", "v1/..", "v" + "9" * 40):
        with folders.reading(nonsense, "somebody"), folders.leased(nonsense, "somebody") as leased:
            assert not leased
    assert objects() - before < 1000


async def test_retired_versions_keep_no_hold_state(folders: VersionFolders, clock: Clock) -> None:
    for number in range(1, 6):
        await publish(folders, b"payload")
        with folders.reading(f"v{number}", "somebody") as reader, folders.leased(f"v{number}", "somebody"):
            reader.sent += 10**number
        clock.now += RECENTLY_READ
    await folders.tidy()
    assert folders.complete_numbers == {5}
    assert folders.holds.sent_in_all() == folders.holds.sent(5) == 10**5


async def test_discarded_version_keeps_no_holds(folders: VersionFolders) -> None:
    made = manifest(random_bytes(1000), "v7")
    await folders.begin_version(7, LiveManifest.of(made))
    with folders.leased("v7", "somebody") as leased, folders.reading("v7", "somebody") as reader:
        assert leased
        reader.sent += 10
        await folders.discard(7)
        assert not folders.has("v7")
    assert (folders.holds.sent_in_all(), folders.holds.holds_on(7)) == (0, [])


async def test_lease_on_open_version_holds_it_after_completion(folders: VersionFolders, clock: Clock) -> None:
    opened = folders.open(folders.data_dir.allot())
    with contextlib.ExitStack() as holder:
        assert holder.enter_context(folders.leased("v1", "somebody"))
        made = manifest(b"one", "v1")
        opened.files.part(1).write_bytes(b"one")
        opened.files.commit_shard(1, made.shards[0].sha256)
        await opened.complete(made)
        await publish(folders, b"two")
        assert folders.complete_numbers == {1, 2}
        assert [one.kind for one in folders.holds.holds_on(1)] == [LEASE]
    await folders.tidy()
    assert folders.complete_numbers == {2}
