"""The records of a followed folder: which file is which version of which line."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.file_identity import FileIdentity
from shardcast.nodes.folder_lines import (
    MAX_LINES,
    MAX_NUMBERS,
    Announced,
    FolderLines,
    FollowedLine,
    parse_lines,
)
from shardcast.nodes.output_names import LATEST_LINK, LINES_FILE, UNDER_WAY_LINK, record_path
from shardcast.nodes.output_records import OutputRecord, parse_record
from shardcast.nodes.outputs import OutputFolder, resume_point
from shardcast.protocol.distribution import Listing

ONE, OTHER = "0123abcd", "4567cdef"


def digest_of(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


def payload(number: int, origin: str | None = ONE) -> bytes:
    return f"v{number} of {origin!r}".encode()


def digest(number: int, origin: str | None = ONE) -> str:
    return digest_of(payload(number, origin))


def put(folder: Path, number: int, origin: str | None = ONE, named: int | None = None) -> Path:
    """A version's file without a record, as a client of 0.4.0 or a kill leaves it."""
    path = folder / f"download_v{number if named is None else named}.bin"
    part = folder / "part"
    part.write_bytes(payload(number, origin))
    part.rename(path)
    return path


def receive(outputs: OutputFolder, *numbers: int, origin: str | None = ONE) -> None:
    for number in numbers:
        outputs.record(put(outputs.folder, number, origin), origin, number, digest(number, origin))


def listing(number: int, origin: str | None = ONE) -> Listing:
    return Listing(f"v{number}", digest(number, origin), 1)


def listed(*numbers: int, origin: str | None = ONE) -> dict[int, str]:
    return {number: digest(number, origin) for number in numbers}


@pytest.fixture
def outputs(tmp_path: Path) -> OutputFolder:
    return OutputFolder(tmp_path)


# Files and their records -----------------------------------------------------------------------------


@pytest.mark.parametrize("origin", [ONE, None])
def test_recorded_version_is_known_after_restart(origin: str | None, tmp_path: Path) -> None:
    receive(OutputFolder(tmp_path), 2, 1, origin=origin)
    again = OutputFolder(tmp_path)
    assert again.digests(origin) == listed(1, 2, origin=origin)
    assert again.good_versions(origin) == [
        (number, tmp_path / f"download_v{number}.bin") for number in (1, 2)
    ]
    assert again.unknown_outputs() == []
    assert again.digests(OTHER) == {}


def test_record_does_not_count_when_file_is_replaced(outputs: OutputFolder) -> None:
    receive(outputs, 1)
    put(outputs.folder, 1, OTHER)
    assert outputs.digests(ONE) == {}
    assert outputs.unknown_outputs() == [outputs.folder / "download_v1.bin"]


def test_record_does_not_count_when_file_is_written_to(outputs: OutputFolder) -> None:
    receive(outputs, 1)
    path = outputs.folder / "download_v1.bin"
    before = path.stat()
    path.write_bytes(bytes(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert outputs.digests(ONE) == {}


def test_version_of_another_line_replaces_file_of_same_name(outputs: OutputFolder) -> None:
    receive(outputs, 1, 2)
    receive(outputs, 1, origin=OTHER)
    assert outputs.digests(ONE) == listed(2)
    assert outputs.digests(OTHER) == listed(1, origin=OTHER)


def test_record_is_not_written_when_another_process_replaced_verified_file(outputs: OutputFolder) -> None:
    path = put(outputs.folder, 1)
    verified = path.stat()
    receive(outputs, 1, origin=OTHER)
    outputs.record(path, ONE, 1, digest(1), file=verified)
    assert outputs.digests(ONE) == {}
    assert outputs.digests(OTHER) == listed(1, origin=OTHER)


@pytest.mark.parametrize("first", ["replaced", "replacing"])
def test_output_stays_a_followers_when_another_replaces_it_before_its_record(
    first: str, outputs: OutputFolder
) -> None:
    """A third follower's --keep removed the record of the beginning."""
    other, path = OutputFolder(outputs.folder), outputs.folder / "download_v1.bin"
    outputs.begin(path, ONE, 1)
    record_path(path).unlink()
    made = put(outputs.folder, 1).stat()
    other.begin(path, ONE, 1)
    replacing = put(outputs.folder, 1).stat()
    records = [
        lambda: outputs.record(path, ONE, 1, digest(1), file=made),
        lambda: other.record(path, ONE, 1, digest(1), file=replacing),
    ]
    for record in records if first == "replaced" else reversed(records):
        record()
    known = outputs.scan()[path]
    assert known and known.followed


def test_file_put_in_the_place_of_an_output_is_no_followers(outputs: OutputFolder) -> None:
    path = outputs.folder / "download_v1.bin"
    outputs.begin(path, ONE, 1)
    made = put(outputs.folder, 1).stat()
    put(outputs.folder, 1)  # by another program
    record_path(path).unlink()
    outputs.record(path, ONE, 1, digest(1), file=made)
    outputs.identify([listing(1)], ONE)
    known = outputs.scan()[path]
    assert known and not known.followed


def test_folder_pipe_and_other_names_are_not_outputs(outputs: OutputFolder) -> None:
    (outputs.folder / "download_v1.bin").mkdir()
    os.mkfifo(outputs.folder / "download_v2.bin")
    os.mkfifo(record_path(outputs.folder / "download_v3.bin"))
    for name in ("download_v0.bin", "download_v01.bin", "download_v1.bin.bak", "model.bin"):
        (outputs.folder / name).touch()
    assert outputs.scan() == {}
    put(outputs.folder, 3)
    assert outputs.unknown_outputs() == [outputs.folder / "download_v3.bin"]


def test_missing_folder_has_no_outputs(tmp_path: Path) -> None:
    outputs = OutputFolder(tmp_path / "nowhere")
    assert (outputs.digests(ONE), outputs.unknown_outputs(), outputs.lines.listed(ONE)) == ({}, [], {})
    assert resume_point(outputs, ONE) is None
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\xff", b"{}", b"[]", b"null", b"9" * 4000, b"[" * 4000, b'{"digest": 1}', b"x" * 10_000],
    ids=["empty", "binary", "no-keys", "list", "null", "number", "deep", "types", "long"],
)
def test_garbage_record_is_ignored_with_one_warning(
    garbage: bytes, outputs: OutputFolder, caplog: pytest.LogCaptureFixture
) -> None:
    receive(outputs, 1)
    record_path(outputs.folder / "download_v1.bin").write_bytes(garbage)
    with caplog.at_level(logging.WARNING):
        assert outputs.digests(ONE) == outputs.digests(ONE) == {}
    assert len(caplog.records) == 1
    assert ".download_v1.bin.record" in caplog.text
    receive(outputs, 1)
    assert outputs.digests(ONE) == listed(1)


# Files without a record ------------------------------------------------------------------------------


def test_file_without_record_is_identified_by_digest(outputs: OutputFolder) -> None:
    put(outputs.folder, 1)
    put(outputs.folder, 2, OTHER)
    put(outputs.folder, 7, named=3)
    outputs.identify([listing(1), listing(2), listing(7)], ONE)
    assert outputs.digests(ONE) == listed(1, 7)
    assert outputs.good_versions(ONE)[-1] == (7, outputs.folder / "download_v3.bin")
    assert outputs.unknown_outputs() == [outputs.folder / "download_v2.bin"], "its name proves nothing"


def test_payload_published_twice_is_identified_by_file_name(outputs: OutputFolder) -> None:
    path = put(outputs.folder, 1, named=2)
    twice = [Listing(f"v{number}", digest(1), 1) for number in (1, 2, 3)]
    outputs.identify(twice, ONE)
    assert outputs.good_versions(ONE) == [(2, path)]


def test_file_is_hashed_once_across_restarts(outputs: OutputFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    put(outputs.folder, 1, OTHER)
    outputs.identify([listing(1)], ONE)
    monkeypatch.setattr("shardcast.nodes.outputs.hash_output", lambda *_: pytest.fail("hashed again"))
    again = OutputFolder(outputs.folder)
    again.identify([listing(2)], ONE)
    again.identify([listing(1, OTHER)], OTHER)
    monkeypatch.undo()
    assert again.digests(OTHER) == listed(1, origin=OTHER)


def test_identifying_stops_when_requested(outputs: OutputFolder) -> None:
    put(outputs.folder, 1)
    outputs.identify([listing(1)], ONE, stop=lambda: True)
    assert outputs.digests(ONE) == {}
    outputs.identify([listing(1)], ONE)
    assert outputs.digests(ONE) == listed(1)


# Lines -----------------------------------------------------------------------------------------------


def test_listed_digests_are_remembered_per_line(outputs: OutputFolder) -> None:
    assert outputs.lines.note_listed(ONE, listed(1, 2)) is False
    assert outputs.lines.note_listed(None, listed(1, origin=None)) is False
    assert outputs.lines.note_listed(ONE, listed(3)) is False
    again = OutputFolder(outputs.folder)
    assert again.lines.listed(ONE) == listed(1, 2, 3)
    assert again.lines.listed(None) == listed(1, origin=None)


def test_only_newest_numbers_and_lines_are_remembered(outputs: OutputFolder) -> None:
    outputs.lines.note_listed(ONE, dict.fromkeys(range(1, MAX_NUMBERS + 4), "0" * 64))
    assert set(outputs.lines.listed(ONE)) == set(range(4, MAX_NUMBERS + 4))
    for line in range(MAX_LINES - 1):
        outputs.lines.note_listed(f"line{line}", listed(1))
    assert outputs.lines.listed(ONE)
    outputs.lines.note_listed(ONE, listed(MAX_NUMBERS + 9))
    outputs.lines.note_listed("another", listed(1))
    assert outputs.lines.listed("line0") == {}, "the line that was used first"
    assert outputs.lines.listed(ONE)


def test_restored_directory_is_another_line_under_the_same_id(outputs: OutputFolder) -> None:
    receive(outputs, 1, 3, 4, 6)
    outputs.lines.note_listed(ONE, listed(1, 2, 3, 4, 5, 6))
    outputs.lines.mark_announced(ONE, 6, digest(6))
    assert not outputs.lines.is_new_line(ONE)
    restored = {**listed(1, 2, 3), 4: digest(4, OTHER)}
    assert outputs.lines.note_listed(ONE, restored) is True
    assert outputs.lines.listed(ONE) == restored
    assert outputs.digests(ONE) == listed(1, 3)
    assert outputs.lines.is_new_line(ONE)
    assert [path.name for path in outputs.unknown_outputs()] == ["download_v6.bin", "download_v4.bin"]
    assert outputs.lines.note_listed(ONE, restored) is False
    assert outputs.lines.note_listed(ONE, listed(1, 2, 3, 4, 5, 6)) is True
    outputs.identify(map(listing, range(1, 7)), ONE)
    assert outputs.digests(ONE) == listed(1, 3, 4, 6), "nothing was lost when the directory came back"


def test_line_is_new_after_another_was_announced(outputs: OutputFolder) -> None:
    assert not outputs.lines.is_new_line(ONE), "nothing was announced before"
    outputs.lines.mark_announced(ONE, 1, digest(1))
    assert not outputs.lines.is_new_line(ONE)
    assert outputs.lines.is_new_line(OTHER)
    assert outputs.lines.is_new_line(None)
    again = OutputFolder(outputs.folder)
    assert again.lines.is_new_line(OTHER)
    again.lines.mark_announced(OTHER, 1, digest(1, OTHER))
    assert not again.lines.is_new_line(OTHER)
    assert again.lines.is_new_line(ONE)


def test_second_follower_also_sees_new_line(outputs: OutputFolder) -> None:
    outputs.lines.mark_announced(ONE, 1, digest(1))
    two = [OutputFolder(outputs.folder) for _ in range(2)]
    two[0].lines.mark_announced(OTHER, 1, digest(1, OTHER))
    assert two[1].lines.is_new_line(OTHER)


@pytest.mark.parametrize("garbage", [b"", b"{", b"[1]", b'{"lines": 3}', b'{"lines": [{"seen": {"x": 1}}]}'])
def test_garbage_lines_are_ignored_with_a_warning(
    garbage: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / LINES_FILE).write_bytes(garbage)
    outputs = OutputFolder(tmp_path)
    assert outputs.lines.listed(ONE) == {}
    assert LINES_FILE in caplog.text
    outputs.lines.note_listed(ONE, listed(1))
    assert OutputFolder(tmp_path).lines.listed(ONE) == listed(1)


def test_concurrent_followers_lose_no_listed_digest(outputs: OutputFolder) -> None:
    def follow(start: int) -> None:
        mine = OutputFolder(outputs.folder)
        for number in range(start, start + 40):
            mine.lines.note_listed(ONE, listed(number))

    threads = [threading.Thread(target=follow, args=(start,)) for start in (1, 101, 201)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outputs.lines.listed(ONE)) == 120


# Withdrawals -----------------------------------------------------------------------------------------


def test_withdrawn_version_is_not_good_but_kept(outputs: OutputFolder) -> None:
    receive(outputs, 6, 7)
    assert outputs.lines.mark_withdrawn(ONE, 7, digest(7)) is True
    assert [number for number, _ in OutputFolder(outputs.folder).good_versions(ONE)] == [6]
    assert outputs.digests(ONE) == listed(6, 7)
    assert json.loads(record_path(outputs.folder / "download_v7.bin").read_bytes())["withdrawn"] is True


def test_withdrawal_is_announced_once_even_after_kill(outputs: OutputFolder) -> None:
    assert outputs.lines.mark_withdrawn(ONE, 7, digest(7)) is True
    assert OutputFolder(outputs.folder).lines.mark_withdrawn(ONE, 7, digest(7)) is True
    outputs.lines.mark_withdrawal_told(ONE, 7, digest(7))
    assert OutputFolder(outputs.folder).lines.mark_withdrawn(ONE, 7, digest(7)) is False
    assert outputs.lines.mark_withdrawn(OTHER, 7, digest(7)) is True, "another line's v7"
    assert outputs.lines.mark_withdrawn(ONE, 7, digest(8)) is True, "another v7 of this line"


def test_withdrawal_affects_only_its_line_and_digest(outputs: OutputFolder) -> None:
    receive(outputs, 7)
    outputs.lines.mark_withdrawn(OTHER, 7, digest(7))
    outputs.lines.mark_withdrawn(ONE, 7, digest(7, OTHER))
    assert [number for number, _ in outputs.good_versions(ONE)] == [7]


@pytest.mark.parametrize("how", ["received", "identified"])
def test_version_received_after_its_withdrawal_is_not_good(how: str, outputs: OutputFolder) -> None:
    outputs.lines.mark_withdrawn(ONE, 7, digest(7))
    if how == "received":
        receive(outputs, 7)
    else:
        put(outputs.folder, 7)
        outputs.identify([listing(7)], ONE)
    assert outputs.digests(ONE) == listed(7)
    assert outputs.good_versions(ONE) == []


# Where to go on ---------------------------------------------------------------------------------------


def link(outputs: OutputFolder, name: str, number: int) -> None:
    (outputs.folder / name).symlink_to(f"download_v{number}.bin")


def test_resume_point_is_after_latest_or_at_interrupted_version(outputs: OutputFolder) -> None:
    receive(outputs, 4, 5)
    assert resume_point(outputs, ONE) is None, "nothing was announced"
    link(outputs, LATEST_LINK, 4)
    assert resume_point(outputs, ONE) == 4, "v5 is here, and was not announced"
    link(outputs, UNDER_WAY_LINK, 4)
    assert resume_point(outputs, ONE) == 3


def test_withdrawn_interrupted_version_is_not_announced_again(outputs: OutputFolder) -> None:
    receive(outputs, 3, 7)
    link(outputs, LATEST_LINK, 3)
    link(outputs, UNDER_WAY_LINK, 7)
    assert resume_point(outputs, ONE) == 6
    outputs.lines.mark_withdrawn(ONE, 7, digest(7))
    assert resume_point(outputs, ONE) == 3


def test_resume_point_belongs_to_a_line(outputs: OutputFolder) -> None:
    receive(outputs, 6)
    link(outputs, LATEST_LINK, 6)
    outputs.lines.mark_announced(ONE, 6, digest(6))
    assert resume_point(outputs, OTHER) is None, "its v5 is news"
    receive(outputs, 1, origin=OTHER)
    (outputs.folder / LATEST_LINK).unlink()
    link(outputs, LATEST_LINK, 1)
    outputs.lines.mark_announced(OTHER, 1, digest(1, OTHER))
    assert resume_point(outputs, OTHER) == 1
    assert resume_point(outputs, ONE) == 5, "v6 is announced again when the first line is back"


def test_name_of_unknown_file_is_no_resume_point(outputs: OutputFolder) -> None:
    put(outputs.folder, 6)
    link(outputs, LATEST_LINK, 6)
    assert resume_point(outputs, ONE) is None
    outputs.identify([listing(6)], ONE)
    assert resume_point(outputs, ONE) == 6


def test_link_out_of_the_folder_is_no_resume_point(outputs: OutputFolder, tmp_path: Path) -> None:
    receive(outputs, 6)
    (outputs.folder / LATEST_LINK).symlink_to(tmp_path / "elsewhere" / "download_v6.bin")
    assert resume_point(outputs, ONE) is None


# Bytes -----------------------------------------------------------------------------------------------

DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
NUMBERS = st.integers(1, 10**18 - 1)
ORIGINS = st.none() | st.text(min_size=1, max_size=100)
NOT_RECORDED = st.none(), st.none()  # device and ctime
IDENTITIES = st.builds(
    FileIdentity, st.integers(0, 2**64), st.integers(0, 2**63), st.integers(-(2**63), 2**63), *NOT_RECORDED
)


@given(st.builds(OutputRecord, ORIGINS, st.none() | NUMBERS, DIGESTS, IDENTITIES, st.booleans()))
def test_record_round_trips(record: OutputRecord) -> None:
    assert parse_record(record.encode()) == record


MEMORIES = st.builds(
    FollowedLine,
    ORIGINS,
    st.dictionaries(NUMBERS, DIGESTS, max_size=5),
    st.dictionaries(NUMBERS, DIGESTS, max_size=5),
    st.dictionaries(st.tuples(NUMBERS, DIGESTS), st.booleans(), max_size=5),
)


@given(
    st.builds(
        FolderLines,
        st.lists(MEMORIES, max_size=4),
        st.none() | st.builds(Announced, ORIGINS, NUMBERS, DIGESTS),
    )
)
def test_lines_round_trip(lines: FolderLines) -> None:
    assert parse_lines(lines.encode()) == lines


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["origin", "number", "digest", "size", "inode", "mtime_ns", "withdrawn", "seen", "announced",
                 "lines", "1"]
            ),
            inner,
        )
    ),
    max_leaves=20,
)  # fmt: skip


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_parsers_raise_only_value_error(data: bytes) -> None:
    for parse in (parse_record, parse_lines):
        try:
            parse(data)
        except ValueError:
            pass


# A folder that everybody writes to


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
@pytest.mark.parametrize("planted", ["file", "record", "both"])
def test_file_or_record_of_other_user_is_ignored(
    planted: str, outputs: OutputFolder, caplog: pytest.LogCaptureFixture
) -> None:
    outputs.folder.chmod(0o1777)
    receive(outputs, 1, 2)
    mine, other = outputs.folder / "download_v1.bin", outputs.folder / "download_v2.bin"
    for file in [other] * (planted != "record") + [record_path(other)] * (planted != "file"):
        os.chown(file, 12345, -1)
    again = OutputFolder(outputs.folder)
    assert again.good_versions(ONE) == [(1, mine)]
    assert ("another user wrote it" in caplog.text) is (planted == "record")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_lines_written_by_other_user_are_ignored(outputs: OutputFolder) -> None:
    outputs.folder.chmod(0o1777)
    outputs.lines.note_listed(OTHER, {1: digest(1, OTHER)})
    os.chown(outputs.folder / LINES_FILE, 12345, -1)
    assert OutputFolder(outputs.folder).lines.last_line() == (None, {})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_output_in_group_shared_folder_counts_for_all_members(outputs: OutputFolder) -> None:
    outputs.folder.chmod(0o2775)
    receive(outputs, 1)
    os.chown(outputs.folder / "download_v1.bin", 12345, -1)
    assert [number for number, _ in OutputFolder(outputs.folder).good_versions(ONE)] == [1]
