"""The record of a line: what its authority listed, over restarts, and what follows for versions here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.errors import LocalDiskError
from shardcast.protocol.distribution import Listing, Withdrawal
from shardcast.store.line_record import (
    MAX_REMEMBERED,
    LineRecord,
    LineRecordError,
    parse_record,
    read_record,
)
from tests.support.folders import StoredNode, events_since, receive_version, snapshot
from tests.support.payloads import ORIGIN, PIECE, SHARD, patient, publish, random_bytes, read_shards, sha256

A, B = "a" * 64, "b" * 64
DATA = random_bytes(2 * SHARD + 100)
OTHER = random_bytes(2 * SHARD + 100, seed=2)


def listing(number: int, digest: str = A) -> Listing:
    return Listing(f"v{number}", digest, 1)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[StoredNode]:
    running = StoredNode(tmp_path / "data")
    yield running
    running.stop()


# The record itself


digests = st.sampled_from([A, B, "0123456789abcdef" * 4])
numbers = st.integers(1, 10**18 - 1)
withdrawals = st.builds(
    lambda number, digest, reason: Withdrawal(f"v{number}", digest, reason),
    numbers,
    digests,
    st.text(max_size=600),
)
one_number = st.builds(lambda digest: Withdrawal("v7", digest, "bad"), digests)


@patient
@given(
    st.none() | st.text(min_size=1, max_size=100),
    numbers,
    st.dictionaries(numbers, digests),
    st.lists(withdrawals | one_number),
)
def test_record_round_trips(
    origin: str | None, highest: int, known: dict[int, str], taken_back: list[Withdrawal]
) -> None:
    record = LineRecord(origin, highest, known)
    for one in taken_back:
        record = record.withdrawing(one)
    assert parse_record(record.to_bytes()) == record


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@patient
@given(
    st.binary()
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(
        {"origin": json_values, "highest": json_values, "digests": json_values, "withdrawn": json_values}
    ).map(lambda value: json.dumps(value).encode())
)
def test_garbage_raises_only_record_error(data: bytes) -> None:
    try:
        record = parse_record(data)
    except LineRecordError:
        return
    assert parse_record(record.to_bytes()) == record


@pytest.mark.parametrize(
    "damage",
    [
        {"origin": ""},
        {"origin": "x" * 101},
        {"highest": -1},
        {"highest": True},
        {"highest": 10**18},
        {"digests": []},
        {"digests": {"0": A}},
        {"digests": {"01": A}},
        {"digests": {"1": A.upper()}},
        {"digests": {"²": A}},
        {"superseded": {}},
        {"superseded": [{"version": "x", "digest": A, "reason": ""}]},
        {"withdrawn": {"1": A}},
        {"withdrawn": {"1": {"digest": A}}},
        {"withdrawn": {"1": {"digest": "", "reason": ""}}},
    ],
)
def test_value_out_of_bounds_is_refused(damage: dict[str, object]) -> None:
    good = {"origin": "e1d4", "highest": 1, "digests": {"1": A}, "withdrawn": {}}
    assert parse_record(json.dumps({**good, "mood": 1}).encode()) == LineRecord("e1d4", 1, {1: A})
    with pytest.raises(LineRecordError):
        parse_record(json.dumps({**good, **damage}).encode())


def test_only_highest_thousand_numbers_are_remembered() -> None:
    record = LineRecord().listing(listing(number) for number in range(1, MAX_REMEMBERED + 11))
    assert min(record.digests) == 11
    assert len(record.digests) == MAX_REMEMBERED
    assert record.highest == MAX_REMEMBERED + 10
    assert record.vouches(11, A) and not record.vouches(11, B)
    assert record.vouches(10, B)  # forgotten, so that nothing is known against it
    assert record.listing([listing(1)]) is record


def test_number_keeps_its_first_digest() -> None:
    record = LineRecord().listing([listing(1, A)])
    assert record.listing([listing(1, B)]) is record
    assert record.vouches(1, A) and not record.vouches(1, B)


def test_highest_number_of_the_authority_never_decreases() -> None:
    record = LineRecord().listing([listing(3)], highest=7)
    assert record.highest == 7
    assert record.listing([listing(4)], highest=5).highest == 7  # numbers only grow
    assert record.listing([listing(9)]).highest == 9  # an authority of 0.4.0 tells none


def test_withdrawal_reason_is_one_short_printable_line() -> None:
    record = LineRecord().withdrawing(Withdrawal("v1", A, "bad\n\x1b[31mloss" + "x" * 1000))
    reason = record.withdrawn[1].reason
    assert reason.isprintable() and len(reason) <= 500
    assert record.withdrawing(Withdrawal("v1", A, "another")) is record


def test_number_withdrawn_twice_keeps_both_digests() -> None:
    """Its directory was restored in between."""
    first, second = Withdrawal("v1", A, "one"), Withdrawal("v1", B, "two")
    record = LineRecord().withdrawing(first).withdrawing(second)
    assert record.withdrawn == {1: second}
    for known in (record, parse_record(record.to_bytes())):
        assert known.withdrawal(1, {A}) == first and known.withdrawal(1, {B}) == second
        assert known.withdrawal(2, {A}) is None
    assert record.withdrawing(first).superseded == (second,)


# On the disk


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b'{"origin": 7}'])
def test_damaged_record_fails_start_with_error_naming_it(data: bytes, node: StoredNode) -> None:
    node.start()
    (node.root / ".shardcast" / "line").write_bytes(data)
    with pytest.raises(LocalDiskError, match=r"\.shardcast/line is damaged: .*; remove it"):
        node.start()


def test_oversized_record_is_read_only_up_to_the_bound(tmp_path: Path) -> None:
    file = tmp_path / "line"
    with file.open("wb") as record:
        record.truncate(10**12)
    with pytest.raises(LocalDiskError, match="more than"):
        read_record(file)


async def test_listed_digests_survive_restart_and_retirement(node: StoredNode) -> None:
    folders = node.start()
    await folders.record_listed([listing(1, A), Listing("v2", sha256(DATA), 3)], 5)
    await receive_version(folders, DATA, "v2")
    await folders.retire(2)
    line = node.start().line
    assert (line.highest, line.digests) == (5, {1: A, 2: sha256(DATA)})


async def test_record_is_written_only_on_change(node: StoredNode) -> None:
    folders, file = node.start(), node.root / ".shardcast" / "line"
    await folders.record_listed([listing(1)], 1)
    before = file.stat()
    await folders.record_listed([listing(1)], 1)
    await folders.record_listed([listing(1, B)], 0)
    assert file.stat().st_ino == before.st_ino
    await folders.record_listed([], 2)
    assert file.stat().st_ino != before.st_ino


async def test_origin_records_completed_versions(node: StoredNode) -> None:
    folders = node.start("origin", keep=1)
    await publish(folders, DATA, origin=ORIGIN)
    await publish(folders, OTHER, origin=ORIGIN)
    folders.data_dir.allot()  # given, and nothing came of it
    line = node.start("origin").line
    assert line == LineRecord(folders.data_dir.origin_id, 3, {1: sha256(DATA), 2: sha256(OTHER)})
    assert node.start("origin").provisional == set()


# Directories of an earlier shardcast


async def test_middle_without_record_creates_one_from_its_versions(node: StoredNode) -> None:
    folders = node.start()
    await receive_version(folders, OTHER, "v2", origin="0d" * 16)
    await receive_version(folders, DATA, "v3")
    (node.root / ".shardcast" / "line").unlink()
    folders = node.start()
    assert folders.line == LineRecord(ORIGIN, 3, {2: sha256(OTHER), 3: sha256(DATA)})
    assert folders.provisional == set()


async def test_origin_without_record_keeps_its_id(node: StoredNode) -> None:
    folders = node.start("origin")
    folders.data_dir.allot()
    (node.root / ".shardcast" / "line").unlink()
    assert node.start("origin").line == LineRecord(folders.data_dir.origin_id, 1)
    assert node.warnings == []


@pytest.mark.parametrize("recorded", [False, True])
async def test_origin_continues_line_of_former_middle_directory(recorded: bool, node: StoredNode) -> None:
    folders = node.start()
    await folders.record_listed([Listing("v3", sha256(DATA), 3)], 9)
    await receive_version(folders, DATA, "v3")
    if not recorded:
        (node.root / ".shardcast" / "line").unlink()
    folders = node.start("origin")
    assert folders.data_dir.origin_id == folders.line.origin == ORIGIN
    assert any(ORIGIN in line for line in node.warnings)
    assert await publish(folders, OTHER, origin=ORIGIN) == ("v10" if recorded else "v4")
    again = node.start("origin")
    assert again.data_dir.origin_id == ORIGIN
    assert node.warnings == []


async def test_versions_published_by_0_4_0_are_added_to_origin_record(node: StoredNode) -> None:
    await publish(node.start("origin"), DATA)
    before = (node.root / ".shardcast" / "line").read_bytes()
    await publish(node.start("origin"), OTHER)
    (node.root / ".shardcast" / "line").write_bytes(before)
    line = node.start("origin").line
    assert (line.highest, set(line.digests)) == (2, {1, 2})


# Provisional versions


async def test_version_not_listed_by_authority_is_provisional(node: StoredNode) -> None:
    folders = node.start()
    await folders.record_listed([Listing("v1", sha256(DATA), 3)], 1)
    await receive_version(folders, DATA, "v1")
    await receive_version(folders, OTHER, "v2")
    assert folders.provisional == {2}
    assert node.start().provisional == {2}


async def test_provisional_versions_retire_only_each_other(node: StoredNode) -> None:
    folders = node.start(keep=2)
    firm = [random_bytes(50, seed=number) for number in range(1, 4)]
    await folders.record_listed(
        [Listing(f"v{number}", sha256(data), 1) for number, data in enumerate(firm, 1)]
    )
    for number in (1, 2):
        await receive_version(folders, firm[number - 1], f"v{number}")
    for number in range(50, 54):
        await receive_version(folders, random_bytes(50, seed=number), f"v{number}")
    assert node.listed == ["v1", "v2", "v52", "v53"]
    await receive_version(folders, firm[2], "v3")
    assert node.listed == ["v2", "v3", "v52", "v53"]


async def test_provisional_version_evicts_only_provisional_versions(node: StoredNode) -> None:
    folders = node.start(max_bytes=5 * PIECE)
    one, two = random_bytes(2 * PIECE, seed=1), random_bytes(2 * PIECE, seed=2)
    await folders.record_listed([Listing("v1", sha256(one), 1), Listing("v2", sha256(two), 1)])
    await receive_version(folders, one, "v1")
    await receive_version(folders, two, "v2")
    big = random_bytes(2 * PIECE, seed=3)
    with pytest.raises(LocalDiskError, match="no room for v9"):
        await receive_version(folders, big, "v9")
    await folders.discard(9)
    assert node.listed == ["v1", "v2"]
    await receive_version(folders, big[:PIECE], "v8")
    await receive_version(folders, big[1:PIECE], "v9")  # takes the room of the other provisional one
    assert node.listed == ["v1", "v2", "v9"]
    await folders.record_listed([Listing("v10", sha256(big), 1)])
    await receive_version(folders, big, "v10")
    assert "v1" not in node.listed and "v10" in node.listed


# Off the list, and back


@pytest.mark.parametrize("restart", [False, True])
async def test_unlisted_version_is_hidden_and_not_fetched_again(restart: bool, node: StoredNode) -> None:
    folders = node.start()
    await receive_version(folders, DATA, "v2")
    seq = folders.events.seq
    await folders.unlist(2)
    assert events_since(folders, seq) == ["retired v2"]
    if restart:
        folders = node.start()
    assert node.listed == [] and snapshot(folders) == [] and folders.open_numbers == set()
    assert folders.hidden_numbers == {2}
    if restart:  # the authority is silent again, and another server speaks for it
        assert await receive_version(folders, DATA, "v2") == 0
        assert node.listed == ["v2"] and folders.provisional == {2}
        await folders.unlist(2)
    await folders.record_listed([Listing("v2", sha256(DATA), 3)], 2)
    assert node.listed == ["v2"] and snapshot(folders) == ["complete v2"]
    assert folders.hidden_numbers == set() and folders.opened(2) is None
    assert read_shards(node.root / "v2") == DATA


async def test_version_listed_by_authority_cannot_be_unlisted(node: StoredNode) -> None:
    folders = node.start()
    await folders.record_listed([Listing("v2", sha256(DATA), 3)], 2)
    await receive_version(folders, DATA, "v2")
    await folders.unlist(2)
    assert node.listed == ["v2"]


async def test_authority_digest_replaces_unlisted_version(node: StoredNode) -> None:
    folders = node.start()
    await receive_version(folders, OTHER, "v2")
    await folders.unlist(2)
    await folders.record_listed([Listing("v2", sha256(DATA), 3)], 2)
    assert node.listed == []
    await receive_version(folders, DATA, "v2")
    assert node.listed == ["v2"] and read_shards(node.root / "v2") == DATA


async def test_unlisted_version_missing_a_shard_is_open_once_listed(
    node: StoredNode,
) -> None:
    folders = node.start()
    await receive_version(folders, DATA, "v2")
    next((node.root / "v2").glob("*1.bin")).unlink()
    await folders.unlist(2)
    await folders.record_listed([Listing("v2", sha256(DATA), 3)], 2)
    assert node.listed == [] and snapshot(folders) == ["open v2"] and folders.hidden_numbers == set()
    assert 0 < await receive_version(folders, DATA, "v2") < len(DATA)
    assert node.listed == ["v2"] and read_shards(node.root / "v2") == DATA


async def test_unlisted_versions_are_removed_by_age_and_for_room(node: StoredNode) -> None:
    folders = node.start(keep=1, max_bytes=4 * PIECE)
    await receive_version(folders, random_bytes(100, seed=1), "v1")
    await folders.unlist(1)
    small, large = random_bytes(100, seed=2), random_bytes(3 * PIECE, seed=4)
    await folders.record_listed([Listing("v2", sha256(small), 1), Listing("v4", sha256(large), 1)])
    await receive_version(folders, small, "v2")
    assert folders.hidden_numbers == set() and not (node.root / "v1").exists()
    await receive_version(folders, random_bytes(100, seed=3), "v3")
    await folders.unlist(3)
    assert folders.hidden_numbers == {3}
    await receive_version(folders, large, "v4")
    assert folders.hidden_numbers == set() and not (node.root / "v3").exists()


# What the authority lists and is not here


async def test_known_versions_are_announced_until_they_are_opened(node: StoredNode) -> None:
    folders = node.start()
    one, two = Listing("v1", sha256(DATA), 3), listing(2)
    folders.set_known({1: one, 2: two})
    folders.set_known({1: one, 2: two})
    assert events_since(folders, 0) == ["known v1", "known v2"]
    assert snapshot(folders) == ["known v1", "known v2"]
    await folders.record_listed([one, two], 2)
    seq = folders.events.seq
    await receive_version(folders, DATA, "v1")
    assert events_since(folders, seq) == ["open v1", "complete v1"]
    assert snapshot(folders) == ["complete v1", "known v2"]
    seq = folders.events.seq
    folders.set_known({1: one})
    assert events_since(folders, seq) == ["retired v2"]
    assert snapshot(folders) == ["complete v1"]
    folders.set_known({3: listing(3, A)})
    folders.set_known({3: listing(3, B)})
    assert events_since(folders, seq) == ["retired v2", "known v3", "known v3"]
