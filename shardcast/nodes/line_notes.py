"""Notes about the lines followed into a folder: versions listed, announced and withdrawn.

All calls block on the disk; coroutines make them in threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from shardcast.nodes.folder_lines import Announced
from shardcast.nodes.output_storage import OutputStorage


class LineNotes:
    """The notes about lines in one folder, kept in ``.shardcast-lines``."""

    def __init__(self, storage: OutputStorage) -> None:
        self._storage = storage
        self._last: Announced | None = storage.read_lines().announced

    def last_line(self) -> tuple[str | None, dict[int, str]]:
        """Return the origin id of the line to go on with, and the digests listed by this line so far.

        This is the line announced last, or else used last; (None, {}) in a new folder.
        """
        lines = self._storage.read_lines()
        if lines.announced is None and not lines.lines:
            return None, {}
        origin = lines.announced.origin if lines.announced else lines.lines[-1].origin
        return origin, self.listed(origin)

    # Listed versions

    def listed(self, origin: str | None) -> dict[int, str]:
        """Return the digests of the newest 1000 numbers listed by a line so far."""
        return dict(self._storage.read_lines().find(origin).seen)

    def note_listed(self, origin: str | None, listed: Mapping[int, str]) -> bool:
        """Note the versions listed by a line, and return whether they contradict earlier notes.

        A number with another digest means a restored or copied directory at the publisher: this number and
        the later ones belonged to another line with the same id. Their notes are dropped, and their files
        become files of unknown version again.

        Raises:
            LocalDiskError: the note can't be written.
        """
        with self._storage.changed_lines() as lines:
            line = lines.use(origin)
            conflict = line.conflict(listed)
            if conflict is not None:
                line.forget_from(conflict, listed)
                for number, path, record in self._storage.versions(origin):
                    if number >= conflict and record.digest != listed.get(number):
                        self._storage.write_record(path, replace(record, origin=None, number=None))
            line.seen.update(listed)
        return conflict is not None

    # Announced versions

    def announced(self, origin: str | None) -> dict[int, str]:
        """Return the digests of the versions of a line already taken by a program or a hook, by number."""
        return dict(self._storage.read_lines().find(origin).announced)

    def mark_announced(self, origin: str | None, number: int, digest: str) -> None:
        """Note that the program or the hook has taken a version.

        Raises:
            LocalDiskError: the note can't be written.
        """
        last = Announced(origin, number, digest)
        if self._last == last and self.announced(origin).get(number) == digest:
            return
        with self._storage.changed_lines() as lines:
            lines.use(origin).announced[number] = digest
            lines.announced = self._last = last

    def is_new_line(self, origin: str | None) -> bool:
        """Return whether the version announced last is of another line.

        The last version is the folder's when this object was made, later this object's own: with two
        followers of one folder, each tells its own program of the new line.
        """
        if self._last is None:
            return False
        of_line = self.announced(self._last.origin)
        return self._last.origin != origin or of_line.get(self._last.number) != self._last.digest

    # Withdrawn versions

    def mark_withdrawn(self, origin: str | None, number: int, digest: str) -> bool:
        """Note that the publisher withdrew a version.

        Returns:
            Whether the follower is still to be told; False after ``mark_withdrawal_told``.

        Raises:
            LocalDiskError: the note can't be written.
        """
        with self._storage.changed_lines() as lines:
            told = lines.use(origin).withdrawn.setdefault((number, digest), False)
            for local, path, record in self._storage.versions(origin):
                if (local, record.digest) == (number, digest) and not record.withdrawn:
                    self._storage.write_record(path, replace(record, withdrawn=True))
        return not told

    def mark_withdrawal_told(self, origin: str | None, number: int, digest: str) -> None:
        """Note that the follower was told of a withdrawal, and need not be told again.

        Raises:
            LocalDiskError: the note can't be written.
        """
        with self._storage.changed_lines() as lines:
            lines.use(origin).withdrawn[number, digest] = True

    def lines_withdrawing(self, number: int, digest: str) -> list[str | None]:
        """Return the origin ids of the lines that withdrew a version, the line used last at the end."""
        lines = self._storage.read_lines().lines
        return [line.origin for line in lines if (number, digest) in line.withdrawn]
