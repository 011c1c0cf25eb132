"""A folder ─▶ a version's manifest, once all of it is stored."""

from __future__ import annotations

import logging
import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from shardcast.disk_errors import disk_errors
from shardcast.errors import LocalDiskError, UsageError
from shardcast.folders.last_version import FindManifest, LastVersion, find_last_version, known_shards
from shardcast.folders.layout import FolderLayout, TooManyShards
from shardcast.folders.listing import DIGESTS_A_LINE, count_entry_lines
from shardcast.folders.patterns import PathPatterns
from shardcast.folders.payload import FolderPayload
from shardcast.folders.source_record import record_file, write_record
from shardcast.folders.survey import FolderSurvey, SurveyRules, open_survey
from shardcast.protocol.manifest import FolderFacts, Manifest
from shardcast.protocol.wire import MAX_SHARDS
from shardcast.sharding.cutter import cut
from shardcast.sharding.first_line import new_header, safe_name
from shardcast.sharding.publication import (
    PayloadDescription,
    PublishProgress,
    ReserveBytes,
    reserve_freely,
)
from shardcast.store.open_version import OpenVersion

log = logging.getLogger(__name__)

MAX_LIST_LINES = 900
"""Lines of a manifest with entries and digests: readers that know no folders refuse more than 1000 lines that
they don't know, and middles of later versions may add some."""
_SUFFIX = ".tar"
_MAX_NAME = 200
"""Characters of a folder's name in a manifest."""


@dataclass(frozen=True)
class PublishedFolders:
    """The versions of folders in a data directory.

    Attributes:
        records: the folder with the records of what their files looked like.
        find: finds the manifest of a complete version.
        checksum: whether to read all files, whatever the records say.
    """

    records: Path
    find: FindManifest
    checksum: bool = False

    def last(self, path: Path) -> LastVersion | None:
        """Return the last version of a folder, as far as its record is believed; blocks on the disk."""
        return None if self.checksum else find_last_version(self.records, path, self.find)

    def record(self, path: Path, manifest: Manifest, survey: FolderSurvey) -> None:
        """Record what the files of a new version look like; blocks on the disk.

        Raises:
            LocalDiskError: the record can't be written.
        """
        with disk_errors("could not write", record_file(self.records, path)):
            write_record(self.records, path, manifest, survey.identities, survey.started)


def publish_folder(
    path: Path,
    opened: OpenVersion,
    description: PayloadDescription,
    progress: PublishProgress,
    *,
    rules: SurveyRules,
    reserve: ReserveBytes = reserve_freely,
    versions: PublishedFolders | None = None,
) -> Manifest:
    """Cut the tar of a folder into the shards of an open version; blocks until they are durable.

    Args:
        path: the folder.
        opened: the version.
        description: how the payload is cut and hashed.
        progress: kept up to date.
        rules: what of the folder is published.
        reserve: called with the bytes that will be stored, before they are read.
        versions: the folders' versions so far; None where each folder is published as if it was the first.

    Returns:
        The version's manifest.

    Raises:
        NoRoom: the version may not take so many bytes.
        PayloadChanged: something in the folder changed meanwhile.
        LocalDiskError: something in the folder can't be published or read, or the shards can't be written.
        UsageError: a pattern is none.
        Cancelled: ``progress.cancelled`` was set.
    """
    if not description.copy:
        log.warning("%s is a folder, and is copied into %s", path, opened.place.folder)
    with open_survey(path, rules) as survey:
        try:
            layout = FolderLayout(survey.table, description.shard_size)
        except TooManyShards as error:
            raise LocalDiskError(f"can't broadcast {path}: {error}; raise --shard-size") from None
        batch = _digest_batch(path, layout)
        progress.size = layout.size
        name = folder_name(path)
        facts = FolderFacts(name, len(survey.table))
        header = new_header(name + _SUFFIX, layout.size, opened.number, description, facts)
        last = versions.last(path) if versions else None
        known = known_shards(survey, layout, last, description.digests) if last else None
        linked = sum(shard.size for shard in known.shards.values()) if known else 0
        reserve(layout.size - linked)
        source = FolderPayload(survey, layout, progress, digest_batch=batch, known=known)
        with closing(source):
            manifest = cut(
                source, opened, header, description=description, progress=progress, reserve=reserve_freely
            )
            source.check_unchanged()
        if versions:
            versions.record(path, manifest, survey)
    return manifest


def check_folder_options(path: Path, is_folder: bool, rules: SurveyRules) -> None:
    """Check the rules before a broadcast gets its number.

    Raises:
        UsageError: a pattern is none, or the payload is a file, which has nothing to leave out.
    """
    PathPatterns(rules.exclude)
    if not is_folder and (rules.exclude or not rules.mtimes):
        raise UsageError(f"{path} is a file: what is left out, and times, are options of folders")


def folder_name(path: Path) -> str:
    """Return the name of a folder for its manifest."""
    given = os.path.normpath(path)
    name = os.path.basename(given)
    if name in ("", ".", ".."):
        name = path.resolve().name
    name = safe_name(name, _MAX_NAME)
    return name if name not in ("", ".", "..") else "folder"


def _digest_batch(path: Path, layout: FolderLayout) -> int:
    """Return how many digests of small files a line of the manifest has at least, so that the lines are few.

    One where the shards are few enough: readers then know the digest of a file as soon as its shard.

    Raises:
        LocalDiskError: the folder has too many shards or entries for a manifest.
    """
    between = large = 0
    for segment in layout.segments():
        shards = -(-segment.size // layout.shard_size)
        if segment.index is None:
            between += shards
        else:
            large += shards
    if between + large > MAX_SHARDS:
        raise LocalDiskError(f"can't broadcast {path}: more than {MAX_SHARDS} shards; raise --shard-size")
    full = sum(1 for _ in layout.small_files()) // DIGESTS_A_LINE
    entries = count_entry_lines(layout.table, MAX_LIST_LINES - between - full)
    if entries + between + full <= MAX_LIST_LINES:
        return 1
    if entries + full + 1 <= MAX_LIST_LINES:
        return DIGESTS_A_LINE
    raise LocalDiskError(
        f"can't broadcast {path}: the list of its {len(layout.table)} entries takes {entries + full + 1} "
        f"lines of a manifest, and at most {MAX_LIST_LINES} fit; broadcast its parts one by one, or "
        f"pipe a tar: tar -C {path} -c . | shardcast broadcast -"
    )
