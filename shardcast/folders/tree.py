"""A directory tree opened by descriptors: no link on the way is followed, so nothing leads outside."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self

from shardcast.open_files import close

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class OpenTree:
    """A folder and its subfolders, each opened relative to the one above.

    The subfolders on the way to the last path stay open, since paths come in order: at most one descriptor
    for each component of a path. For one thread at a time.

    Attributes:
        root: the descriptor of the folder itself.
    """

    def __init__(self, root: int) -> None:
        """Take over the descriptor of a folder."""
        self.root = root
        self._names: list[bytes] = []
        self._open: list[int] = []
        self._last: bytes | None = None  # the path of the deepest open folder: most calls ask for it again

    @classmethod
    def at(cls, folder: Path) -> OpenTree:
        """Open a folder, or the folder at the end of a link.

        Raises:
            OSError: the path is no folder, or can't be opened.
        """
        return cls(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every descriptor."""
        self._last = None
        self._close_below(0)
        if self.root >= 0:
            close(self.root)
            self.root = -1

    def folder(self, path: bytes) -> int:
        """Return the descriptor of the subfolder at a path, owned by the tree; ``b""`` is the root.

        Args:
            path: relative, with or without ``/`` at the end.

        Raises:
            OSError: a component is a link (ELOOP, ENOTDIR), no folder, or not there.
        """
        if path == self._last:
            return self._open[-1] if self._open else self.root
        self._last = None
        names = path.rstrip(b"/").split(b"/") if path else []
        same = 0
        while same < min(len(names), len(self._names)) and names[same] == self._names[same]:
            same += 1
        self._close_below(same)
        for name in names[same:]:
            self._open.append(
                os.open(name, _FOLDER_FLAGS, dir_fd=self._open[-1] if self._open else self.root)
            )
            self._names.append(name)
        self._last = path
        return self._open[-1] if self._open else self.root

    def parent(self, path: bytes) -> tuple[int, bytes]:
        """Return the descriptor of an entry's parent folder, and the entry's name there.

        Raises:
            OSError: as for ``folder``.
        """
        above, _, name = path.rstrip(b"/").rpartition(b"/")
        return self.folder(above), name

    def stat(self, path: bytes) -> os.stat_result:
        """Return the state of an entry; for a link, the link's own.

        Raises:
            OSError: the entry is not there.
        """
        folder, name = self.parent(path)
        return os.stat(name, dir_fd=folder, follow_symlinks=False)

    def open_file(self, path: bytes, flags: int = _FILE_FLAGS, mode: int = 0o600) -> int:
        """Open a file, and return a descriptor for the caller to close.

        Raises:
            OSError: the path is a link, or can't be opened.
        """
        folder, name = self.parent(path)
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=folder)

    def _close_below(self, depth: int) -> None:
        """Close the subfolders deeper than ``depth``."""
        del self._names[depth:]
        while len(self._open) > depth:
            close(self._open.pop())
