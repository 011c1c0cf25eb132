"""The record of files that were published without a copy: read strictly, and damaged lines are no file's."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.file_identity import FileIdentity
from shardcast.protocol.manifest import Shard
from shardcast.store.linked_files import LinkedFile, LinkedFiles, linked_name, linked_number

identities = st.builds(
    lambda *numbers: FileIdentity(*numbers),
    st.integers(1, 2**64 - 1),
    st.integers(0, 2**62),
    st.integers(-(2**62), 2**62),
)


def shards(*sizes: int) -> list[Shard]:
    offsets = [sum(sizes[:number]) for number in range(len(sizes))]
    return [Shard(number, offset, size, "0" * 64, b"") for number, (offset, size) in enumerate(
        zip(offsets, sizes, strict=True), 1)]  # fmt: skip


@given(found=st.dictionaries(st.integers(1, 10**6), identities, min_size=1, max_size=5))
def test_record_of_parts_comes_back(
    tmp_path_factory: pytest.TempPathFactory, found: dict[int, FileIdentity]
) -> None:
    folder = tmp_path_factory.mktemp("v1")
    files = LinkedFiles(
        tuple(LinkedFile(first, folder / linked_name(first), one) for first, one in sorted(found.items()))
    )
    (folder / "record").write_text(files.text)
    assert LinkedFiles.read(folder / "record", folder).text == files.text


@pytest.mark.parametrize("line", ["", "x", "1 2", "7 1 2 x", "0 1 2 3", "-7 1 2 3", "7 1 2 3 4", "7  1 2 3"])
def test_damaged_line_makes_its_file_one_to_hash_again(line: str, tmp_path: Path) -> None:
    (tmp_path / "payload_007").write_bytes(b"x")
    (tmp_path / "shard_001.bin").write_bytes(b"x")
    (tmp_path / "record").write_text(line)
    (file,) = LinkedFiles.read(tmp_path / "record", tmp_path).files
    assert (file.first, file.identity.size, file.is_changed) == (7, -1, True)


def test_version_without_a_record_has_no_linked_files(tmp_path: Path) -> None:
    (tmp_path / "payload").write_bytes(b"x")
    assert not LinkedFiles.read(tmp_path / "record", tmp_path)


def test_shards_are_found_in_the_file_that_they_are_parts_of(tmp_path: Path) -> None:
    table = shards(5, 10, 4, 3, 10)
    part = LinkedFile(2, tmp_path / "payload_002", FileIdentity(1, 14, 0))
    linked = LinkedFiles((part, LinkedFile(5, tmp_path / "payload_005", FileIdentity(2, 10, 0))))
    found = [linked.find(number, table) for number in range(1, 6)]
    assert [(file.first, offset) for file, offset in filter(None, found)] == [(2, 0), (2, 10), (5, 0)]
    assert [one is None for one in found] == [True, False, False, True, False]
    assert part.shards_in(table) == table[1:3]
    whole = LinkedFiles((LinkedFile(0, tmp_path / "payload", FileIdentity(1, 32, 0)),))
    assert [found[1] for number in range(1, 6) if (found := whole.find(number, table))] == [0, 5, 15, 19, 22]
    assert whole.files[0].shards_in(table) == table
    assert LinkedFile(0, tmp_path, FileIdentity(1, 5, 0)).shards_in(table) is None


@pytest.mark.parametrize("name", ["payload_", "payload_000", "payload_07", "payload_12345678", "payloads"])
def test_other_names_are_no_linked_files(name: str) -> None:
    assert linked_number(name) is None


def test_names_of_linked_files_come_back() -> None:
    assert [linked_number(linked_name(first)) for first in (0, 7, 1234)] == [0, 7, 1234]
