"""The bytes of a received folder for others: of large files as they lie, of the rest built again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from shardcast.file_identity import FileIdentity
from shardcast.folders.file_states import FileStates
from shardcast.folders.layout import FileRange, FolderLayout
from shardcast.folders.tree_pool import TreePool
from shardcast.open_files import close


class FolderPieces:
    """The files of one folder, open for reading while it arrives and after it got its name.

    An arriving folder is this process's alone. A named folder is the user's: no piece of a touched large file
    is given; for the rest, the receiver of ``read`` checks each piece.
    """

    def __init__(self, root: int, layout: FolderLayout) -> None:
        """Read below the folder of the descriptor ``root``; the descriptor stays open.

        Raises:
            OSError: this process has no descriptor left.
        """
        self.layout = layout
        self._trees = TreePool(root)
        self._output: Path | None = None
        self._states: FileStates | None = None
        self._reload: Callable[[], FileStates | None] = lambda: None

    def mark_named(self, output: Path, states: FileStates, reload: Callable[[], FileStates | None]) -> None:
        """Note that the folder got its name, and the states of its files at that time.

        Args:
            output: the folder.
            states: of the files.
            reload: returns the states after a renewal of their record; else None.
        """
        self._output, self._states, self._reload = output, states, reload

    @property
    def unchanged(self) -> bool:
        """Whether the folder still has its name; single files are checked later."""
        if self._output is None:
            return True
        at_path, opened = FileIdentity.at(self._output), FileIdentity.from_stat(os.fstat(self._trees.root))
        return at_path is not None and at_path.file_key == opened.file_key

    def read(self, start: int, length: int) -> bytes:
        """Return bytes of the payload, unverified; too few where a file has become shorter.

        Raises:
            OSError: a file can't be read.
        """
        with self._trees.tree() as tree:
            found = []
            for part in self.layout.parts(start, start + length):
                if isinstance(part, FileRange):
                    descriptor = tree.open_file(self.layout.table.path(part.index))
                    try:
                        found.append(os.pread(descriptor, part.length, part.offset))
                    finally:
                        close(descriptor)
                else:
                    found.append(part)
            return b"".join(found)

    def open_large(self, index: int) -> int:
        """Open a large file, and return the descriptor.

        Raises:
            OSError: the file can't be opened, or was touched since the folder got its name.
        """
        with self._trees.tree() as tree:
            descriptor = tree.open_file(self.layout.table.path(index))
        if not self.is_unchanged(index, descriptor):
            close(descriptor)
            raise FileNotFoundError("the file was changed")
        return descriptor

    def is_unchanged(self, index: int, descriptor: int) -> bool:
        """Return whether an open file is untouched since the folder got its name."""
        found = os.fstat(descriptor)
        if self._states is None or self._states.is_same(index, found):
            return True
        # Perhaps another version with the same file was removed: this changes the ctime, and renews the
        # record.
        self._states = self._reload() or self._states
        return self._states.is_same(index, found)

    def close(self) -> None:
        """Close the folder."""
        self._trees.close()
