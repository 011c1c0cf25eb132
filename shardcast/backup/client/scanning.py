"""A preview of a backup: the names to save, without reading any file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from shardcast.backup.client.folder_cache import FACTS
from shardcast.backup.client.folder_state import FolderState, Problem, is_cache, read_state
from shardcast.backup.client.tree_saver import MAX_DEPTH, SaveRules
from shardcast.backup.ignoring import CACHE_TAG, IgnoreRules
from shardcast.open_files import close

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class ScannedName:
    """A name to save.

    Attributes:
        path: from the top; a folder's ends in ``/``.
        size: bytes of a file; 0 for another kind.
    """

    path: bytes
    size: int


class Scan:
    """A walk through a folder by the rules of a backup.

    Attributes:
        left_out: names left out by rules, so far.
        sockets: sockets, likewise.
    """

    def __init__(self, rules: SaveRules, problem: Problem) -> None:
        """Walk nowhere yet.

        Args:
            rules: names to leave out.
            problem: called with each unreadable folder or ignore file, and each name whose ``stat`` fails.
        """
        self.left_out = self.sockets = 0
        self._rules = rules
        self._problem = problem

    def names(self, top: bytes) -> Iterator[ScannedName]:
        """Yield the names to save, each folder before its entries.

        Raises:
            OSError: the folder cannot be listed.
        """
        descriptor = os.open(top, _FLAGS)
        device = os.fstat(descriptor).st_dev
        frames = [(descriptor, b"", self._state(descriptor, b"", self._rules.ignore), 0)]
        try:
            while frames:
                folder, path, state, index = frames.pop()
                if index == len(state.names):
                    close(folder)
                    continue
                frames.append((folder, path, state, index + 1))
                name = state.names[index]
                is_folder = name.endswith(b"/")
                plain = not is_folder and index not in state.others
                size = FACTS.unpack(state.facts_at(index))[0] if plain else 0
                yield ScannedName(path + name, size)
                if (
                    is_folder
                    and (below := self._enter(folder, name, path + name, device, len(frames))) is not None
                ):
                    frames.append((below, path + name, self._state(below, path + name, state.rules), 0))
        finally:
            for folder, *_ in frames:
                close(folder)

    def _enter(self, folder: int, name: bytes, path: bytes, device: int, depth: int) -> int | None:
        """Return the descriptor of a subfolder; None for one whose content a backup would not save.

        That is one on another file system, or, reported as a problem, one too deep or without permission.
        """
        try:
            if depth >= MAX_DEPTH:
                raise OSError(0, f"folders are nested more than {MAX_DEPTH} deep")
            descriptor = os.open(name[:-1], _FLAGS | os.O_NOFOLLOW, dir_fd=folder)
        except OSError as error:
            self._problem(path, f"can't be listed: {error.strerror}")
            return None
        if self._rules.one_file_system and os.fstat(descriptor).st_dev != device:
            self.left_out += 1
            close(descriptor)
            return None
        return descriptor

    def _state(self, descriptor: int, path: bytes, rules: IgnoreRules) -> FolderState:
        """Return the state of a folder after the rules."""
        state = read_state(descriptor, path, rules, self._problem)
        if self._rules.exclude_caches and CACHE_TAG in state.names and is_cache(descriptor):
            state.keep_only(CACHE_TAG)
        self.left_out += state.left_out
        self.sockets += state.sockets
        return state
