"""Large files of a folder ─▶ the folder of the version, without a copy: clones or hard links."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from shardcast.folders.entries import EntryKind
from shardcast.folders.layout import FolderLayout
from shardcast.folders.survey import FolderSurvey
from shardcast.open_files import close
from shardcast.store.link_changes import LinkChange
from shardcast.store.open_version import OpenVersion

_TICK_SECONDS = 0.06
"""Seconds after which a write to a file gives another ctime than the new link did (``reuse``)."""


class LargeFileLinks:
    """The large files of a folder in the folder of the version.

    Attributes:
        files: paths of the cloned or linked files, by index.
        copied: the indices of the files to copy, since neither worked.
        changes: of the linked files.
    """

    def __init__(self, survey: FolderSurvey, layout: FolderLayout, opened: OpenVersion) -> None:
        """Clone or link all large files of a folder, each unchanged since the survey.

        After a link the survey gets the new ctimes, and a later time of its beginning.

        Raises:
            PayloadChanged: a file was touched since.
            LocalDiskError: a file can't be read, or the disk failed.
        """
        self.files: dict[int, Path] = {}
        self.copied: list[int] = []
        self.changes: list[LinkChange] = []
        self._survey = survey
        for index, shards in _large_files(layout):
            self._adopt(index, shards, opened)
        self._renew()

    def _adopt(self, index: int, shards: range, opened: OpenVersion) -> None:
        """Clone or link one file; compare its states before and after."""
        survey = self._survey
        path = survey.table.path(index)
        with survey.reading(path):
            folder, name = survey.tree.parent(path)
            descriptor = survey.tree.open_file(path)
            try:
                before = os.fstat(descriptor)
                if not survey.identities.agree(index, before) or not stat.S_ISREG(before.st_mode):
                    raise survey.changed(path, "was written to or replaced")
                file = opened.adopt_part(shards, descriptor, name, folder)
                change = LinkChange(before, os.fstat(descriptor))
            finally:
                close(descriptor)
        if not change.same_content:
            raise survey.changed(path, "was written to or replaced")
        if file is None:
            self.copied.append(index)
            return
        self.files[index] = file
        if change.before.st_ctime_ns != change.after.st_ctime_ns:
            self.changes.append(change)

    def _renew(self) -> None:
        """Take the changes into the survey, for all names of the files."""
        if not self.changes:
            return
        changed = {change.after.st_ino: change.after for change in self.changes}
        table, identities = self._survey.table, self._survey.identities
        for index in range(len(table)):
            if table.kind(index) in (EntryKind.FILE, EntryKind.HARD_LINK):
                after = changed.get(identities.get(index)[0])
                if after is not None:
                    identities.renew(index, after)
        # Whatever is written from now on, while the files are read, gives another ctime than the links gave.
        time.sleep(_TICK_SECONDS)
        self._survey.started = time.time_ns()


def _large_files(layout: FolderLayout) -> Iterator[tuple[int, range]]:
    """Yield the index of each large file, and the numbers of the file's shards."""
    first, current = 0, None
    for number, placed in enumerate(layout.shards(), 1):
        if placed.index != current:
            if current is not None:
                yield current, range(first, number)
            first, current = number, placed.index
    if current is not None:
        yield current, range(first, number + 1)
