"""States of a disk after a power cut, by no more than POSIX promises.

A file's bytes are certain as of its last fsync. What was written later may be there, lost, or there in part;
where the file grew, it may have zeros instead. A name (made, renamed, linked, removed) is certain once its
folder was synced; until then each change of a name is there or not, whatever happened to the others. Times
and modes are certain with the bytes. One more promise of a file system is assumed: a rename happens or
doesn't, also from one folder to another, where the old name of a file may remain until its own folder was
synced.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import TypeAlias

KEPT, LOST, ZEROED, TORN = "kept", "lost", "zeroed", "torn"
"""What becomes of the bytes that were written to a file since its last fsync."""
MAPPED = "-shm"
"""The end of the name of SQLite's index of its log, which it writes through memory and makes anew after a
cut: left out of what is compared and restored."""


@dataclass(eq=False)
class File:
    """An inode with bytes: as it is, and as of its last sync."""

    inode: int
    data: bytearray = field(default_factory=bytearray)
    mtime: int = 0
    mode: int = 0o100644
    synced: tuple[bytes, int, int] = (b"", 0, 0o100644)
    writes: list[tuple[int, bytes]] = field(default_factory=list)

    @property
    def is_dirty(self) -> bool:
        """Whether something of the file is not certain."""
        now: tuple[bytes, int, int] = bytes(self.data), self.mtime, self.mode
        return bool(self.writes) or self.synced != now

    def sync(self) -> None:
        """Make the file certain."""
        self.synced, self.writes = (bytes(self.data), self.mtime, self.mode), []

    def after(self, fate: str) -> tuple[bytes, int, int]:
        """Return bytes, time and mode after a cut."""
        if fate == LOST:
            return self.synced
        if fate == KEPT:
            return bytes(self.data), self.mtime, self.mode
        data = bytearray(self.synced[0][: len(self.data)].ljust(len(self.data), b"\0"))
        written = self.writes[: (len(self.writes) + 1) // 2] if fate == TORN else []
        for at, part in written:
            part = part[: max(1, len(part) // 2)] if (at, part) == written[-1] else part
            data[at : at + len(part)] = part[: max(0, len(data) - at)]
        if fate == ZEROED:
            for at, part in self.writes:
                data[at : at + len(part)] = bytes(len(data[at : at + len(part)]))
        return bytes(data), self.mtime, self.mode


@dataclass(eq=False)
class Folder:
    """A folder: its names as they are, and those that are certain."""

    inode: int
    names: dict[str, Node] = field(default_factory=dict)
    certain: dict[str, Node] = field(default_factory=dict)
    mtime: int | None = None
    """Where somebody set it."""
    synced_mtime: int | None = None

    @property
    def is_dirty(self) -> bool:
        """Whether a name of the folder is not certain."""
        return self.mtime != self.synced_mtime


@dataclass(eq=False)
class Link:
    """A symbolic link."""

    target: str


Node: TypeAlias = "File | Folder | Link"
Name = tuple[Folder, str]


@dataclass(eq=False)
class Change:
    """A change of names that no sync has made certain: a name that appeared, and one that went."""

    node: Node
    made: Name | None = None
    gone: Name | None = None

    def apply(self, names: Callable[[Folder], dict[str, Node]]) -> None:
        """Apply the change to names."""
        if self.made:
            names(self.made[0])[self.made[1]] = self.node
        if self.gone and names(self.gone[0]).get(self.gone[1]) is self.node:
            del names(self.gone[0])[self.gone[1]]


@dataclass(frozen=True)
class State:
    """The outcome of a cut.

    Attributes:
        lost: changes of names that were lost.
        fates: what became of the files that had unsynced bytes; ``KEPT`` where a file is missing here.
        words: the state in words.
        is_all: whether all names, and all bytes, had the same fate.
        is_random: whether the state was drawn at random.
    """

    lost: frozenset[Change]
    fates: Mapping[File | Folder, str]
    words: str
    is_all: bool = False
    is_random: bool = False

    @property
    def loses_folder(self) -> bool:
        """Whether everything is there but one name, that of a folder."""
        return not self.fates and [type(change.node) for change in self.lost] == [Folder]

    @property
    def alone(self) -> set[int]:
        """Inodes of which one must be synced to make the only lost thing certain."""
        things = [*self.lost, *self.fates]
        if len(things) != 1:
            return set()
        thing = things[0]
        if isinstance(thing, Change):
            return {place[0].inode for place in (thing.made, thing.gone) if place}
        return {thing.inode}


@dataclass(frozen=True)
class Entry:
    """A name after a cut."""

    path: str
    node: Node
    data: bytes = b""
    mtime: int | None = None
    mode: int = 0


class Disk:
    """A folder from its beginning on: the effect of each recorded call."""

    def __init__(self, base: str, inode: int) -> None:
        self.base = base
        self.root = Folder(inode)
        self.changes: list[Change] = []
        self._inodes: dict[int, Node] = {inode: self.root}

    # What is recorded

    def apply(self, call: str, values: list[str]) -> bool:
        """Apply a recorded call; return whether it changed anything here."""
        return bool(getattr(self, f"_{call}")(*values))

    def _open(self, inode: str, size: str, mtime: str, mode: str, cut: str, path: str) -> bool:
        place = self._place(path)
        if place is None:
            # A file elsewhere has the inode now: its bytes are not this one's, perhaps still certain.
            self._inodes.pop(int(inode), None)
            return False
        found = place[0].names.get(place[1])
        if found is None:
            made = File(int(inode), mtime=int(mtime), mode=int(mode), synced=(b"", int(mtime), int(mode)))
            self._make(place, made)
            return True
        if cut == "1" and isinstance(found, File) and found.data:
            found.writes.append((0, b""))
            found.data.clear()
            found.mtime = int(mtime)
            return True
        return False

    def _write(self, inode: str, size: str, mtime: str, mode: str, at: str, data: str) -> bool:
        file = self._inodes.get(int(inode))
        if not isinstance(file, File):
            return False
        start, part = int(at), bytes.fromhex(data)
        file.data.extend(bytes(max(0, start + len(part) - len(file.data))))
        file.data[start : start + len(part)] = part
        file.writes.append((start, part))
        return self._look(inode, size, mtime, mode)

    def _size(self, inode: str, size: str, mtime: str, mode: str) -> bool:
        file = self._inodes.get(int(inode))
        if not isinstance(file, File):
            return False
        del file.data[int(size) :]
        file.data.extend(bytes(int(size) - len(file.data)))
        return self._look(inode, size, mtime, mode)

    def _look(self, inode: str, size: str, mtime: str, mode: str) -> bool:
        node = self._inodes.get(int(inode))
        if isinstance(node, File):
            node.mtime, node.mode = int(mtime), int(mode)
        elif isinstance(node, Folder):
            node.mtime = int(mtime)
        return node is not None

    def _sync(self, inode: str, *_: str) -> bool:
        node = self._inodes.get(int(inode))
        if isinstance(node, File):
            node.sync()
        elif isinstance(node, Folder):
            self._sync_folder(node)
        return node is not None

    def _all(self) -> bool:
        raise AssertionError("a call that syncs everything makes all that others do durable, too")

    def _mmap(self, inode: str, *_: str) -> bool:
        node = self._inodes.get(int(inode))
        name = self._name(node) if node else MAPPED
        assert name.endswith(MAPPED), f"{name} is written through memory, which is not recorded"
        return False

    def _mkdir(self, inode: str, path: str) -> bool:
        place = self._place(path)
        return place is not None and self._make(place, Folder(int(inode)))

    def _symlink(self, inode: str, path: str, target: str) -> bool:
        place = self._place(path)
        return place is not None and self._make(place, Link(target))

    def _special(self, inode: str, path: str) -> bool:
        return False

    def _remove(self, inode: str, path: str) -> bool:
        place = self._place(path)
        node = place[0].names.pop(place[1], None) if place else None
        if place is None or node is None:
            return False
        self.changes.append(Change(node, gone=place))
        return True

    def _rename(self, inode: str, size: str, mtime: str, mode: str, path: str, target: str) -> bool:
        source, place = self._place(path), self._place(target)
        node = source[0].names.get(source[1]) if source else None
        if place is None:
            assert node is None, f"{path} leaves what is recorded"
            return False
        if source is None or node is None:
            return self._make(place, self._stranger(inode, size, mtime, mode, target))
        if place[0].names.get(place[1]) is not node:  # else it is a link to the same file, and both stay
            del source[0].names[source[1]]
            place[0].names[place[1]] = node
            self.changes.append(Change(node, place, source))
        return True

    def _link(self, inode: str, size: str, mtime: str, mode: str, path: str, target: str) -> bool:
        place = self._place(target)
        if place is None:
            return False
        node = self._inodes.get(int(inode)) or self._stranger(inode, size, mtime, mode, target)
        return self._make(place, node)

    def _exchange(self, *_: str) -> bool:
        raise AssertionError("names that are exchanged are not replayed yet")

    def _stranger(self, inode: str, size: str, mtime: str, mode: str, path: str) -> File:
        raise AssertionError(f"{path} was not made where it is recorded")

    def _make(self, place: Name, node: Node) -> bool:
        place[0].names[place[1]] = node
        if isinstance(node, (File, Folder)):
            self._inodes[node.inode] = node
        self.changes.append(Change(node, made=place))
        return True

    def _place(self, path: str) -> Name | None:
        """Return the folder and the name of a path."""
        path = os.path.normpath(path)
        if not path.startswith(f"{self.base}/"):
            return None
        *above, name = path[len(self.base) + 1 :].split("/")
        folder = self.root
        for one in above:
            found = folder.names.get(one)
            if not isinstance(found, Folder):
                raise AssertionError(f"{path} is in a folder that was not recorded")
            folder = found
        return folder, name

    def _sync_folder(self, folder: Folder) -> None:
        folder.synced_mtime = folder.mtime
        left: list[Change] = []
        for change in self.changes:
            where = [one[0] for one in (change.gone, change.made) if one]
            is_between = folder in where and len(set(map(id, where))) == 2
            if is_between and (where[0] is folder or isinstance(change.node, Folder)):
                # A file never vanishes: that its old name went is certain only with the new one. A folder has
                # never two names.
                change.apply(lambda one: one.certain)
                left = [one for one in left if one.made != change.made and one.gone != change.made]
            elif change.made and change.made[0] is folder:
                folder.certain[change.made[1]] = change.node
                if change.gone and change.gone[0] is not folder:
                    left.append(Change(change.node, gone=change.gone))
                else:
                    Change(change.node, gone=change.gone).apply(lambda one: one.certain)
            elif change.gone and change.gone[0] is folder:
                change.apply(lambda one: one.certain)
            else:
                left.append(change)
        self.changes = left

    # What may be left

    @property
    def dirty(self) -> list[File | Folder]:
        """Return the files with bytes, and the folders with times, that are not certain."""
        return [node for node in self._inodes.values() if not isinstance(node, Link) and node.is_dirty]

    def states(self, chance: Random, some: int) -> Iterator[State]:
        """Yield what a cut may leave now.

        That is all or nothing of what is not certain, all but one thing, one thing alone, and ``some``
        states at random.
        """
        changes, dirty = self.changes, self.dirty
        none: frozenset[Change] = frozenset()
        yield State(none, {}, "all kept", True)
        yield State(frozenset(changes), dict.fromkeys(dirty, LOST), "all lost", True)
        for fate in (LOST, ZEROED, TORN):
            yield State(none, dict.fromkeys(dirty, fate), f"names kept, bytes {fate}", True)
        yield State(frozenset(changes), {}, "bytes kept, names lost", True)
        for change in changes:
            yield State(frozenset([change]), {}, f"lost: {self._tell(change)}")
            rest = frozenset(one for one in changes if one is not change)
            yield State(rest, dict.fromkeys(dirty, LOST), f"kept alone: {self._tell(change)}")
        for file in dirty:
            for fate in (LOST, ZEROED, TORN):
                yield State(none, {file: fate}, f"bytes {fate}: {self._name(file)}")
        for _ in range(some if changes or dirty else 0):
            lost = frozenset(one for one in changes if chance.random() < 0.5)
            fates = {file: chance.choice((KEPT, LOST, ZEROED, TORN)) for file in dirty}
            told = [*map(self._tell, lost), *(f"{self._name(one)} {fate}" for one, fate in fates.items())]
            yield State(lost, fates, f"at random, lost: {', '.join(told)}", is_random=True)

    def entries(self, state: State) -> list[Entry]:
        """Return the names after a cut."""
        after: dict[Folder, dict[str, Node]] = {}

        def names(folder: Folder) -> dict[str, Node]:
            return after.setdefault(folder, dict(folder.certain))

        for change in self.changes:
            if change not in state.lost:
                change.apply(names)
        found: list[Entry] = []

        def walk(folder: Folder, above: str) -> None:
            for name, node in sorted(names(folder).items()):
                path = f"{above}{name}"
                if isinstance(node, Folder):
                    is_lost = state.fates.get(node, KEPT) != KEPT
                    found.append(Entry(path, node, mtime=node.synced_mtime if is_lost else node.mtime))
                    walk(node, f"{path}/")
                elif isinstance(node, File) and not name.endswith(MAPPED):
                    found.append(Entry(path, node, *node.after(state.fates.get(node, KEPT))))
                elif isinstance(node, Link):
                    found.append(Entry(path, node, node.target.encode()))

        walk(self.root, "")
        return found

    def now(self) -> dict[str, bytes | None]:
        """Return what is there without a cut: bytes by path, None for folders."""
        entries = self.entries(State(frozenset(), {}, "all kept"))
        return {entry.path: None if isinstance(entry.node, Folder) else entry.data for entry in entries}

    def _tell(self, change: Change) -> str:
        made, gone = (self._path(one) if one else "" for one in (change.made, change.gone))
        if not made:
            return f"that {gone} went"
        return f"that {gone} became {made}" if gone else f"the name {made}"

    def _path(self, name: Name) -> str:
        return f"{self._name(name[0])}/{name[1]}".lstrip("/")

    def _name(self, node: Node) -> str:
        """Return a path of a node, for messages."""
        pending: list[tuple[Folder, str]] = [(self.root, "")]
        if node is self.root:
            return ""
        while pending:
            folder, above = pending.pop()
            for name, node_there in {**folder.certain, **folder.names}.items():
                if node_there is node:
                    return f"{above}{name}"
                if isinstance(node_there, Folder):
                    pending.append((node_there, f"{above}{name}/"))
        return "(no name)"
