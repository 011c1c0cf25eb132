"""Names of a publisher's files made and removed by a node: each changes the file's ctime."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from shardcast.open_files import close
from shardcast.store.linked_files import linked_number

_LOOK = getattr(os, "O_PATH", os.O_RDONLY) | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class LinkChange(NamedTuple):
    """The states of a file before and after it got or lost a name by this process."""

    before: os.stat_result
    after: os.stat_result

    @property
    def same_content(self) -> bool:
        """Whether nothing differs but the number of names and the ctime."""
        return all(
            getattr(self.before, field) == getattr(self.after, field)
            for field in ("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_mode")
        )


class LinkChanges:
    """Reports to the records of published folders about changes by this node.

    Attributes:
        tell: called with changes, in the thread of the change.
    """

    def __init__(self) -> None:
        """Tell no record yet."""
        self.tell: Callable[[Sequence[LinkChange]], None] = lambda changes: None
        self._standing = threading.Lock()

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Have ``remove`` remove nothing inside the block.

        During the publication of a folder, the ctimes of its files must not change.
        """
        with self._standing:
            yield

    def remove(self, folder: Path) -> bool:
        """Remove the linked files in the folder of a removed version; blocks on the disk.

        Returns:
            False while a folder is being published: the files stay until the next call.

        Raises:
            OSError: a file can't be removed.
        """
        files = linked_in(folder)
        if not files:
            return True
        if not self._standing.acquire(blocking=False):
            return False
        try:
            changes = [change for file in files if (change := unlink(file))]
        finally:
            self._standing.release()
        if changes:
            self.tell(changes)
        return True


def linked_in(folder: Path) -> list[Path]:
    """Return the linked files in a version's folder; none of an unreadable folder."""
    try:
        return [entry for entry in folder.iterdir() if linked_number(entry.name) is not None]
    except OSError:
        return []


def unlink(file: Path) -> LinkChange | None:
    """Remove one name of a file, and return the change of the file; None after the last name.

    Raises:
        OSError: the name can't be removed.
    """
    try:
        descriptor = os.open(file, _LOOK)
    except FileNotFoundError:
        return None
    except OSError:  # a link, or without O_PATH a file that may not be read: no record has it
        file.unlink(missing_ok=True)
        return None
    try:
        before = os.fstat(descriptor)
        file.unlink(missing_ok=True)
        after = os.fstat(descriptor)
    finally:
        close(descriptor)
    return LinkChange(before, after) if after.st_nlink else None
