"""A folder ─▶ a version's manifest, returned when all shards are stored."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from shardcast.disk_errors import disk_errors
from shardcast.errors import LocalDiskError, UsageError
from shardcast.folders.last_version import FindManifest, LastVersion, find_last_version, known_shards
from shardcast.folders.layout import FolderLayout, TooManyShards
from shardcast.folders.linking import LargeFileLinks
from shardcast.folders.list_plan import ListPlan, plan_list
from shardcast.folders.listing import ListTooLong
from shardcast.folders.patterns import PathPatterns
from shardcast.folders.payload import FolderPayload
from shardcast.folders.source_record import record_file, renew_records, write_record
from shardcast.folders.survey import FolderSurvey, SurveyRules, open_survey
from shardcast.protocol.manifest import FolderFacts, Manifest
from shardcast.sharding.cutter import cut
from shardcast.sharding.first_line import new_header, safe_name
from shardcast.sharding.publication import (
    PayloadDescription,
    PublishProgress,
    ReserveBytes,
    reserve_freely,
)
from shardcast.sizes import format_count
from shardcast.store.link_changes import LinkChange
from shardcast.store.open_version import OpenVersion

log = logging.getLogger(__name__)

_SUFFIX = ".tar"
_MAX_NAME = 200
"""Characters of a folder's name in a manifest."""


@dataclass(frozen=True)
class PublishedFolders:
    """The versions of folders in a data directory.

    Attributes:
        records: the folder with the records of published folders.
        find: finds the manifest of a complete version.
        checksum: whether to read all files, whatever the records say.
    """

    records: Path
    find: FindManifest
    checksum: bool = False

    def last(self, path: Path) -> LastVersion | None:
        """Return the last version of a folder, if its record is usable; blocks on the disk."""
        return None if self.checksum else find_last_version(self.records, path, self.find)

    def note_links(self, changes: Sequence[LinkChange]) -> None:
        """Renew the records of folders after this node gave or removed a name of files; blocks on the disk.

        If a record can't be written, these files are read again for the folder's next version.
        """
        try:
            renew_records(self.records, changes)
        except (OSError, LocalDiskError) as error:
            log.warning(
                "could not renew a record in %s, so its folder's next version reads linked files again: %s",
                self.records, error
            )  # fmt: skip

    def record(self, path: Path, manifest: Manifest, survey: FolderSurvey) -> None:
        """Record the identities of a new version's files; blocks on the disk.

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
        description: the cutting and hashing of the payload.
        progress: kept up to date.
        rules: the part of the folder to publish.
        reserve: called with the number of bytes to store, before reading.
        versions: the folders' versions so far; None to publish each folder as a first version.

    Returns:
        The version's manifest.

    Raises:
        NoRoom: the version may not take so many bytes.
        PayloadChanged: an entry changed meanwhile.
        LocalDiskError: an entry can't be published or read, or the shards can't be written.
        UsageError: a pattern is malformed.
        Cancelled: ``progress.cancelled`` was set.
    """
    with open_survey(path, rules) as survey:
        try:
            layout = FolderLayout(survey.table, description.shard_size)
        except TooManyShards as error:
            raise LocalDiskError(f"can't broadcast {path}: {error}; raise --shard-size") from None
        plan = _plan(path, layout)
        progress.size = layout.size
        name = folder_name(path)
        facts = FolderFacts(name, len(survey.table))
        header = new_header(name + _SUFFIX, layout.size, opened.number, description, facts)
        last = versions.last(path) if versions else None
        known = known_shards(survey, layout, last, description.digests) if last else None
        linked = sum(shard.size for shard in known.shards.values()) if known else 0
        reserve(layout.size - linked)
        links = {} if description.copy else _link_large_files(survey, layout, opened, versions)
        source = FolderPayload(survey, layout, progress, plan=plan, known=known, linked=links)
        with closing(source):
            manifest = cut(
                source, opened, header, description=description, progress=progress, reserve=reserve_freely
            )
            source.check_unchanged()
        if versions:
            versions.record(path, manifest, survey)
    return manifest


def _link_large_files(
    survey: FolderSurvey, layout: FolderLayout, opened: OpenVersion, versions: PublishedFolders | None
) -> Mapping[int, Path]:
    """Bring the large files into the version's folder without a copy, and return where they lie, by index.

    Raises:
        PayloadChanged: one was touched since the survey.
        LocalDiskError: the disk failed.
    """
    links = LargeFileLinks(survey, layout, opened)
    if links.copied:
        name = os.fsdecode(survey.table.path(links.copied[0]))
        log.warning(
            "%s of %s, %r first, can't be linked into %s, and are copied",
            format_count(len(links.copied), "file"), survey.path, name, opened.place.folder,
        )  # fmt: skip
    if versions:
        versions.note_links(links.changes)
    return links.files


def check_folder_options(path: Path, is_folder: bool, rules: SurveyRules) -> None:
    """Check the rules before a broadcast gets its number.

    Raises:
        UsageError: a pattern is malformed, or the payload is a file, and a file has nothing to leave out.
    """
    PathPatterns(rules.exclude)
    if not is_folder and (rules.exclude or not rules.mtimes):
        raise UsageError(f"{path} is a file; only folders take --exclude and --no-mtimes")


def folder_name(path: Path) -> str:
    """Return the name of a folder for the manifest: the last part of its path, without unsafe characters.

    A link keeps its own name; ``.`` and ``..`` are resolved first, and ``/`` becomes ``folder``.
    """
    given = os.path.normpath(path)
    name = os.path.basename(given)
    if name in ("", ".", ".."):
        name = path.resolve().name
    name = safe_name(name, _MAX_NAME)
    return name if name not in ("", ".", "..") else "folder"


def _plan(path: Path, layout: FolderLayout) -> ListPlan:
    """Return the lines of the manifest with the folder's list.

    Raises:
        LocalDiskError: the folder has too many shards or entries for a manifest.
    """
    try:
        plan = plan_list(layout)
    except ListTooLong as error:
        raise LocalDiskError(
            f"can't broadcast {path} with its {len(layout.table)} entries: {error}; broadcast its parts one "
            f"by one, or pipe a tar: tar -C {path} -c . | shardcast broadcast -"
        ) from None
    if not plan.for_all:
        log.warning(
            "the list of the %d entries of %s is so long that nodes before shardcast 0.4 will refuse this "
            "version; broadcast its parts one by one for them", len(layout.table), path
        )  # fmt: skip
    return plan
