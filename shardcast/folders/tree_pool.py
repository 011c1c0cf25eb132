"""Open trees of one folder for several threads, each with a tree of its own while working."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from shardcast.folders.growing_tree import GrowingTree


class TreePool:
    """As many open trees as threads at work.

    With a lock around one tree, all threads that write small files would wait for each other.
    """

    def __init__(self, root: int, *, makes: bool = False) -> None:
        """Open a folder once more.

        Args:
            root: the folder's descriptor.
            makes: whether missing subfolders are made.

        Raises:
            OSError: this process has no descriptor left.
        """
        self.root = os.dup(root)
        self._makes = makes
        self._free: list[GrowingTree] = []
        self._used = 0
        self._closed = False
        self._returned = threading.Condition()

    @contextmanager
    def tree(self) -> Iterator[GrowingTree]:
        """Yield a tree for the calling thread alone.

        Raises:
            OSError: the folder was closed, or this process has no descriptor left.
        """
        with self._returned:
            if self._closed:
                raise OSError(errno.EBADF, "the folder was closed")
            tree = self._free.pop() if self._free else None
            self._used += 1
        try:
            if tree is None:
                tree = GrowingTree(os.dup(self.root), makes=self._makes)
            yield tree
        finally:
            with self._returned:
                self._used -= 1
                if tree is not None:
                    self._free.append(tree)
                self._returned.notify_all()

    def close(self) -> None:
        """Close all trees after the last thread has returned its tree.

        A thread still at work would go on in another file with the same descriptor.
        """
        with self._returned:
            if self._closed:
                return
            self._closed = True
            self._returned.wait_for(lambda: not self._used)
            while self._free:
                self._free.pop().close()
            os.close(self.root)
