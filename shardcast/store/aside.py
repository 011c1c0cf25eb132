"""The versions of other lines: put aside, or received beside the line that is here.

::

    .shardcast/lines/<origin id, or none>/
      line                              the record of the line
      v7-6030a1b2c3d4e5f6/              the folder of a version: its number, 16 digits of its payload digest
      v7-6030a1b2c3d4e5f6.pinned        its records; also .verified and .linked
      v7-6030a1b2c3d4e5f6.open          there while not all of it is here and verified

The modification time of a version's folder is the time at which it was put aside.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from shardcast.ages import age_of
from shardcast.concurrency import in_thread
from shardcast.errors import LocalDiskError
from shardcast.folders import remove_tree, sync_folder
from shardcast.protocol.distribution import Listing
from shardcast.protocol.manifest import Manifest
from shardcast.protocol.manifest_reader import ManifestError
from shardcast.protocol.manifest_reader import parse as parse_manifest
from shardcast.protocol.wire import matches, version_name
from shardcast.store.completed import Complete, read_complete
from shardcast.store.data_dir import DataDir
from shardcast.store.disk_usage import DiskUsage
from shardcast.store.interfaces import Span
from shardcast.store.line_record import LineRecord, origin_words, read_record
from shardcast.store.open_version import OpenVersion
from shardcast.store.recovery import check
from shardcast.store.removing import bury
from shardcast.store.version_place import VersionPlace
from shardcast.temporary_files import PART

log = logging.getLogger(__name__)

LONGEST_ASIDE = 86_400.0
"""Seconds after which a version that was put aside goes."""
_MOST_RECORDS = 20
"""Lines without versions here whose records are kept, so that what was withdrawn there stays so."""
_NO_ORIGIN = "none"
_PLAIN_ID = re.compile(r"[0-9a-z]{1,64}", re.ASCII)
_NAME = re.compile(r"v([1-9][0-9]{0,17})-([0-9a-f]{16})", re.ASCII)
_LINE = "line"


def line_name(origin: str | None) -> str:
    """Return the name of a line's folder.

    An id that is no plain name, or that a file system might take for another, is hashed: manifests choose
    origin ids, and must choose no path.
    """
    if origin is None:
        return _NO_ORIGIN
    if _PLAIN_ID.fullmatch(origin) and origin != _NO_ORIGIN:
        return origin
    return "id-" + sha256(origin.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def aside_place(data_dir: DataDir, origin: str | None, number: int, digest: str) -> VersionPlace:
    """Return where a version of another line lies."""
    return _place(data_dir.lines / line_name(origin) / f"{version_name(number)}-{digest[:16]}")


def _place(folder: Path) -> VersionPlace:
    """Return the place of a version aside: its folder, with the records beside it."""
    verified, linked, pinned = (
        folder.with_name(f"{folder.name}.{record}") for record in ("verified", "linked", "pinned")
    )
    return VersionPlace(folder, verified, linked, pinned)


def open_mark(place: VersionPlace) -> Path:
    """Return the file that exists while not all of a version is here and verified."""
    return place.folder.with_name(f"{place.folder.name}.open")


def record_of(data_dir: DataDir, origin: str | None) -> Path:
    """Return the file with the record of another line."""
    return data_dir.lines / line_name(origin) / _LINE


@dataclass(frozen=True, kw_only=True)
class AsideVersion:
    """A version of another line.

    Attributes:
        origin: the origin id of its line.
        complete: its listing, manifest (None where none is here), size and files.
        finished: whether all of it is here and verified.
        since: when it was put aside, in seconds by the clock of the directory.
        pinned: whether it stays until it is unpinned.
        withdrawn: whether its publisher withdrew it, so that it is not served.
    """

    origin: str | None
    complete: Complete
    finished: bool
    since: float
    pinned: bool = False
    withdrawn: bool = False

    @property
    def place(self) -> VersionPlace:
        """Where it lies."""
        return self.complete.place

    @property
    def number(self) -> int:
        """Its number, which a version of the current line may have too."""
        return self.complete.listing.number

    def span(self, shard: int) -> Span | None:
        """Return where a whole and verified shard lies; None where it is not here or not served."""
        manifest = self.complete.manifest
        if self.withdrawn or manifest is None or not 1 <= shard <= len(manifest.shards):
            return None
        span = self.complete.shard(shard)
        if span is None or self.finished:
            return span
        found = self.complete.find(span.digest or "")
        return span if found == span.path else None


class AsideVersions:
    """The versions of other lines that are here.

    The event loop changes them while threads look for shards (``find``): ``_versions`` is replaced by a
    changed copy each time.

    Attributes:
        beside: versions that are being received, by their place.
        records: the records of other lines, by the name of their folder.
    """

    def __init__(
        self,
        data_dir: DataDir,
        clock: Callable[[], float] = time.monotonic,
        usage: DiskUsage | None = None,
    ) -> None:
        """Begin with none; ``load`` takes up what a directory holds.

        Args:
            data_dir: the directory.
            clock: seconds, for ages.
            usage: counts what the versions take on the disk.
        """
        self.beside: dict[VersionPlace, OpenVersion] = {}
        self.records: dict[str, LineRecord] = {}
        self._data_dir = data_dir
        self._clock = clock
        self._usage = usage or DiskUsage()
        self._versions: dict[VersionPlace, AsideVersion] = {}
        self._touched: dict[VersionPlace, float] = {}  # when something last came of what is being received

    def __iter__(self) -> Iterator[AsideVersion]:
        """Yield the versions that are put aside, in the order in which they were."""
        yield from sorted(self._versions.values(), key=lambda version: (version.since, version.number))

    def get(self, place: VersionPlace) -> AsideVersion | None:
        """Return the version that is put aside in a place."""
        return self._versions.get(place)

    def of_line(self, origin: str | None) -> list[AsideVersion]:
        """Return the versions of one line."""
        name = line_name(origin)
        return [version for version in self if version.place.folder.parent.name == name]

    def record(self, origin: str | None) -> LineRecord:
        """Return the record of another line; an empty one where none is here."""
        return self.records.get(line_name(origin), LineRecord(origin))

    # What is served of them

    def find(self, digest: str) -> Path | None:
        """Return the file of a shard with this SHA-256, unchanged since it was verified."""
        found = (version.complete.find(digest) for version in self._versions.values())
        return next((file for file in found if file), None)

    def shard(self, version: str, number: int, if_match: str) -> Span | None:
        """Return where the shard lies that an ``If-Match`` names, of a version with this name.

        ``*`` names no shard: it would be met by any version's.
        """
        if "*" in if_match:
            return None
        for aside in self:
            span = aside.span(number) if aside.complete.listing.version == version else None
            if span is not None and matches(if_match, span.digest):
                return span
        return None

    # What may go

    def droppable(self, line_has_one: bool) -> list[AsideVersion]:
        """Return the versions that may go, in the order in which they go.

        Args:
            line_has_one: whether a version of the current line is complete. Without one, the newest complete
                version of the line that was put aside last does not go.
        """
        kept = None if line_has_one else self._last_good()
        free = (version for version in self if not version.pinned and version.place not in self.beside)
        return [version for version in free if version.place != kept]

    def _last_good(self) -> VersionPlace | None:
        """Return the place of the newest servable version of the line that was put aside last."""
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
        """Return the droppable versions that were put aside ``LONGEST_ASIDE`` ago or earlier."""
        now = self._clock()
        return [version for version in self.droppable(line_has_one) if now - version.since >= LONGEST_ASIDE]

    def age(self, version: AsideVersion) -> float:
        """Return the seconds for which a version has been aside."""
        return max(0.0, self._clock() - version.since)

    async def drop(self, version: AsideVersion, why: str) -> None:
        """Remove a version; answers that are running end well.

        Args:
            version: the version.
            why: the reason, for the log.

        Raises:
            OSError: its files can't be removed.
        """
        self.take(version.place)
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

    def put(self, version: AsideVersion) -> None:
        """Count a version that lies aside now."""
        self._versions = {**self._versions, version.place: version}

    def take(self, place: VersionPlace) -> AsideVersion | None:
        """Count a version no more, and return it: it is received, or of the current line, from now on."""
        taken = self._versions.get(place)
        self._versions = {other: version for other, version in self._versions.items() if other != place}
        return taken

    def begin(self, place: VersionPlace, opened: OpenVersion, whole: bool) -> None:
        """Count a version as being received beside the current line.

        One that is ``whole`` here already counts as put aside too.
        """
        if not whole:
            self.take(place)
        self.beside[place] = opened
        self.touch(place)

    def touch(self, place: VersionPlace) -> None:
        """Note that something of a version comes now."""
        self._touched[place] = self._clock()

    def touched(self, place: VersionPlace) -> float:
        """Return when something last came of a version, by the clock of the directory."""
        return self._touched.get(place, self._clock())

    def end(self, place: VersionPlace) -> OpenVersion | None:
        """Count a version as received no more, and return it."""
        self._touched.pop(place, None)
        return self.beside.pop(place, None)

    def abandoned(self) -> list[VersionPlace]:
        """Return the places of received versions of which nothing came for ``LONGEST_ASIDE``."""
        now = self._clock()
        return [place for place, last in self._touched.items() if now - last >= LONGEST_ASIDE]

    # After a restart

    def load(self) -> list[str]:
        """Take up what lies aside; blocks on the disk.

        Returns:
            Messages for the log.

        Raises:
            OSError: it can't be read.
        """
        messages: list[str] = []
        now, wall = self._clock(), time.time()  # once, so that what went aside together stays together
        if not self._data_dir.lines.is_dir():
            return messages
        for line in sorted(self._data_dir.lines.iterdir()):
            if not line.is_dir():
                continue
            _clear(line)
            try:
                record = read_record(line / _LINE) or LineRecord(_origin_of(line))
            except LocalDiskError as error:
                messages.append(str(error))
                record = LineRecord(_origin_of(line))
            self.records[line.name] = record
            for folder in line.iterdir():
                if folder.is_dir() and _NAME.fullmatch(folder.name):
                    since = now - age_of(folder, folder.stat(), lambda: wall)
                    self.put(read_aside(_place(folder), record, since))
                    self._usage.measure(folder)
        self._forget_lines()
        return messages

    def _forget_lines(self) -> None:
        """Remove the records of lines without versions here, but for the latest ``_MOST_RECORDS``."""
        used = {version.place.folder.parent.name for version in self}
        empty = [self._data_dir.lines / name for name in self.records if name not in used]
        by_age = sorted(empty, key=lambda line: line.stat().st_mtime, reverse=True)
        for line in by_age[_MOST_RECORDS:]:
            (line / _LINE).unlink(missing_ok=True)
            if not any(line.iterdir()):
                line.rmdir()
            del self.records[line.name]


def read_aside(place: VersionPlace, record: LineRecord, since: float) -> AsideVersion:
    """Return the version that lies in a place; blocks on the disk.

    Args:
        place: where it lies.
        record: the record of its line.
        since: when it was put aside, by the clock of the directory.

    Raises:
        OSError: it can't be read.
    """
    found = _NAME.fullmatch(place.folder.name)
    assert found
    number, start = int(found[1]), found[2]
    manifest = _manifest(place, number)
    digests = [digest for digest in manifest.digests.values() if digest.startswith(start)] if manifest else []
    listing = Listing(version_name(number), digests[0] if digests else start, None)
    finished = False
    if digests and not open_mark(place).exists():
        try:
            finished = check(place, listing) is not None
        except (LocalDiskError, ManifestError) as error:
            log.warning("%s is not complete any more: %s", place.folder, error)
    if manifest:
        listing = Listing(listing.version, listing.digest, len(manifest.shards), manifest.identity)
    complete = read_complete(place, listing, manifest)
    if not finished:
        size = sum(entry.stat().st_size for entry in place.folder.iterdir())
        complete = replace(complete, size=size)
    withdrawn = record.withdrawal(number, complete.digests) is not None
    return AsideVersion(
        origin=record.origin,
        complete=complete,
        finished=finished,
        since=since,
        pinned=place.pinned.exists(),
        withdrawn=withdrawn,
    )


def finish_aside(place: VersionPlace) -> None:
    """Mark a version that was received beside as whole, durably; blocks on the disk.

    Its time aside begins now.

    Raises:
        OSError: the disk failed.
    """
    os.utime(place.folder)
    open_mark(place).unlink(missing_ok=True)
    sync_folder(place.folder.parent)


def _manifest(place: VersionPlace, number: int) -> Manifest | None:
    """Return the manifest of a version; None where it is missing or not whole."""
    try:
        return parse_manifest(place.manifest.read_bytes(), version_name(number))
    except (FileNotFoundError, ManifestError):
        return None


def _origin_of(line: Path) -> str | None:
    """Return the origin id of a line whose record is not here, by the name of its folder."""
    return None if line.name == _NO_ORIGIN else line.name


def _clear(line: Path) -> None:
    """Remove temporary names from a line's folder, and records of versions that have gone."""
    for entry in line.iterdir():
        if entry.is_dir():
            continue
        name, _, _ = entry.name.partition(".")
        if entry.name.endswith(PART) or (entry.name != _LINE and not (line / name).is_dir()):
            entry.unlink()
