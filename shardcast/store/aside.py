"""The local versions of other lines: their served files, and the order of their removal."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from shardcast.concurrency import in_thread
from shardcast.directories import remove_tree
from shardcast.protocol.wire import matches_if_match
from shardcast.store.aside_place import line_name, open_mark
from shardcast.store.aside_version import AsideVersion
from shardcast.store.data_dir import DataDir
from shardcast.store.disk_usage import DiskUsage
from shardcast.store.interfaces import Span
from shardcast.store.line_record import LineRecord, origin_words
from shardcast.store.open_beside import OpenBeside
from shardcast.store.removing import bury
from shardcast.store.version_place import VersionPlace

log = logging.getLogger(__name__)

MAX_ASIDE_SECONDS = 86_400.0
"""Seconds until a version put aside is removed."""


class AsideVersions:
    """The local versions of other lines.

    The event loop changes them while threads look for shards (``find``): ``_versions`` is replaced by a
    changed copy each time.

    Attributes:
        beside: versions in reception.
        records: the records of other lines, by the name of their folder.
    """

    def __init__(
        self,
        data_dir: DataDir,
        clock: Callable[[], float] = time.monotonic,
        usage: DiskUsage | None = None,
    ) -> None:
        """Begin with none; ``load_aside`` takes up those in a directory.

        Args:
            data_dir: the directory.
            clock: seconds, for ages.
            usage: counts the versions' bytes on the disk.
        """
        self.beside = OpenBeside(clock)
        self.records: dict[str, LineRecord] = {}
        self._data_dir = data_dir
        self._clock = clock
        self._usage = usage or DiskUsage()
        self._versions: dict[VersionPlace, AsideVersion] = {}

    def __iter__(self) -> Iterator[AsideVersion]:
        """Yield the versions put aside, in the order of putting aside."""
        yield from sorted(self._versions.values(), key=lambda version: (version.since, version.number))

    def get(self, place: VersionPlace) -> AsideVersion | None:
        """Return the version put aside in a place; None where there is none."""
        return self._versions.get(place)

    def of_line(self, origin: str | None) -> list[AsideVersion]:
        """Return the versions put aside of the line with this origin id."""
        name = line_name(origin)
        return [version for version in self if version.place.folder.parent.name == name]

    def record(self, origin: str | None) -> LineRecord:
        """Return the record of another line; an empty one where none is here."""
        return self.records.get(line_name(origin), LineRecord(origin))

    # Serving

    def find(self, digest: str) -> Path | None:
        """Return the unchanged file of a verified shard with this SHA-256; None where there is none."""
        found = (version.complete.find(digest) for version in self._versions.values())
        return next((file for file in found if file), None)

    def shard(self, version: str, number: int, if_match: str) -> Span | None:
        """Return the place of the shard named by an ``If-Match``, of a version put aside with this name.

        None where no such shard is verified here, and for ``*``, which any version's shard would match.
        """
        if "*" in if_match:
            return None
        for aside in self:
            span = aside.span(number) if aside.complete.listing.version == version else None
            if span is not None and matches_if_match(if_match, span.digest):
                return span
        return None

    # Removal

    def droppable(self, line_has_one: bool) -> list[AsideVersion]:
        """Return the removable versions, in the order of their removal; pinned or arriving ones stay.

        Args:
            line_has_one: whether a version of the current line is complete. Without one, the newest complete
                version of the line put aside last stays.
        """
        kept = None if line_has_one else self._last_good()
        free = (version for version in self if not version.pinned and version.place not in self.beside)
        return [version for version in free if version.place != kept]

    def _last_good(self) -> VersionPlace | None:
        """Return the place of the newest servable version of the line put aside last."""
        good = [version for version in self if version.finished and not version.withdrawn]
        if not good:
            return None
        last = good[-1].place.folder.parent
        newest = max(
            (version for version in good if version.place.folder.parent == last),
            key=lambda version: version.number,
        )
        return newest.place

    def expired(self, line_has_one: bool) -> list[AsideVersion]:
        """Return the removable versions put aside ``MAX_ASIDE_SECONDS`` ago or earlier."""
        now = self._clock()
        return [
            version for version in self.droppable(line_has_one) if now - version.since >= MAX_ASIDE_SECONDS
        ]

    def age(self, version: AsideVersion) -> float:
        """Return the seconds since a version was put aside."""
        return max(0.0, self._clock() - version.since)

    async def drop(self, version: AsideVersion, why: str) -> None:
        """Remove a version; running answers end well.

        Args:
            version: the version.
            why: the reason, for the log.

        Raises:
            OSError: the files can't be removed.
        """
        self.remove(version.place)
        await in_thread(self._remove, version)
        self._usage.drop(version.place.folder)
        name, line = version.complete.listing.version, origin_words(version.origin)
        log.info("removed %s of %s, which was put aside: %s", name, line, why)

    def _remove(self, version: AsideVersion) -> None:
        self._data_dir.check_held()
        for grave in bury(version.place, self._data_dir.retired):
            remove_tree(grave)
        open_mark(version.place).unlink(missing_ok=True)

    # How they come and go

    def add(self, version: AsideVersion) -> None:
        """Add a version to those put aside, in place of one with the same place."""
        self._versions = {**self._versions, version.place: version}

    def remove(self, place: VersionPlace) -> AsideVersion | None:
        """Forget the version in a place, and return it, None without one; the files stay."""
        taken = self._versions.get(place)
        self._versions = {other: version for other, version in self._versions.items() if other != place}
        return taken
