"""A folder on the disk becomes its entries; what can't be published, and changes, are refused by name."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings

from shardcast.errors import LocalDiskError, PayloadChanged, UsageError
from shardcast.folders.entries import EntryKind
from shardcast.folders.survey import SurveyRules, open_survey
from tests.support.folder_trees import FolderTree, folder_trees


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "model"
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "a.bin").write_bytes(b"aaa")
    (root / "sub" / "b.bin").write_bytes(b"bb")
    (root / "sub" / "deep" / "c.txt").write_bytes(b"c")
    (root / "sub-x").write_bytes(b"x")
    (root / "link").symlink_to("sub/b.bin")
    return root


def paths(root: Path, *exclude: str) -> list[str]:
    with open_survey(root, SurveyRules(exclude)) as survey:
        return [entry.text for entry in survey.table]


@settings(deadline=None, max_examples=50)
@given(folder_trees())
def test_survey_finds_the_entries_that_were_written(tree: FolderTree) -> None:
    with tempfile.TemporaryDirectory() as top:
        root = tree.write(Path(top) / "tree")
        with open_survey(root) as survey:
            assert list(survey.table) == list(tree.table)
            survey.check_unchanged()


def test_times_are_zero_without_mtimes(folder: Path) -> None:
    with open_survey(folder, SurveyRules(mtimes=False)) as survey:
        assert {entry.mtime for entry in survey.table} == {0}
        survey.check_unchanged()


@pytest.mark.parametrize("seconds", [15_032_385_534, -(2**31)])
def test_time_beyond_64_bits_of_nanoseconds_is_told_apart(folder: Path, seconds: int) -> None:
    os.utime(folder / "a.bin", (seconds, seconds))
    with open_survey(folder) as survey:
        assert {entry.mtime for entry in survey.table if entry.text == "a.bin"} == {seconds}
        survey.check_unchanged()
        os.utime(folder / "a.bin", (seconds + 1, seconds + 1))
        with pytest.raises(PayloadChanged, match=r"'a.bin' was changed or replaced"):
            survey.check_unchanged()


def test_of_hard_links_the_first_path_has_the_bytes(folder: Path) -> None:
    (folder / "sub" / "again").hardlink_to(folder / "a.bin")
    (folder / "outside.bin").hardlink_to(folder / "sub" / "b.bin")
    with open_survey(folder) as survey:
        found = {entry.text: (entry.kind, entry.size, entry.link) for entry in survey.table}
    assert found["a.bin"] == (EntryKind.FILE, 3, b"")
    assert found["sub/again"] == (EntryKind.HARD_LINK, 0, b"a.bin")
    assert found["outside.bin"] == (EntryKind.FILE, 2, b"")
    assert found["sub/b.bin"] == (EntryKind.HARD_LINK, 0, b"outside.bin")


def test_link_to_the_folder_itself_is_followed(folder: Path) -> None:
    (folder.parent / "latest").symlink_to("model")
    assert paths(folder.parent / "latest") == paths(folder)


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (make_pipe, "a named pipe"),
        (make_socket, "a socket"),
        (lambda path: path.symlink_to("/etc/passwd"), "leaves the folder"),
        (lambda path: path.symlink_to("../../x"), "may leave the folder"),
    ],
    ids=["pipe", "socket", "absolute link", "link upwards"],
)
def test_entry_that_no_reader_takes_is_refused_by_name_unless_excluded(
    folder: Path, make: Callable[[Path], None], words: str
) -> None:
    make(folder / "sub" / "odd")
    with pytest.raises(LocalDiskError, match=f"sub/odd.*{words}.*--exclude"):
        paths(folder)
    assert "sub/odd" not in paths(folder, "odd")


def test_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(LocalDiskError, match="no-such"):
        paths(tmp_path / "no-such")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: (root / "new").write_bytes(b""), "'new' is new"),
        (lambda root: (root / "zz").mkdir(), "'zz/' is new"),
        (lambda root: (root / "a.bin").unlink(), "'a.bin' is not there any more"),
        (lambda root: (root / "sub-x").unlink(), "'sub-x' is not there any more"),
        (lambda root: (root / "sub/deep/c.txt").write_bytes(b"d"), "'sub/deep/c.txt' was written to"),
        (lambda root: (root / "sub/b.bin").write_bytes(b"bbb"), "'sub/b.bin' was changed or replaced"),
        (lambda root: (root / "a.bin").chmod(0o600), "'a.bin' was changed or replaced"),
        (lambda root: (root / "sub").chmod(0o711), "'sub/' was changed or replaced"),
        (lambda root: (root / "a.bin").rename(root / "z.bin"), "'a.bin' is not there any more"),
        (lambda root: (root / "z.bin").hardlink_to(root / "a.bin"), "'a.bin' was written to"),
    ],
)
def test_change_since_the_survey_is_told_by_name(
    folder: Path, change: Callable[[Path], None], words: str
) -> None:
    (folder / "a.bin").chmod(0o644)
    with open_survey(folder) as survey:
        change(folder)
        with pytest.raises(PayloadChanged, match=words):
            survey.check_unchanged()


@pytest.mark.parametrize("number", [0, 999, 1000, 1999])
def test_change_among_many_files_of_a_folder_is_told_by_name(tmp_path: Path, number: int) -> None:
    for each in range(2000):
        (tmp_path / f"{each:04}").write_bytes(b"x")
    with open_survey(tmp_path) as survey:
        assert [entry.path for entry in survey.table] == [b"%04d" % each for each in range(2000)]
        survey.check_unchanged()
        os.utime(tmp_path / f"{number:04}", ns=(0, 0))
        with pytest.raises(PayloadChanged, match=f"'{number:04}' was changed or replaced"):
            survey.check_unchanged()
        (tmp_path / f"{number:04}").unlink()
        with pytest.raises(PayloadChanged, match=f"'{number:04}' is not there any more"):
            survey.check_unchanged()


def test_file_that_became_a_link_of_the_same_name_is_told(folder: Path) -> None:
    with open_survey(folder) as survey:
        (folder / "sub-x").unlink()
        (folder / "sub-x").symlink_to("a.bin")
        with pytest.raises(PayloadChanged, match="'sub-x' was changed or replaced"):
            survey.check_unchanged()


def test_patterns_leave_names_folders_and_paths_out(folder: Path) -> None:
    everything = ["a.bin", "link", "sub-x", "sub/", "sub/b.bin", "sub/deep/", "sub/deep/c.txt"]
    assert paths(folder) == everything
    assert paths(folder, "*.bin") == ["link", "sub-x", "sub/", "sub/deep/", "sub/deep/c.txt"]
    assert paths(folder, "/*.bin") == everything[1:]
    assert paths(folder, "deep/") == everything[:5]
    assert paths(folder, "sub*/") == ["a.bin", "link", "sub-x"]
    assert paths(folder, "sub/**/c.txt", "[al]*") == ["sub-x", "sub/", "sub/b.bin", "sub/deep/"]


def test_ignore_file_leaves_out_what_it_lists(folder: Path) -> None:
    (folder / ".shardcastignore").write_text("# scratch\n\n*.txt\nsub-x\n")
    assert paths(folder, "link") == [".shardcastignore", "a.bin", "sub/", "sub/b.bin", "sub/deep/"]


@pytest.mark.parametrize("pattern", ["", "/", "!x", "[]", "x\0"])
def test_pattern_that_is_none_is_refused(folder: Path, pattern: str) -> None:
    if pattern == "[]":
        assert paths(folder, pattern) == paths(folder)  # a name, as in a shell
        return
    with pytest.raises(UsageError):
        paths(folder, pattern)


def test_malformed_pattern_of_an_ignore_file_is_refused_with_the_file(folder: Path) -> None:
    (folder / ".shardcastignore").write_text("*.txt\n!x\n")
    with pytest.raises(UsageError, match=rf"{folder}/.shardcastignore: '!x'"):
        paths(folder)


def test_names_that_are_not_utf8_match_patterns(folder: Path) -> None:
    (Path(os.fsdecode(os.fsencode(folder) + b"/\xff.tmp"))).write_bytes(b"")
    assert os.fsdecode(b"\xff.tmp") in paths(folder)
    assert os.fsdecode(b"\xff.tmp") not in paths(folder, "*.tmp")


def test_file_that_grew_within_a_tick_of_the_clock_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_survey(folder) as survey:
        (folder / "a.bin").write_bytes(b"aaaa")
        monkeypatch.setattr(survey.identities, "agree", lambda index, found: True)
        with pytest.raises(PayloadChanged, match=r"'a.bin' was changed or replaced"):
            survey.check_unchanged()


def test_hard_links_are_unchanged_as_long_as_nothing_touches_them(folder: Path) -> None:
    (folder / "sub" / "again").hardlink_to(folder / "a.bin")
    with open_survey(folder) as survey:
        survey.check_unchanged()
        (folder / "a.bin").chmod(0o600)
        with pytest.raises(PayloadChanged, match=r"'a.bin'"):
            survey.check_unchanged()
