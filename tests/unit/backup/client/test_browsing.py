"""Looking into snapshots: lists, names, differences, the bytes of files."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.backup.client.answers import ListedSnapshot
from shardcast.backup.client.browsing import (
    SnapshotSearch,
    changed_fields,
    diff_trees,
    entry_at,
    list_entries,
    read_file,
)
from shardcast.backup.client.snapshot_choice import choose_snapshot, snapshots_of
from shardcast.backup.client.snapshot_tree import SnapshotTree
from shardcast.backup.entries import SavedEntry, SavedKind
from shardcast.errors import IntegrityError, UsageError, VersionNotOffered
from tests.support.saved_trees import SavedTree, saved


def _tree() -> SavedTree:
    tree = SavedTree()
    inner = tree.folder(b"inner", [tree.file(b"b.txt", b"2"), tree.file(b"c.md", b"3")])
    link = SavedEntry(b"link", SavedKind.LINK, target=b"a.txt")
    return saved(tree, tree.file(b"a.txt", b"1"), tree.folder(b"d", [inner]), link)


def _paths(tree: SavedTree, path: bytes, *, recursive: bool = False) -> list[bytes]:
    return [found.path for found in list_entries(tree.tree, path, recursive=recursive)]


def test_folder_is_listed() -> None:
    tree = _tree()
    assert _paths(tree, b"") == [b"a.txt", b"d", b"link"]
    assert _paths(tree, b"/d/inner/") == [b"d/inner/b.txt", b"d/inner/c.md"]
    assert _paths(tree, b"a.txt") == [b"a.txt"]
    assert _paths(tree, b"", recursive=True) == [
        b"a.txt",
        b"d",
        b"d/inner",
        b"d/inner/b.txt",
        b"d/inner/c.md",
        b"link",
    ]


@pytest.mark.parametrize("path", [b"missing", b"a.txt/below", b"d/inner/b.tx", b"link/b"])
def test_path_that_is_not_there_is_named(path: bytes) -> None:
    with pytest.raises(VersionNotOffered, match=path.decode()):
        list(list_entries(_tree().tree, path))


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.txt", [b"a.txt", b"d/inner/b.txt"]),
        ("inner/", [b"d/inner"]),
        ("/d/*/c.md", [b"d/inner/c.md"]),
        ("nothing", []),
    ],
)
def test_names_are_found_by_patterns(pattern: str, found: list[bytes]) -> None:
    assert [entry.path for entry in SnapshotSearch(pattern).run(_tree().tree)] == found


def test_search_reads_shared_folders_once() -> None:
    tree = _tree()
    other = SnapshotTree(tree.reader, tree.root)
    search = SnapshotSearch("*.no")
    assert list(search.run(tree.tree)) == []
    tree.server.requests.clear()
    assert list(search.run(other)) == []
    assert tree.server.requests == []


names = st.binary(min_size=1, max_size=2).filter(lambda name: not set(name) & {0, ord("/")} and name != b".")
trees = st.recursive(
    st.binary(max_size=3),
    lambda inner: st.dictionaries(names.filter(lambda name: name != b".."), inner, max_size=6),
    max_leaves=30,
).map(lambda node: node if isinstance(node, dict) else {})


def _saved(tree: SavedTree, node: dict[bytes, object] | bytes, name: bytes) -> SavedEntry:
    if isinstance(node, bytes):
        return tree.file(name, node)
    return tree.folder(name, [_saved(tree, inner, one) for one, inner in node.items()])  # type: ignore[arg-type]


def _flat(node: dict[bytes, object], above: bytes = b"") -> dict[bytes, object]:
    """Return what is at each path: the bytes of a file, True for a folder."""
    found: dict[bytes, object] = {}
    for name, inner in node.items():
        found[above + name] = inner if isinstance(inner, bytes) else True
        if isinstance(inner, dict):
            found |= _flat(inner, above + name + b"/")
    return found


@given(trees, trees)
def test_diff_is_that_of_the_two_trees(old: dict[bytes, object], new: dict[bytes, object]) -> None:
    tree = SavedTree()
    one, two = (SnapshotTree(tree.reader, _saved(tree, node, b"top")) for node in (old, new))
    tree.flush()
    before, after = _flat(old), _flat(new)
    kinds = {path for path in before.keys() & after.keys() if (before[path] is True) != (after[path] is True)}
    expected = (
        {("-", path) for path in (before.keys() - after.keys()) | kinds}
        | {("+", path) for path in (after.keys() - before.keys()) | kinds}
        | {("M", path) for path in before.keys() & after.keys() - kinds if before[path] != after[path]}
    )
    found = [(change.sign, change.path) for change in diff_trees(one, two)]
    assert set(found) == expected
    assert len(found) == len(expected)


def test_diff_of_equal_folders_reads_nothing() -> None:
    tree = _tree()
    tree.server.requests.clear()
    assert list(diff_trees(tree.tree, tree.tree)) == []
    assert tree.server.requests == []


def test_change_says_what_changed() -> None:
    file = SavedEntry(b"a", SavedKind.FILE, size=1, chunks=(b"1" * 32,))
    assert changed_fields(file, replace(file, mode=0o600)) == ("mode",)
    assert changed_fields(file, replace(file, chunks=(b"2" * 32,), mtime=1)) == ("content", "mtime")
    folder = SavedEntry(b"a", SavedKind.FOLDER)
    assert changed_fields(folder, replace(folder, mtime=1)) == ()
    assert changed_fields(folder, replace(folder, xattrs={"user.a": b""})) == ("xattrs",)


@pytest.mark.parametrize("size", [0, 1, 1 << 16, (1 << 16) + 1, 3_000_000])
def test_file_is_read_in_order(size: int) -> None:
    data = os.urandom(size)
    tree = SavedTree()
    kept = saved(tree, tree.file(b"a", data + data[:100_000]))
    entry = entry_at(kept.tree, b"a")
    assert b"".join(read_file(kept.tree, kept.reader, entry)) == data + data[:100_000]


def test_file_of_many_chunks_has_lists() -> None:
    tree = SavedTree(chunk_size=10)
    data = os.urandom(50_003)
    kept = saved(tree, tree.file(b"a", data))
    entry = entry_at(kept.tree, b"a")
    assert entry.chunk_lists and not entry.chunks
    assert b"".join(read_file(kept.tree, kept.reader, entry)) == data


def test_damaged_file_ends_before_the_wrong_bytes() -> None:
    tree = SavedTree(pack_size=1)
    kept = saved(tree, tree.file(b"a", os.urandom(1 << 17)))
    entry = entry_at(kept.tree, b"a")
    tree.server.spoil = lambda data: data[:-1] + bytes([data[-1] ^ 1])
    with pytest.raises(IntegrityError, match="other bytes for chunk"):
        list(read_file(kept.tree, kept.reader, entry))


def test_folder_is_not_printed() -> None:
    kept = _tree()
    with pytest.raises(UsageError, match="folder"):
        list(read_file(kept.tree, kept.reader, entry_at(kept.tree, b"d")))


# Which snapshot


def _listed(name: str, arrived: float, path: bytes = b"/work") -> ListedSnapshot:
    return ListedSnapshot(name, arrived, "host", path, (), 1, 1, 1)


_LISTED = [
    _listed("aaaa1111", 1),
    _listed("aaaa2222", 3),
    _listed("bbbb0000", 2),
    _listed("cccc", 9, b"/work/in"),
]


def test_snapshot_is_chosen_by_id_prefix_or_latest() -> None:
    assert choose_snapshot(_LISTED, "aaaa2222").id == "aaaa2222"
    assert choose_snapshot(_LISTED, "bbbb").id == "bbbb0000"
    assert choose_snapshot(_LISTED, "latest", b"/work").id == "aaaa2222"
    assert choose_snapshot(_LISTED, "latest", b"/work/in").id == "cccc"
    assert [one.id for one in snapshots_of(_LISTED, b"/work")] == [one.id for one in _LISTED]
    assert [one.id for one in snapshots_of(_LISTED, b"/work/in")] == ["cccc"]
    assert snapshots_of(_LISTED, b"/wor") == []


@pytest.mark.parametrize(
    ("text", "folder", "error", "words"),
    [
        ("aaaa", None, UsageError, "2 snapshots"),
        ("aaa", None, UsageError, "at least 4"),
        ("../x", None, UsageError, "is no snapshot"),
        ("dddd", None, VersionNotOffered, "no snapshot dddd"),
        ("latest", None, UsageError, "--dir"),
        ("latest", b"/other", VersionNotOffered, "/other"),
    ],
)
def test_text_that_means_no_snapshot_is_refused(
    text: str, folder: bytes | None, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        choose_snapshot(_LISTED, text, folder)


def test_listing_whose_names_are_not_in_order_is_refused() -> None:
    tree = SavedTree()
    segments = [tree.folder(b"d", [tree.file(name, b"")]).segments for name in (b"b", b"a")]
    root = SavedEntry(b"top", SavedKind.FOLDER, segments=tuple(one for pair in segments for one in pair))
    tree.flush()
    with pytest.raises(IntegrityError, match="not in order"):
        list(SnapshotTree(tree.reader, root).entries(root))


def test_listings_are_sorted() -> None:
    tree = SavedTree()
    kept = saved(tree, *(tree.file(b"%d" % number, b"") for number in range(5000)))
    found = [entry.name for entry in kept.tree.entries(kept.root)]
    assert len(found) == 5000 and all(one < two for one, two in pairwise(found))
