"""An open tree whose missing subfolders are made on the way."""

from __future__ import annotations

import os

from shardcast.folders.tree import OpenTree

_PRIVATE = 0o700
"""Permissions of a folder until the whole tree is there."""


class GrowingTree(OpenTree):
    """A tree for making files."""

    def __init__(self, root: int, *, makes: bool = False) -> None:
        """Take over the descriptor of a folder; ``makes``: whether missing subfolders are made."""
        super().__init__(root)
        self._makes = makes

    def folder(self, path: bytes) -> int:
        """Return the descriptor of the subfolder at a path; with ``makes``, make missing ones.

        Raises:
            OSError: a component is a link or no folder, is missing, or can't be made.
        """
        try:
            return super().folder(path)
        except FileNotFoundError:
            if not self._makes:
                raise
        names = path.rstrip(b"/").split(b"/")
        for depth in range(1, len(names) + 1):
            above = super().folder(b"/".join(names[: depth - 1]))
            try:
                os.mkdir(names[depth - 1], _PRIVATE, dir_fd=above)
            except FileExistsError:
                continue
        return super().folder(path)
