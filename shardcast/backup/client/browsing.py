"""Browsing snapshots: entries of a folder, names found in snapshots, differences, the bytes of a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from blake3 import blake3

from shardcast.backup.client.chunk_reader import ChunkReader
from shardcast.backup.client.snapshot_tree import Chunk, SnapshotTree, TreeEntry, check_depth, join, shown
from shardcast.backup.entries import SavedEntry, SavedKind
from shardcast.backup.ids import ChunkKind
from shardcast.errors import IntegrityError, UsageError, VersionNotOffered
from shardcast.folders.patterns import PathPatterns

_AT_ONCE = 8 << 20
"""Maximum bytes of a file fetched together; one chunk may have as many."""
_MAX_REMEMBERED = 1 << 18
"""Maximum folders without a match remembered by a search: some 30 MB."""
_METADATA = ("mode", "uid", "gid", "user", "group", "mtime", "xattrs")


def entry_at(tree: SnapshotTree, path: bytes) -> SavedEntry:
    """Return the entry at a path of a snapshot.

    Raises:
        VersionNotOffered: there is none.
        ShardcastError: a listing is damaged, or the server does not answer.
    """
    found = tree.find(path)
    if found is None:
        raise VersionNotOffered(f"{shown(path)} is not in {tree.name}")
    return found


def list_entries(tree: SnapshotTree, path: bytes, *, recursive: bool = False) -> Iterator[TreeEntry]:
    """Yield the entries of a folder, or the entry itself for another kind of path.

    Args:
        tree: of the snapshot.
        path: from the top of the snapshot.
        recursive: whether to yield everything below a folder.

    Raises:
        VersionNotOffered: the snapshot has no such path.
        ShardcastError: a listing is damaged, or the server does not answer.
    """
    path = path.strip(b"/")
    found = entry_at(tree, path)
    if found.kind is not SavedKind.FOLDER:
        yield TreeEntry(path, found)
    elif recursive:
        yield from tree.walk(found, path)
    else:
        yield from (TreeEntry(join(path, entry.name), entry) for entry in tree.entries(found, path))


@dataclass
class _Searched:
    """A folder during a search.

    Attributes:
        path: from the top.
        key: identifies the folder's content, with everything below.
        entries: the remaining entries.
        found: whether an entry matched, here or below.
    """

    path: bytes
    key: bytes
    entries: Iterator[SavedEntry]
    found: bool = False


class SnapshotSearch:
    """A search for a name in snapshots; a folder shared by snapshots and without matches is searched once."""

    def __init__(self, pattern: str) -> None:
        """Look for entries that match a pattern, as ``folders/patterns.py`` describes it.

        Raises:
            UsageError: the pattern is malformed.
        """
        self._pattern = PathPatterns([pattern])
        self._barren: set[bytes] = set()

    def run(self, tree: SnapshotTree) -> Iterator[TreeEntry]:
        """Yield the matching entries of a snapshot.

        Raises:
            ShardcastError: a listing is damaged, or the server does not answer.
        """
        open_folders = self._opened(tree, tree.root, b"")
        while open_folders:
            folder = open_folders[-1]
            entry = next(folder.entries, None)
            if entry is None:
                self._leave(open_folders)
                continue
            below = join(folder.path, entry.name)
            is_folder = entry.kind is SavedKind.FOLDER
            if self._pattern.match(below + b"/" if is_folder else below):
                folder.found = True
                yield TreeEntry(below, entry)
            if is_folder:
                check_depth(len(open_folders), below)
                open_folders += self._opened(tree, entry, below)

    def _opened(self, tree: SnapshotTree, folder: SavedEntry, path: bytes) -> list[_Searched]:
        """Return the opened folder in a list; an empty list if an earlier search found no match below."""
        key = blake3(b"".join(folder.segments) + path).digest(16)
        return [] if key in self._barren else [_Searched(path, key, tree.entries(folder, path))]

    def _leave(self, open_folders: list[_Searched]) -> None:
        """Close a finished folder: tell the folder above of a match, or remember that there is none."""
        done = open_folders.pop()
        if done.found and open_folders:
            open_folders[-1].found = True
        if not done.found and len(self._barren) < _MAX_REMEMBERED:
            self._barren.add(done.key)


class SnapshotChange(NamedTuple):
    """A difference of two snapshots.

    Attributes:
        sign: ``+`` added, ``-`` removed, ``M`` changed.
        path: from the top.
        entry: the entry in the newer snapshot; for a removed one in the older snapshot.
        what: names of the changed fields; ``content`` for the bytes, the target or the device.
    """

    sign: str
    path: bytes
    entry: SavedEntry
    what: tuple[str, ...] = ()


class _BothFolders(NamedTuple):
    """A folder in both snapshots, with different listings."""

    path: bytes
    before: SavedEntry
    after: SavedEntry


def diff_trees(old: SnapshotTree, new: SnapshotTree) -> Iterator[SnapshotChange]:
    """Yield the differences of two snapshots in the order of their paths; of equal folders nothing is read.

    Raises:
        ShardcastError: a listing is damaged, or the server does not answer.
    """
    open_folders = [_diff_folders(old, new, _BothFolders(b"", old.root, new.root))]
    while open_folders:
        found = next(open_folders[-1], None)
        if found is None:
            open_folders.pop()
        elif isinstance(found, SnapshotChange):
            yield found
        else:
            check_depth(len(open_folders), found.path)
            open_folders.append(_diff_folders(old, new, found))


def _diff_folders(
    old: SnapshotTree, new: SnapshotTree, both: _BothFolders
) -> Iterator[SnapshotChange | _BothFolders]:
    """Yield the differences of two states of a folder; segments shared by both are not read."""
    path, shared = both.path, set(both.before.segments) & set(both.after.segments)
    olds = old.entries(_without(both.before, shared), path)
    news = new.entries(_without(both.after, shared), path)
    one, two = next(olds, None), next(news, None)
    while one is not None or two is not None:
        if two is None or (one is not None and one.name < two.name):
            assert one is not None
            yield from _all_of("-", old, one, path)
            one = next(olds, None)
        elif one is None or two.name < one.name:
            yield from _all_of("+", new, two, path)
            two = next(news, None)
        else:
            yield from _diff_entries(old, new, one, two, path)
            one, two = next(olds, None), next(news, None)


def _without(folder: SavedEntry, shared: set[bytes]) -> SavedEntry:
    """Return a folder without the shared segments of its listing."""
    kept = tuple(segment for segment in folder.segments if segment not in shared)
    return SavedEntry(folder.name, SavedKind.FOLDER, segments=kept)


def _all_of(sign: str, tree: SnapshotTree, entry: SavedEntry, path: bytes) -> Iterator[SnapshotChange]:
    """Yield an entry and everything below as added or removed."""
    top = TreeEntry(join(path, entry.name), entry)
    below = tree.walk(entry, top.path) if entry.kind is SavedKind.FOLDER else iter(())
    for found in chain((top,), below):
        yield SnapshotChange(sign, *found)


def _diff_entries(
    old: SnapshotTree, new: SnapshotTree, one: SavedEntry, two: SavedEntry, path: bytes
) -> Iterator[SnapshotChange | _BothFolders]:
    """Yield the differences of two states of one name."""
    if one.kind is not two.kind:
        yield from _all_of("-", old, one, path)
        yield from _all_of("+", new, two, path)
        return
    what = changed_fields(one, two)
    if what:
        yield SnapshotChange("M", join(path, two.name), two, what)
    if one.kind is SavedKind.FOLDER and one.segments != two.segments:
        yield _BothFolders(join(path, one.name), one, two)


def changed_fields(one: SavedEntry, two: SavedEntry) -> tuple[str, ...]:
    """Return the names of an entry's changed fields, without a folder's time: each new name changes that."""
    content = _content(one) != _content(two) and one.kind is not SavedKind.FOLDER
    is_folder = one.kind is SavedKind.FOLDER
    fields = [
        field
        for field in _METADATA
        if getattr(one, field) != getattr(two, field) and not (is_folder and field == "mtime")
    ]
    return (*(["content"] if content else []), *fields)


def _content(entry: SavedEntry) -> object:
    return entry.size, entry.chunks, entry.chunk_lists, entry.target, entry.device


def read_file(tree: SnapshotTree, reader: ChunkReader, entry: SavedEntry) -> Iterator[bytes]:
    """Yield the bytes of a file in order, each part verified.

    Raises:
        UsageError: the entry is no file.
        IntegrityError: some bytes are damaged, or gone.
        ShardcastError: the server does not answer.
    """
    if entry.kind is not SavedKind.FILE:
        raise UsageError(f"{shown(entry.name)} is a {entry.kind.value}, no file")
    if entry.size and not entry.chunks and not entry.chunk_lists:
        raise IntegrityError(f"the bytes of {shown(entry.name)} were not saved: {'; '.join(entry.problems)}")
    batch: list[Chunk] = []
    room = _AT_ONCE
    for chunk in tree.chunks(entry):
        if batch and chunk.size > room:
            yield from _read_batch(reader, batch, shown(entry.name))
            batch, room = [], _AT_ONCE
        batch.append(chunk)
        room -= chunk.size
    yield from _read_batch(reader, batch, shown(entry.name))


def _read_batch(reader: ChunkReader, batch: Sequence[Chunk], file: str) -> Iterator[bytes]:
    """Yield the bytes of some chunks of a file, fetched together.

    Raises:
        IntegrityError: a chunk is damaged or gone, or has another size.
        ShardcastError: the server does not answer.
    """
    parts, missing = reader.plan(chunk.id for chunk in batch)
    if missing:
        raise IntegrityError(
            f"{reader.url}: chunk {missing[0].hex()[:16]} of {file} is missing at the server; "
            "`shardcast backup check` lists the hurt snapshots"
        )
    found: dict[bytes, bytes] = {}
    for part in parts:
        for chunk, plain in reader.fetch_moved(ChunkKind.DATA, part):
            if isinstance(plain, IntegrityError):
                raise plain
            found[chunk] = plain
    for wanted in batch:
        if len(found[wanted.id]) != wanted.size:
            raise IntegrityError(
                f"{reader.url}: chunk {wanted.id.hex()[:16]} of {file} has {len(found[wanted.id])} bytes "
                f"instead of {wanted.size}, by the file's entry"
            )
        yield found[wanted.id]
