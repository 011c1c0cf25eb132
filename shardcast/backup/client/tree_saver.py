"""A folder on the disk ─▶ chunks, listings and the next cache. Unchanged folders come from the last cache.

A folder is finished after its subfolders, since its listing has the ids of theirs. Descriptors lead from
folder to folder and no link is followed, so no file outside the top folder is read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from shardcast.backup.attributes import read_attributes
from shardcast.backup.client.cache_plan import CachePlan
from shardcast.backup.client.file_reader import GONE, UNREADABLE, Fields
from shardcast.backup.client.folder_cache import FACTS, CachedFolder, FolderCache, FolderSums
from shardcast.backup.client.folder_state import Problem, is_cache, read_state
from shardcast.backup.client.id_changes import IdChanges, split
from shardcast.backup.client.listing_builder import ListingBuilder, OpenFolder
from shardcast.backup.client.old_listing import OldListing
from shardcast.backup.ignoring import CACHE_TAG, IgnoreRules
from shardcast.open_files import close

MAX_DEPTH = 400
"""Folders below each other: each takes a descriptor."""
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class SaveRules:
    """Rules of a backup.

    Attributes:
        ignore: names to leave out.
        exclude_caches: whether to leave out the content of folders with a CACHEDIR.TAG.
        one_file_system: whether to leave out other file systems mounted below.
    """

    ignore: IgnoreRules
    exclude_caches: bool = False
    one_file_system: bool = False


@dataclass(slots=True)
class SaveCounts:
    """Counts of saved and omitted entries.

    Attributes:
        files: files and other entries, without folders, so far.
        folders: folders, so far.
        bytes: of the files, so far.
        left_out: names left out by rules.
        sockets: sockets; their content cannot be saved.
    """

    files: int = 0
    folders: int = 0
    bytes: int = 0
    left_out: int = 0
    sockets: int = 0

    def add(self, sums: FolderSums) -> None:
        """Add the sums of a folder without its subfolders."""
        self.files += sums.files
        self.folders += sums.folders
        self.bytes += sums.bytes


@dataclass(slots=True)
class _Known:
    """A subfolder in the cache: its facts, and the range of its record."""

    facts: bytes
    range: tuple[int, int]


@dataclass(slots=True)
class _Frame:
    """An open folder on the path to the current one."""

    open: OpenFolder
    name: bytes
    index: int
    touched: bool
    cached: CachedFolder | None
    known: Mapping[bytes, _Known]
    mark: int
    pending: list[int]
    subfolders: dict[int, Fields | None] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    below: FolderSums = field(default_factory=FolderSums)


@dataclass(frozen=True, slots=True)
class SavedTree:
    """A saved tree.

    Attributes:
        root: fields of the top folder's entry.
        sums: over the whole tree.
    """

    root: Fields
    sums: FolderSums


class TreeSaver:
    """A saver of one folder and everything below.

    Attributes:
        counts: the counts so far.
    """

    def __init__(
        self,
        builder: ListingBuilder,
        rules: SaveRules,
        plan: CachePlan,
        changes: IdChanges,
        problem: Problem,
        key: bytes,
        *,
        cache: FolderCache | None = None,
        distrusted: AbstractSet[bytes] = frozenset(),
        visited: Callable[[bytes], None] = lambda path: None,
    ) -> None:
        """Save nothing yet.

        Args:
            builder: builds listings.
            rules: of the backup.
            plan: the next cache.
            changes: collects the added and removed ids.
            problem: called with each entry not saved whole.
            key: the key of ids.
            cache: the last cache; None to read everything.
            distrusted: ids missing at the server: files and listings with one of them are read again.
            visited: called with the path of each entered folder.
        """
        self.counts = SaveCounts()
        self._builder = builder
        self._rules = rules
        self._plan = plan
        self._changes = changes
        self._problem = problem
        self._key = key
        self._cache = cache
        self._distrusted = distrusted
        self._visited = visited
        self._device = 0

    def save(self, top: int) -> SavedTree:
        """Save a folder with everything below.

        Args:
            top: the folder's descriptor, closed afterwards, also after an error.

        Raises:
            OSError: the folder cannot be listed, or the cache cannot be written.
            PeerError, UploadRefused: a chunk could not be sent.
            CacheDamaged: the last cache is damaged.
        """
        self._device = os.fstat(top).st_dev
        cached = self._cache.top() if self._cache else None
        frames: list[_Frame] = []
        try:
            frames.append(self._enter(top, None, 0, cached, True))
            while True:
                frame = frames[-1]
                if frame.pending:
                    if (below := self._descend(frame, frame.pending.pop(), len(frames))) is not None:
                        frames.append(below)
                    continue
                fields, sums = self._finish(frame, frames[-2] if len(frames) > 1 else None)
                close(frames.pop().open.descriptor)
                if not frames:
                    return SavedTree(fields or {}, sums)
        finally:
            for frame in frames:
                close(frame.open.descriptor)

    def _enter(
        self,
        descriptor: int,
        above: OpenFolder | None,
        index: int,
        cached: CachedFolder | None,
        touched: bool,
    ) -> _Frame:
        """List a folder, given its index in the folder above; close its descriptor after an error."""
        name = above.state.names[index] if above else b""
        path = above.path + name if above else b""
        rules = above.state.rules if above else self._rules.ignore
        try:
            self._visited(path)
            mark = self._plan.mark()
            state = read_state(descriptor, path, rules, self._problem)
            if self._rules.exclude_caches and CACHE_TAG in state.names and is_cache(descriptor):
                state.keep_only(CACHE_TAG)
            self.counts.left_out += state.left_out
            self.counts.sockets += state.sockets
            device = os.fstat(descriptor).st_dev
        except BaseException:
            close(descriptor)
            raise
        known = _known_subfolders(cached) if cached else {}
        opened = OpenFolder(descriptor, path, device, state)
        return _Frame(opened, name, index, touched, cached, known, mark, state.folders()[::-1])

    def _descend(self, frame: _Frame, index: int, depth: int) -> _Frame | None:
        """Enter a subfolder; None for a removed, unreadable or left-out one, noted in ``frame``."""
        state, folder = frame.open.state, frame.open
        name, facts = state.names[index], state.facts_at(index)
        path, known = folder.path + name, frame.known.get(name)
        touched = known is None or known.facts != facts
        try:
            if depth >= MAX_DEPTH:
                raise OSError(0, f"folders are nested more than {MAX_DEPTH} deep")
            descriptor = os.open(name[:-1], _FLAGS, dir_fd=folder.descriptor)
            if self._rules.one_file_system and os.fstat(descriptor).st_dev != self._device:
                self.counts.left_out += 1
                fields = self._leaf(folder.descriptor, name, descriptor)
                was_leaf = known is not None and known.range[0] == known.range[1]
                frame.subfolders[index] = None if was_leaf and not touched else fields
                return None
            cached = self._cache.folder(*known.range) if known and self._cache else None
            return self._enter(descriptor, folder, index, cached, touched)
        except OSError as error:
            frame.subfolders[index] = {}
            if error.errno not in GONE:
                state.unsettled.add(index)
                frame.subfolders[index] = self._unreadable(folder.descriptor, name, path, error)
            return None

    def _finish(self, frame: _Frame, above: _Frame | None) -> tuple[Fields | None, FolderSums]:
        """Build the listing of a folder after its subfolders, and pass its entry to the folder above.

        Returns:
            The fields of the folder's entry, None if unchanged; and the folder's sums.
        """
        folder, cached = frame.open, frame.cached
        if cached is not None and self._is_unchanged(frame, cached):
            sums, size = cached.sums, self._plan.keep(cached, frame.mark)
            segments, changed = cached.segments, False
        else:
            sums, changed = folder.state.sums().plus(frame.below), True
            size, segments = self._rebuild(frame, cached, sums)
        self.counts.add(sums.minus(frame.below))
        fields: Fields | None = None
        if changed or frame.touched:
            found = os.fstat(folder.descriptor)
            fields = {"name": frame.name[:-1], "kind": "folder", "segments": segments}
            fields |= dict(read_attributes(folder.descriptor, b".", found, descriptor=folder.descriptor))
            if "problems" in fields:
                self._problem(folder.path, "; ".join(fields["problems"]))
        if above is not None:
            above.subfolders[frame.index] = fields
            above.sizes[frame.index] = size
            above.below = above.below.plus(sums)
        return fields, sums

    def _is_unchanged(self, frame: _Frame, cached: CachedFolder) -> bool:
        """Return whether a folder, with everything below, is unchanged and needs no distrusted id."""
        state = frame.open.state
        if any(fields is not None for fields in frame.subfolders.values()):
            return False
        if state.facts != cached.facts or b"\0".join(state.names) != cached.names:
            return False
        return not self._distrusted or not self._needs_distrusted(cached)

    def _needs_distrusted(self, cached: CachedFolder) -> bool:
        assert self._cache is not None
        ids = self._cache.ids(cached, below=False)
        return any(not self._distrusted.isdisjoint(split(joined)) for joined in ids)

    def _rebuild(
        self, frame: _Frame, cached: CachedFolder | None, sums: FolderSums
    ) -> tuple[int, tuple[bytes, ...]]:
        """Build a changed folder's listing and cache record; return the range's size, and the segments."""
        state = frame.open.state
        self._note_vanished(frame)
        writer = self._plan.writer()
        old = None
        if cached is not None and self._cache is not None:
            old = OldListing(self._cache, cached, state.names, self._key, self._distrusted)
        parts_start = writer.position
        built = self._builder.build(frame.open, frame.subfolders, old, writer, self._changes)
        names, facts = state.recorded(built.gone)
        below = sum(frame.sizes.values())
        children = [frame.sizes.get(index, 0) for index in state.folders() if index not in built.gone]
        writer.add_folder(parts_start - below, parts_start, built.index, names, facts, sums, children)
        return writer.position - (parts_start - below), built.segments

    def _note_vanished(self, frame: _Frame) -> None:
        """Add the ids of removed subfolders, and everything below, to the removed ids."""
        if not frame.known or self._cache is None:
            return
        for name in frame.known.keys() - set(frame.open.state.names):
            if (folder := self._cache.folder(*frame.known[name].range)) is not None:
                for joined in self._cache.ids(folder):
                    self._changes.add_old(joined)

    def _leaf(self, folder: int, name: bytes, descriptor: int) -> Fields:
        """Return the fields of a folder whose content is left out, and close the folder."""
        try:
            fields: Fields = {"name": name[:-1], "kind": "folder"}
            return fields | read_attributes(folder, name[:-1], os.fstat(descriptor), descriptor=descriptor)
        finally:
            close(descriptor)

    def _unreadable(self, folder: int, name: bytes, path: bytes, error: OSError) -> Fields:
        """Report an unreadable folder, and return its fields; no fields for a removed one."""
        why = f"{UNREADABLE}: {error.strerror}"
        self._problem(path, why)
        try:
            found = os.stat(name[:-1], dir_fd=folder, follow_symlinks=False)
        except OSError:
            return {}
        fields: Fields = {"name": name[:-1], "kind": "folder", "problems": [why]}
        fields |= {"mode": stat.S_IMODE(found.st_mode), "uid": found.st_uid, "gid": found.st_gid}
        return fields | {"mtime": found.st_mtime_ns}


def _known_subfolders(cached: CachedFolder) -> dict[bytes, _Known]:
    """Return the subfolders of a folder in the cache."""
    found = {}
    children = iter(cached.children)
    if not cached.children:
        return {}
    for index, name in enumerate(cached.names.split(b"\0")):
        if name[-1:] == b"/":
            facts = cached.facts[index * FACTS.size : (index + 1) * FACTS.size]
            found[name] = _Known(facts, next(children))
    return found
