"""Restoring: the same tree again, over what is there, after a kill, and from a hostile server."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardcast.backup.client import restore_window
from shardcast.backup.client.restore_places import TEMPORARY, UNFINISHED, temporary_name
from shardcast.backup.client.snapshot_tree import SnapshotTree
from shardcast.backup.entries import SavedEntry, SavedKind
from shardcast.backup.ids import ChunkKind
from tests.support.exact_trees import dress, read_exactly
from tests.support.folder_trees import FolderTree, folder_trees
from tests.support.processes import wait_until
from tests.support.restores import Restored
from tests.support.saved_trees import SavedTree, save, saved


def _file(tree: SavedTree, name: bytes, data: bytes = b"x") -> SavedEntry:
    return tree.file(name, data, mode=0o644, uid=os.geteuid(), gid=os.getegid(), mtime=10**18)


@settings(max_examples=40, deadline=None)
@given(folder_trees(large=1 << 18), st.integers(0, 1 << 32))
def test_restored_tree_is_the_one_that_was_saved(
    tmp_path_factory: pytest.TempPathFactory, tree: FolderTree, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("trees")
    source = tree.write(folder / "source")
    dress(source, seed)
    source.chmod(0o750)
    kept = save(source)
    first = Restored(kept, folder / "restored")
    assert first.told == {}
    assert read_exactly(folder / "restored") == read_exactly(source)
    again = Restored(kept, folder / "restored")
    assert not {"files", "others", "folders", "differing", "failed"} & set(again.counts)
    assert read_exactly(folder / "restored") == read_exactly(source)


def test_few_requests_bring_many_small_files(tmp_path: Path) -> None:
    tree = SavedTree()
    files = [_file(tree, b"%05d" % number, os.urandom(100)) for number in range(3000)]
    folders = [tree.folder(b"%d" % n, files[n * 100 : (n + 1) * 100], mode=0o755) for n in range(30)]
    Restored(saved(tree, *folders), tmp_path / "restored")
    assert len(list((tmp_path / "restored").rglob("*"))) == 3030
    assert len(tree.server.requests) <= 5


def test_bytes_are_fetched_while_more_entries_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last folder is listed only once the first one's file is there."""
    tree, first = SavedTree(), tmp_path / "restored" / "1" / "a"
    folders = [tree.folder(b"%d" % n, [_file(tree, b"a", b"%d" % n * 2000)]) for n in (1, 2)]
    real_entries = SnapshotTree.entries

    def entries(self: SnapshotTree, folder: SavedEntry, path: bytes = b"") -> Iterator[SavedEntry]:
        if path == b"2":
            wait_until(first.exists)
        return real_entries(self, folder, path)

    monkeypatch.setattr(restore_window, "_START_BYTES", 1000)
    monkeypatch.setattr(SnapshotTree, "entries", entries)
    assert Restored(saved(tree, *folders), tmp_path / "restored").told == {}
    assert first.read_bytes() == b"1" * 2000
    assert (tmp_path / "restored" / "2" / "a").read_bytes() == b"2" * 2000


def test_holes_stay_holes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name, size in (("large", 1 << 20), ("small", 40_000)):
        with (source / name).open("wb") as file:
            file.truncate(size)
            file.seek(size // 2)
            file.write(b"x" * 5000)
    Restored(save(source), tmp_path / "restored")
    for name in ("large", "small"):
        restored = tmp_path / "restored" / name
        assert restored.read_bytes() == (source / name).read_bytes()
        assert restored.stat().st_blocks == (source / name).stat().st_blocks


# What is there


def test_equal_files_stay_and_others_are_named(tmp_path: Path) -> None:
    tree = SavedTree()
    kept = saved(
        tree,
        *(_file(tree, name) for name in (b"a", b"b", b"c", b"d")),
        SavedEntry(b"l", SavedKind.LINK, target=b"t"),
    )
    folder = tmp_path / "there"
    Restored(kept, folder)
    (folder / "a").write_bytes(b"y")
    (folder / "b").unlink()
    (folder / "c").chmod(0o600)
    (folder / "l").unlink()
    (folder / "l").symlink_to("elsewhere")
    (folder / "more").write_bytes(b"of others")
    found = Restored(kept, folder)
    assert found.counts == {"files": 1, "bytes": 1, "kept": 1, "kept_bytes": 1, "differing": 3}
    assert set(found.told) == {"a", "c", "l"}
    assert ((folder / "a").read_bytes(), (folder / "b").read_bytes()) == (b"y", b"x")
    found = Restored(kept, folder, overwrite=True)
    assert found.counts == {"files": 1, "others": 1, "bytes": 1, "kept": 2, "kept_bytes": 2, "replaced": 3}
    assert (folder / "a").read_bytes() == b"x"
    assert stat.S_IMODE((folder / "c").stat().st_mode) == 0o644
    assert (folder / "l").readlink() == Path("t")
    assert (folder / "more").read_bytes() == b"of others"


def test_folder_is_never_replaced(tmp_path: Path) -> None:
    tree = SavedTree()
    kept = saved(tree, _file(tree, b"a"), _file(tree, b"b"))
    (tmp_path / "there" / "a" / "inside").mkdir(parents=True)
    found = Restored(kept, tmp_path / "there", overwrite=True)
    assert found.told == {"a": "a folder is there, which is never replaced by something else"}
    assert (tmp_path / "there" / "b").read_bytes() == b"x"


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    tree = SavedTree()
    kept = saved(tree, tree.folder(b"d", [_file(tree, b"a")]), _file(tree, b"b"), _file(tree, b"c"))
    folder = tmp_path / "there"
    folder.mkdir()
    (folder / "b").write_bytes(b"y")
    before = read_exactly(folder)
    found = Restored(kept, folder, dry_run=True)
    assert found.counts == {"files": 2, "folders": 1, "bytes": 2, "differing": 1}
    assert set(found.shown) == {("make", b"d/"), ("make", b"d/a"), ("make", b"c")}
    assert read_exactly(folder) == before


def test_file_that_lies_in_a_folder_of_another_kind_is_named(tmp_path: Path) -> None:
    tree = SavedTree()
    kept = saved(tree, tree.folder(b"d", [_file(tree, b"a")]))
    folder = tmp_path / "there"
    folder.mkdir()
    (folder / "d").write_bytes(b"a file")
    assert Restored(kept, folder).told == {"d": "something else is there; --overwrite replaces it"}
    assert Restored(kept, folder, overwrite=True).told == {}
    assert (folder / "d" / "a").read_bytes() == b"x"


# Parts


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"include": ["/d/e/x"]}, {"d", "d/e", "d/e/x"}),
        ({"include": ["*.txt"]}, {"a.txt", "d", "d/b.txt"}),
        ({"include": ["d/"], "exclude": ["e/"]}, {"d", "d/b.txt"}),
        ({"exclude": ["/d"]}, {"a.txt", "f", "f/x"}),
        ({"include": ["nothing"]}, set()),
    ],
)
def test_patterns_choose_what_is_restored(
    tmp_path: Path, options: dict[str, list[str]], expected: set[str]
) -> None:
    tree = SavedTree()
    inner = tree.folder(b"e", [_file(tree, b"x", b"1")])
    other = tree.folder(b"f", [_file(tree, b"x", b"2")])
    kept = saved(
        tree, _file(tree, b"a.txt", b"3"), tree.folder(b"d", [_file(tree, b"b.txt", b"4"), inner]), other
    )
    Restored(kept, tmp_path / "restored", **options)
    found = {str(path.relative_to(tmp_path / "restored")) for path in (tmp_path / "restored").rglob("*")}
    assert found == expected


def test_single_file_needs_only_its_chunks(tmp_path: Path) -> None:
    tree = SavedTree(pack_size=1 << 17)
    files = [_file(tree, b"%d" % number, os.urandom(1 << 16)) for number in range(40)]
    kept = saved(tree, tree.folder(b"d", files))
    Restored(kept, tmp_path / "restored", include=["/d/7"])
    assert (tmp_path / "restored/d/7").stat().st_size == 1 << 16
    assert sum(length for _, _, length in tree.server.requests) < 2 * (1 << 16)


# Interrupted


def test_restore_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    data = os.urandom(1 << 20)
    tree = SavedTree()
    kept = saved(tree, tree.folder(b"d", [_file(tree, b"large", data)], mode=0o755, mtime=5))
    folder = tmp_path / "restored"
    (folder / "d").mkdir(parents=True)
    (folder / "d").chmod(UNFINISHED)
    temporary = folder / "d" / os.fsdecode(temporary_name(b"large"))
    temporary.write_bytes(data[: 3 << 18] + b"wrong" + data[(3 << 18) + 5 :])
    temporary.chmod(0o600)
    found = Restored(kept, folder)
    assert found.told == {}
    assert (folder / "d/large").read_bytes() == data
    assert [path.name for path in (folder / "d").iterdir()] == ["large"]
    assert stat.S_IMODE((folder / "d").stat().st_mode) == 0o755
    assert (folder / "d").stat().st_mtime_ns == 5
    fetched = [length for pack, _, length in tree.server.requests if length > 1 << 15]
    assert sum(fetched) < 1 << 17  # the one chunk that was wrong


@pytest.mark.parametrize("kind", ["link", "of others", "with another name"])
def test_temporary_file_of_others_is_not_written_to(tmp_path: Path, kind: str) -> None:
    data = os.urandom(1 << 18)
    tree = SavedTree()
    kept = saved(tree, _file(tree, b"large", data), _file(tree, b"small"))
    folder, victim = tmp_path / "there", tmp_path / "victim"
    folder.mkdir()
    victim.write_bytes(b"precious")
    victim.chmod(0o644 if kind == "of others" else 0o600)
    for name in (b"large", b"small"):
        temporary = folder / os.fsdecode(temporary_name(name))
        if kind == "link":
            temporary.symlink_to(victim)
        else:
            os.link(victim, temporary)
    assert Restored(kept, folder).told == {}
    assert victim.read_bytes() == b"precious"
    assert (folder / "large").read_bytes() == data


def test_link_on_the_way_is_not_followed(tmp_path: Path) -> None:
    tree = SavedTree()
    kept = saved(tree, tree.folder(b"d", [_file(tree, b"a")]))
    outside = tmp_path / "outside"
    outside.mkdir()
    folder = tmp_path / "there"
    folder.mkdir()
    (folder / "d").symlink_to(outside)
    assert set(Restored(kept, folder).told) == {"d"}
    assert list(outside.iterdir()) == []
    Restored(kept, folder, overwrite=True)
    assert list(outside.iterdir()) == []
    assert not (folder / "d").is_symlink()


def test_saved_temporary_file_is_left_out(tmp_path: Path) -> None:
    tree = SavedTree()
    kept = saved(tree, _file(tree, b"a"), _file(tree, TEMPORARY + b"1", b"y"))
    Restored(kept, tmp_path / "restored")
    assert [path.name for path in (tmp_path / "restored").iterdir()] == ["a"]


# Hostile servers, damaged chunks


def _spoiled(data: bytes) -> bytes:
    return bytes([*data[:-1], data[-1] ^ 1])


def test_wrong_bytes_never_get_a_name(tmp_path: Path) -> None:
    tree = SavedTree(pack_size=1)
    good, bad = os.urandom(1000), os.urandom(1000)
    kept = saved(tree, _file(tree, b"bad", bad), _file(tree, b"good", good), _file(tree, b"large", bad * 200))
    wrong = tree.put(ChunkKind.DATA, bad)
    place = tree.server.places[wrong]
    tree.server.packs[place.pack] = _spoil_at(tree.server.packs[place.pack], place.offset + place.length - 1)
    found = Restored(kept, tmp_path / "restored")
    assert found.counts == {"files": 2, "bytes": 201_000, "damaged": 1}
    assert sorted(path.name for path in (tmp_path / "restored").iterdir()) == ["good", "large"]
    assert "has other bytes for chunk" in found.told["bad"] or "damaged" in found.told["bad"]


def _spoil_at(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def test_file_with_one_damaged_chunk_leaves_nothing_behind(tmp_path: Path) -> None:
    tree = SavedTree(pack_size=1 << 16)
    kept = saved(tree, _file(tree, b"large", os.urandom(1 << 19)))
    del tree.server.packs[tree.server.places[kept.tree.find(b"large").chunks[3]].pack]  # type: ignore[union-attr]
    found = Restored(kept, tmp_path / "restored")
    assert found.counts == {"damaged": 1}
    assert list((tmp_path / "restored").iterdir()) == []


def test_hard_links_to_a_damaged_file_are_not_linked_to_another(tmp_path: Path) -> None:
    tree = SavedTree(pack_size=1)
    entries = [tree.file(name, b"x" * 1000, mode=0o644, hard="1:2") for name in (b"a", b"b")]
    kept = saved(tree, *entries)
    folder = tmp_path / "there"
    folder.mkdir()
    (folder / "a").write_bytes(b"y" * 1000)
    tree.server.spoil = lambda data: _spoiled(data) if len(data) < 100 else data
    (chunk,) = entries[0].chunks
    del tree.server.places[chunk]
    found = Restored(kept, folder, overwrite=True)
    assert found.counts["damaged"] == 2
    assert (folder / "a").read_bytes() == b"y" * 1000
    assert not (folder / "b").exists()


def test_damaged_listing_hurts_only_its_folder(tmp_path: Path) -> None:
    tree = SavedTree(pack_size=1)
    broken = tree.folder(b"broken", [_file(tree, b"a")])
    kept = saved(tree, broken, tree.folder(b"whole", [_file(tree, b"b")]))
    del tree.server.places[broken.segments[0]]
    found = Restored(kept, tmp_path / "restored")
    assert (tmp_path / "restored/whole/b").exists()
    assert "can't be listed" in found.told["broken"]


@pytest.mark.parametrize("names", [(b"a",), (b"a", b"c")], ids=["one name", "hard links"])
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("is_lost", [False, True])
def test_damaged_chunk_list_hurts_only_its_file_where_the_disk_has_one_of_equal_size(
    tmp_path: Path, names: tuple[bytes, ...], overwrite: bool, is_lost: bool
) -> None:
    tree, data = SavedTree(chunk_size=16, pack_size=1), os.urandom(1100 * 16)
    hard = "1:2" if len(names) > 1 else None
    large = [tree.file(name, data, mode=0o644, hard=hard) for name in names]
    kept = saved(tree, *large, _file(tree, b"b"), _file(tree, b"d"))
    chunk_list = large[0].chunk_lists[0]
    place = tree.server.places[chunk_list]
    if is_lost:
        del tree.server.places[chunk_list]
    else:
        pack = tree.server.packs[place.pack]
        tree.server.packs[place.pack] = _spoil_at(pack, place.offset + place.length - 1)
    folder = tmp_path / "there"
    folder.mkdir()
    for name in names:
        (folder / os.fsdecode(name)).write_bytes(data)
    found = Restored(kept, folder, overwrite=overwrite)
    assert found.counts == {"files": 2, "bytes": 2, "damaged": len(names)}
    assert set(found.told) == set(map(os.fsdecode, names))
    assert all((folder / os.fsdecode(name)).read_bytes() == data for name in names)
    assert sorted(path.name for path in folder.iterdir()) == sorted({"b", "d"} | set(found.told))


@pytest.mark.parametrize("name", [b"..", b".", b"a/b", b"/etc/passwd", b"a\0b"])
def test_names_that_lead_outside_are_refused(tmp_path: Path, name: bytes) -> None:
    tree = SavedTree()
    kept = saved(tree, _file(tree, name))
    (tmp_path / "in").mkdir()
    found = Restored(kept, tmp_path / "in" / "restored")
    assert found.counts == {"damaged": 1}
    assert list((tmp_path / "in").rglob("*")) == [tmp_path / "in" / "restored"]


def test_symbolic_link_of_the_snapshot_is_not_written_through(tmp_path: Path) -> None:
    tree = SavedTree()
    link = SavedEntry(b"d", SavedKind.LINK, target=os.fsencode(tmp_path))
    inner = tree.folder(b"d", [_file(tree, b"a")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.support.saved_trees.sorted", lambda entries, key: entries, raising=False)
        kept = saved(tree, link, inner)
    found = Restored(kept, tmp_path / "restored")
    assert found.counts.get("damaged") == 1
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: {"size": entry.size + 1},
        lambda entry: {"size": 1 << 60},
        lambda entry: {"sizes": (1 << 16, entry.size - (1 << 16) - 1, 1)},
    ],
)
def test_sizes_that_are_not_those_of_the_chunks_are_refused(
    tmp_path: Path, change: Callable[[SavedEntry], dict[str, object]]
) -> None:
    tree = SavedTree()
    entry = _file(tree, b"a", os.urandom(100_000))
    fields = {name: getattr(entry, name) for name in entry.__slots__} | change(entry)
    kept = saved(tree, SavedEntry(**fields))
    found = Restored(kept, tmp_path / "restored")
    assert found.counts.get("damaged") == 1
    assert list((tmp_path / "restored").iterdir()) == []


def test_prune_that_moves_chunks_meanwhile_is_survived(tmp_path: Path) -> None:
    tree = SavedTree()
    kept = saved(tree, _file(tree, b"a", b"moved"))
    (chunk,) = kept.tree.find(b"a").chunks  # type: ignore[union-attr]
    place = tree.server.places[chunk]
    answers = iter([[place._replace(pack=b"gone" * 8)]])
    locate = tree.server.locate
    tree.server.locate = lambda ids: next(answers, None) if chunk in ids else locate(ids)  # type: ignore
    answers = iter([[place._replace(pack=b"gone" * 8)], [place]])
    assert Restored(kept, tmp_path / "restored").told == {}
    assert (tmp_path / "restored" / "a").read_bytes() == b"moved"
