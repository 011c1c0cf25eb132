"""Saving: the same tree is given back, unchanged files are not read, and the ids of a snapshot are exact."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shardcast.backup.client import folder_state, id_changes
from shardcast.backup.client.cache_file import cache_path
from shardcast.backup.client.folder_cache import FolderCacheWriter
from shardcast.backup.packs import Pack
from shardcast.errors import AccessDenied, LocalDiskError, UploadRefused
from tests.support.exact_trees import dress, read_exactly
from tests.support.folder_trees import FolderTree, folder_trees
from tests.support.memory_backups import MemoryBackups, Saver
from tests.unit.backup.client.test_restoring import Restored

IS_ROOT = os.geteuid() == 0


@pytest.fixture
def saver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Saver:
    """A folder of a few files that have not changed for a while."""
    monkeypatch.setattr(folder_state, "_SETTLED", -(10**15))
    (tmp_path / "top" / "a" / "deep").mkdir(parents=True)
    (tmp_path / "top" / "b").mkdir()
    for name in ("one", "a/two", "a/deep/three", "b/four"):
        (tmp_path / "top" / name).write_text(name * 100)
    return Saver(tmp_path / "top", tmp_path / "cache")


def check_restored(saver: Saver, snapshot: str, place: Path) -> None:
    restored = Restored(saver.server.tree(snapshot), place)
    assert restored.told == {}
    assert read_exactly(place) == read_exactly(saver.folder)
    shutil.rmtree(place)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(folder_trees(large=1 << 18), folder_trees(large=1 << 12), st.integers(0, 1 << 32))
def test_restored_tree_is_the_saved_one_also_after_changes(
    tmp_path_factory: pytest.TempPathFactory, tree: FolderTree, other: FolderTree, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("saving")
    saver = Saver(tree.write(folder / "source"), folder / "cache")
    dress(saver.folder, seed)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(folder_state, "_SETTLED", -(10**15))
        first = saver.save()
        assert saver.told == {}
        check_restored(saver, first.snapshot, folder / "restored")
        other.write(saver.folder / "more")
        victim = sorted(saver.folder.iterdir())[0]
        victim.rename(f"{victim} moved")
        check_restored(saver, saver.save().snapshot, folder / "restored")
        assert saver.save().read_bytes == 0


def test_unchanged_folder_is_not_read_and_the_cache_stays(saver: Saver) -> None:
    first = saver.save()
    assert first.read_bytes == sum(len(name) * 100 for name in ("one", "a/two", "a/deep/three", "b/four"))
    inode = saver.cache.stat().st_ino
    again = saver.save()
    assert (again.read_bytes, again.sent_bytes, again.sums) == (0, 0, first.sums)
    assert saver.cache.stat().st_ino == inode
    assert saver.server.bases == [None, first.snapshot]
    saver.save()
    assert saver.server.bases[-1] == again.snapshot


def test_changed_file_alone_is_read(saver: Saver, tmp_path: Path) -> None:
    saver.save()
    (saver.folder / "a/deep/three").write_text("changed")
    (saver.folder / "b/new").write_text("new file")
    (saver.folder / "one").unlink()
    changed = saver.save()
    assert changed.read_bytes == len("changed") + len("new file")
    check_restored(saver, changed.snapshot, tmp_path / "restored")
    assert saver.server.bases[-1] is not None


def test_folder_whose_mode_alone_changed_is_saved_with_it(saver: Saver, tmp_path: Path) -> None:
    saver.save()
    (saver.folder / "a/deep").chmod(0o700)
    changed = saver.save()
    assert changed.read_bytes == 0
    check_restored(saver, changed.snapshot, tmp_path / "restored")


def test_ids_of_vanished_and_moved_folders_are_right(saver: Saver, tmp_path: Path) -> None:
    first = saver.save()
    (saver.folder / "a").rename(saver.folder / "c")
    shutil.rmtree(saver.folder / "b")
    second = saver.save()
    check_restored(saver, second.snapshot, tmp_path / "restored")
    before, after = (saver.server.snapshots_by_id[one.snapshot][1] for one in (first, second))
    assert before - after and after - before


def test_many_names_in_one_folder_change_one_segment(saver: Saver) -> None:
    for number in range(5000):
        (saver.folder / f"b/{number:05d}").write_text(str(number))
    saver.save()
    saver.server.sent = 0
    (saver.folder / "b/02500").write_text("another content")
    changed = saver.save()
    assert changed.read_bytes == len("another content")
    assert saver.server.sent < 200_000
    (saver.folder / "b/02500x").write_text("inserted")
    (saver.folder / "b/04000").unlink()
    assert saver.save().read_bytes == len("inserted")


def test_large_file_has_lists_and_is_not_read_again_beside_a_change(
    saver: Saver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardcast.backup.client.file_reader.INLINE_IDS", 2)
    (saver.folder / "b/large").write_bytes(os.urandom(8 << 20))
    saver.save()
    (saver.folder / "b/another").write_text("x")
    changed = saver.save()
    assert changed.read_bytes == 1
    check_restored(saver, changed.snapshot, tmp_path / "restored")


def test_byte_at_the_front_of_a_large_file_sends_little(saver: Saver) -> None:
    pytest.importorskip("pyfastcdc")
    large, data = saver.folder / "large", os.urandom(24 << 20)
    large.write_bytes(data)
    saver.save()
    large.write_bytes(b"x" + data)
    assert saver.save().sent_bytes <= 6_000_000


def test_checksum_reads_everything_and_sends_nothing(saver: Saver) -> None:
    first = saver.save()
    again = saver.save(checksum=True)
    assert (again.read_bytes, again.sent_bytes) == (first.read_bytes, 0)


def test_change_that_keeps_size_and_mtime_is_found(saver: Saver, tmp_path: Path) -> None:
    saver.save()
    path = saver.folder / "one"
    before = path.stat()
    path.write_text("eno" * 100)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = saver.save()
    assert changed.read_bytes == 300
    check_restored(saver, changed.snapshot, tmp_path / "restored")


@pytest.mark.parametrize("seconds", [15_032_385_535, -(2**31)])
def test_time_beyond_64_bits_of_nanoseconds_is_restored(saver: Saver, tmp_path: Path, seconds: int) -> None:
    os.utime(saver.folder / "one", (seconds, seconds))
    os.utime(saver.folder / "b", (seconds, seconds))
    saver.save()
    again = saver.save()
    assert again.read_bytes == 0
    check_restored(saver, again.snapshot, tmp_path / "restored")


def test_fresh_files_are_read_again(tmp_path: Path) -> None:
    (tmp_path / "top").mkdir()
    (tmp_path / "top/fresh").write_text("fresh")
    saver = Saver(tmp_path / "top", tmp_path / "cache")
    saver.save()
    assert saver.save().read_bytes == len("fresh")


@pytest.mark.parametrize("at", [0, 5, 60, 200, -60, -10, -1])
def test_damaged_cache_is_read_past(saver: Saver, tmp_path: Path, at: int) -> None:
    saver.save()
    (saver.folder / "a/new").write_text("new")
    data = bytearray(saver.cache.read_bytes())
    data[at] ^= 1
    saver.cache.write_bytes(data)
    check_restored(saver, saver.save().snapshot, tmp_path / "restored")


@pytest.mark.parametrize("data", [b"", b"SCFCACHE1\n", bytes(100)])
def test_file_that_is_no_cache_is_read_past(saver: Saver, data: bytes) -> None:
    saver.cache.write_bytes(data)
    assert saver.save().read_bytes > 0
    assert saver.save().read_bytes == 0


def test_forgotten_base_makes_the_whole_list_be_sent(saver: Saver) -> None:
    first = saver.save()
    del saver.server.snapshots_by_id[first.snapshot]
    again = saver.save()
    assert again.read_bytes == 0
    assert saver.server.bases == [None, first.snapshot, None]


@pytest.mark.parametrize("name", ["one", "a/deep/three"])
def test_chunk_that_the_server_lost_is_read_and_sent_again(saver: Saver, tmp_path: Path, name: str) -> None:
    first = saver.save()
    entry = saver.server.tree(first.snapshot).tree.find(name.encode())
    assert entry is not None
    saver.server.lose(entry.chunks[0])
    again = saver.save()
    assert again.read_bytes == len((saver.folder / name).read_bytes())
    check_restored(saver, again.snapshot, tmp_path / "restored")


def test_listing_that_the_server_lost_is_sent_again(saver: Saver, tmp_path: Path) -> None:
    first = saver.save()
    entry = saver.server.tree(first.snapshot).tree.find(b"a/deep")
    assert entry is not None
    saver.server.lose(entry.segments[0])
    again = saver.save()
    assert again.sent_bytes > 0
    check_restored(saver, again.snapshot, tmp_path / "restored")


def test_too_many_changes_send_the_whole_list(saver: Saver, monkeypatch: pytest.MonkeyPatch) -> None:
    saver.save()
    monkeypatch.setattr(id_changes, "MAX_CHANGES", 1)
    (saver.folder / "a/new").write_text("new")
    saver.save()
    assert saver.server.bases == [None, None]


def test_equal_files_are_sent_once_and_names_of_one_file_read_once(saver: Saver, tmp_path: Path) -> None:
    data = os.urandom(100_000)
    (saver.folder / "b/copy1").write_bytes(data)
    (saver.folder / "b/copy2").write_bytes(data)
    os.link(saver.folder / "b/copy1", saver.folder / "a/name")
    result = saver.save()
    assert result.sent_bytes < 150_000
    assert result.read_bytes < 250_000
    check_restored(saver, result.snapshot, tmp_path / "restored")


def test_unreadable_file_is_named_marked_and_tried_again(
    saver: Saver, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open = os.open

    def refuse(path: object, flags: int, *args: object, **more: object) -> int:
        if path == b"two":
            raise PermissionError(13, "Permission denied")
        return real_open(path, flags, *args, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        for _ in range(2):
            result = saver.save()
            assert saver.told == {b"a/two": "unreadable: Permission denied"}
            assert result.problems == 1
    entry = saver.server.tree(result.snapshot).tree.find(b"a/two")
    assert entry is not None and entry.problems and not entry.chunks
    assert saver.save().problems == 0
    assert saver.told == {}


@pytest.mark.skipif(IS_ROOT, reason="root can list every folder")
def test_folder_that_cannot_be_listed_is_named(saver: Saver) -> None:
    (saver.folder / "b").chmod(0)
    try:
        assert saver.save().problems == 1
    finally:
        (saver.folder / "b").chmod(0o755)
    assert list(saver.told) == [b"b/"]


def test_file_that_changes_while_read_is_marked(saver: Saver, monkeypatch: pytest.MonkeyPatch) -> None:
    real_read, path = os.read, saver.folder / "one"

    def change(descriptor: int, count: int) -> bytes:
        data = real_read(descriptor, count)
        if data.startswith(b"oneone"):
            path.write_text("one" * (len(data) + 1))
        return data

    monkeypatch.setattr(os, "read", change)
    result = saver.save()
    assert saver.told == {b"one": "changed while read"}
    monkeypatch.undo()
    entry = saver.server.tree(result.snapshot).tree.find(b"one")
    assert entry is not None and entry.problems == ("changed while read",)


def test_file_that_goes_meanwhile_is_left_out_without_a_word(
    saver: Saver, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open = os.open

    def gone(path: object, flags: int, *args: object, **more: object) -> int:
        if path == b"two":
            (saver.folder / "a/two").unlink(missing_ok=True)
        return real_open(path, flags, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", gone)
    assert b"a/two" not in saver.names(saver.save().snapshot)
    assert saver.told == {}
    assert saver.save().read_bytes == 0


def test_socket_is_left_out_and_counted(saver: Saver) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        directory = os.open(saver.folder, os.O_RDONLY)
        try:
            listener.bind(f"/proc/self/fd/{directory}/socket")
        finally:
            os.close(directory)
        assert saver.save().sockets == 1


@pytest.mark.skipif(not IS_ROOT, reason="only root makes devices")
def test_devices_are_saved_as_what_they_are(saver: Saver, tmp_path: Path) -> None:
    os.mknod(saver.folder / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    entry = saver.server.tree(saver.save().snapshot).tree.find(b"null")
    assert entry is not None and (entry.kind.value, entry.device) == ("char", (1, 3))


def test_link_in_place_of_a_folder_leads_nowhere(saver: Saver, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = saver.folder.parent / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    real_open = os.open

    def swap(path: object, flags: int, *args: object, **more: object) -> int:
        if path == b"b" and not (saver.folder / "b").is_symlink():
            shutil.rmtree(saver.folder / "b")
            (saver.folder / "b").symlink_to(outside)
        return real_open(path, flags, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", swap)
    result = saver.save()
    assert not any(b"secret" in name for name in saver.names(result.snapshot))


def test_rules_leave_out_by_name_cache_tag_and_pattern(saver: Saver) -> None:
    (saver.folder / ".gitignore").write_text("*.o\n!keep.o\n")
    for name in ("a/x.o", "a/keep.o", "b/y.log", ".DS_Store"):
        (saver.folder / name).write_text(name)
    (saver.folder / "b/cache").mkdir()
    (saver.folder / "b/cache/CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n")
    (saver.folder / "b/cache/data").write_text("data")
    result = saver.save("*.log", exclude_caches=True)
    names = saver.names(result.snapshot)
    assert {b"a/keep.o", b"b/cache/CACHEDIR.TAG"} <= names
    assert not {b"a/x.o", b"b/y.log", b".DS_Store", b"b/cache/data"} & names
    assert result.left_out == 4
    assert b"a/x.o" in saver.names(saver.save(ignore_files=False).snapshot)
    assert b"a/x.o" not in saver.names(saver.save().snapshot)


def test_failed_upload_ends_the_backup_and_what_was_sent_is_not_sent_again(saver: Saver) -> None:
    for number in range(8):
        (saver.folder / f"b/{number}").write_bytes(os.urandom(5 << 20))

    def refuse(pack: Pack) -> None:
        if saver.server.sent > 15 << 20:
            raise UploadRefused("no room")

    saver.server.fail = refuse
    with pytest.raises(UploadRefused, match="no room"):
        saver.save()
    saver.server.fail, sent = lambda pack: None, saver.server.sent
    result = saver.save()
    assert result.sent_bytes < (42 << 20) - sent + (1 << 20)


def test_read_only_client_is_refused_before_anything_is_read(saver: Saver) -> None:
    saver.server.read_only = True
    with pytest.raises(AccessDenied, match="read-only"):
        saver.save()


def test_cache_that_cannot_be_written_is_an_error_in_words(saver: Saver) -> None:
    saver.cache = saver.folder / "one" / "cache"
    with pytest.raises(LocalDiskError, match="could not write"):
        saver.save()


def test_full_disk_of_the_cache_names_the_cache_and_not_the_folder(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        writer = FolderCacheWriter(full.fileno(), bytes(32), tmp_path / "cache")
        with pytest.raises(LocalDiskError, match=f"could not write {tmp_path}/cache: No space left"):
            writer.finish("")


def test_caches_are_private_and_apart(saver: Saver) -> None:
    saver.save()
    assert stat.S_IMODE(saver.cache.stat().st_mode) == 0o600
    assert [path.name for path in saver.cache.parent.iterdir() if path.name.endswith(".part")] == []
    paths = {cache_path(url, client, folder) for url in "ab" for client in "cd" for folder in (b"/e", b"/f")}
    assert len(paths) == 8


def test_empty_folder_is_saved(tmp_path: Path) -> None:
    (tmp_path / "top").mkdir()
    saver = Saver(tmp_path / "top", tmp_path / "cache", MemoryBackups())
    for _ in range(2):
        assert saver.save().sums == (0, 1, 0)
