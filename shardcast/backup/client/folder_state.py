"""The current state of a folder: its names, and facts that identify an unchanged file."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from shardcast.backup.client.folder_cache import FACTS, FolderSums
from shardcast.backup.ignoring import CACHE_SIGNATURE, CACHE_TAG, IGNORE_FILES, MAX_IGNORE_FILE, IgnoreRules
from shardcast.file_identity import WORD

_SLASH = ord("/")
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SETTLED = 2 * 10**9
"""Nanoseconds after which a change of a file shows in its times: some file systems count whole seconds."""

Problem = Callable[[bytes, str], None]
"""Called with the path of an entry not saved whole, and the reason in words."""


@dataclass(slots=True)
class FolderState:
    """The current state of a folder.

    Attributes:
        rules: those of the folder, including its ignore files.
        names: in order, those of subfolders with ``/`` at the end.
        facts: ``FACTS`` of each name.
        unsettled: indexes of names to read again next time: changed within the last seconds, so a further
            change may not show in the times, or not saved whole.
        others: indexes of names of links, pipes and devices.
        linked: indexes of files with several names.
        left_out: number of names left out by the rules.
        sockets: number of sockets; their content cannot be saved.
    """

    rules: IgnoreRules
    names: list[bytes] = field(default_factory=list)
    facts: bytearray = field(default_factory=bytearray)
    unsettled: set[int] = field(default_factory=set)
    others: set[int] = field(default_factory=set)
    linked: set[int] = field(default_factory=set)
    left_out: int = 0
    sockets: int = 0

    def facts_at(self, index: int) -> bytes:
        """Return the facts of a name."""
        return bytes(self.facts[index * FACTS.size : (index + 1) * FACTS.size])

    def folders(self) -> list[int]:
        """Return the indexes of subfolders."""
        return [index for index, name in enumerate(self.names) if name[-1] == _SLASH]

    def sums(self) -> FolderSums:
        """Return the sums of the folder by itself."""
        folders = set(self.folders())
        sizes = [size for size, *_ in FACTS.iter_unpack(self.facts)]
        others = sum(sizes[index] for index in folders | self.others)
        return FolderSums(len(sizes) - len(folders), 1, sum(sizes) - others)

    def keep_only(self, name: bytes) -> None:
        """Leave out all names but one."""
        left_out = self.left_out
        _leave_out(self, [name])
        self.left_out += left_out

    def recorded(self, gone: AbstractSet[int]) -> tuple[bytes, bytes]:
        """Return the names and facts for the cache; unsettled names get facts that never match.

        Args:
            gone: indexes of names without an entry.
        """
        for index in self.unsettled:
            FACTS.pack_into(self.facts, index * FACTS.size, -1, 0, 0, 0)
        if not gone:
            return b"\0".join(self.names), bytes(self.facts)
        kept = [index for index in range(len(self.names)) if index not in gone]
        return b"\0".join(self.names[index] for index in kept), b"".join(map(self.facts_at, kept))


def read_state(folder: int, path: bytes, rules: IgnoreRules, problem: Problem) -> FolderState:
    """Return the state of an open folder.

    If ``rules`` allow ignore files, those in the folder count for the folder and everything below.

    Args:
        folder: the folder's descriptor.
        path: path from the top, with ``/`` at the end; empty for the top.
        rules: names to leave out.
        problem: called with each unreadable ignore file, and each name whose ``stat`` fails.

    Raises:
        OSError: the folder cannot be listed.
    """
    recent = time.time_ns() - _SETTLED
    listed = sorted(map(os.fsencode, os.listdir(folder)))
    found = FolderState(rules_in(folder, path, listed, rules, problem))
    names, facts = found.names, found.facts
    look, pack, word, is_folder, is_file = os.stat, FACTS.pack, WORD, stat.S_ISDIR, stat.S_ISREG
    for name in listed:
        try:
            seen = look(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            continue  # it has gone since the folder was listed
        except OSError as error:
            problem(path + name, f"can't be looked at: {error.strerror}")
            continue
        changed = seen.st_ctime_ns
        mode = seen.st_mode
        if is_folder(mode):
            name += b"/"
        elif not is_file(mode):
            if stat.S_ISSOCK(mode):
                found.sockets += 1
                continue
            found.others.add(len(names))
        elif seen.st_nlink > 1:
            found.linked.add(len(names))
        if changed > recent:
            found.unsettled.add(len(names))
        names.append(name)
        facts += pack(seen.st_size, seen.st_mtime_ns & word, changed & word, seen.st_ino)
    _leave_out(found, found.rules.keep(path, names))
    return found


def rules_in(
    folder: int, path: bytes, names: list[bytes], rules: IgnoreRules, problem: Problem
) -> IgnoreRules:
    """Return the rules of a folder, including its ignore files if the rules allow these.

    An ignore file of more than ``MAX_IGNORE_FILE`` bytes does not count.

    Args:
        folder: the folder's descriptor.
        path: path from the top, with ``/`` at the end; empty for the top.
        names: names in the folder.
        rules: those of the folder above.
        problem: called with each unreadable ignore file.
    """
    for name in IGNORE_FILES if rules.by_files else ():
        if name not in names:
            continue
        try:
            if (text := _read_small(folder, name, MAX_IGNORE_FILE)) is not None:
                rules = rules.with_file(path, text)
        except OSError as error:
            problem(path + name, f"its patterns can't be read: {error.strerror}")
    return rules


def is_cache(folder: int) -> bool:
    """Return whether an open folder is marked as a cache (CACHEDIR.TAG)."""
    try:
        text = _read_small(folder, CACHE_TAG, len(CACHE_SIGNATURE), cut=True)
    except OSError:
        return False
    return text == CACHE_SIGNATURE


def _read_small(folder: int, name: bytes, max_bytes: int, *, cut: bool = False) -> bytes | None:
    """Return the bytes of a plain file; None if missing, of another kind, or longer and not to ``cut``."""
    try:
        descriptor = os.open(name, _FLAGS, dir_fd=folder)
    except FileNotFoundError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        text = os.read(descriptor, max_bytes + (not cut))
        return text if len(text) <= max_bytes else None
    finally:
        os.close(descriptor)


def _leave_out(state: FolderState, kept: list[bytes]) -> None:
    """Drop the names outside ``kept``, with their facts."""
    state.left_out = len(state.names) - len(kept)
    if not state.left_out:
        return
    wanted, size = set(kept), FACTS.size
    indexes = [index for index, name in enumerate(state.names) if name in wanted]
    for marked in (state.unsettled, state.others, state.linked):
        moved = {new for new, old in enumerate(indexes) if old in marked}
        marked.clear()
        marked |= moved
    state.facts = bytearray().join(state.facts[index * size : (index + 1) * size] for index in indexes)
    state.names = kept
