"""Garbage collection: content without a reference is deleted, in two phases and after a grace time.

The caller says which content is referenced, so the references can be in any database. Unreferenced content
older than ``min_age`` is put into quarantine: renamed, with ``QUARANTINE_SUFFIX`` at the end of the name. A
later collection deletes content after ``quarantine`` seconds there, if still unreferenced. Until then
``get_hash`` reads the content as before, and a collection that finds a new reference restores it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from shardcast.errors import MissingExternalFile, RegistryError
from shardcast.registry.hash_registry import QUARANTINE_SUFFIX, Registry
from shardcast.registry.references import References
from shardcast.registry.survey import Survey, check_seconds, survey_store
from shardcast.sizes import format_count, format_size

MIN_AGE = 3600.0
"""Seconds during which unreferenced content stays: its row may not be committed yet."""

QUARANTINE = 24 * 3600.0
"""Seconds between quarantine and deletion."""

_LEFT_OVER = 24 * 3600.0
"""Seconds after which a temporary file counts as left by a killed put."""

log = logging.getLogger(__name__)


def scan(
    *schemas: str,
    references: References,
    store_name: str | None = None,
    verbose: bool = False,
    min_age: float = MIN_AGE,
    registry: Registry | None = None,
    clock: Callable[[], float] = time.time,
) -> dict[str, Any]:
    """Return the findings of a collection, without changing anything.

    Args:
        *schemas: the schemas to look at. No other schema is listed, counted or changed.
        references: the metadata of every row of these schemas: a list, say, or a callable that returns one.
            Rows of other schemas do no harm. An iterator is refused: read a second time, it would be empty.
        store_name: the store to look at; None for the default.
        verbose: whether to log each step, at ``INFO``.
        min_age: seconds; younger content is no orphan yet.
        registry: the registry with the stores; None for the one of ``configure``.
        clock: the time, in seconds since 1970.

    Returns:
        As in DataJoint ``hash_referenced``, ``hash_stored``, ``hash_orphaned``, ``hash_orphaned_bytes``,
        ``orphaned_hashes`` (paths, in order), the totals ``referenced``, ``stored``, ``orphaned``,
        ``orphaned_bytes``, and ``schema_paths_…`` and ``orphaned_paths``, always 0 and empty, since these
        stores have no schema-addressed content. Besides ``hash_young`` (unreferenced, and younger than
        ``min_age``), ``hash_quarantined`` and ``hash_quarantined_bytes`` (in quarantine now).

    Raises:
        UsageError: no schema is named, a schema's name is impossible, an age is not a number of seconds, or
            ``references`` is an iterator.
        ReferencesUnreadable: reading the references failed, or a reference is malformed.
        StoreNotConfigured, StoreMissing, StoreInaccessible: the store cannot be used.
    """
    return _figures(
        survey_store(
            schemas,
            references,
            store_name=store_name,
            verbose=verbose,
            min_age=min_age,
            registry=registry,
            clock=clock,
        )
    )


def collect(
    *schemas: str,
    references: References,
    store_name: str | None = None,
    dry_run: bool = True,
    verbose: bool = False,
    min_age: float = MIN_AGE,
    quarantine: float = QUARANTINE,
    registry: Registry | None = None,
    clock: Callable[[], float] = time.time,
) -> dict[str, Any]:
    """Put orphans into quarantine, and delete content after ``quarantine`` seconds in quarantine.

    Args:
        *schemas: as of ``scan``.
        references: as of ``scan``.
        store_name: as of ``scan``.
        dry_run: whether to return the figures only, without changing anything.
        verbose: as of ``scan``.
        min_age: seconds. Less than the longest time between a put and the commit of its row is safe only
            while no process puts content.
        quarantine: seconds. 0 deletes orphans at once, as DataJoint does.
        registry: as of ``scan``.
        clock: as of ``scan``.

    Returns:
        As in DataJoint ``referenced``, ``stored``, ``orphaned``, ``hash_orphaned``, ``hash_deleted`` and
        ``deleted`` (for good, both), ``bytes_freed``, ``errors`` (failed files; each is logged), ``dry_run``,
        and ``schema_paths_orphaned`` and ``schema_paths_deleted``, always 0. Besides ``orphaned_bytes``,
        ``hash_young``, ``hash_quarantined`` and ``hash_restored`` (put into quarantine, and taken out, by
        this collection), and ``leftovers_deleted`` (temporary files of killed puts).

    Raises:
        UsageError: no schema is named, a schema's name is impossible, an age is not a number of seconds, or
            ``references`` is an iterator.
        ReferencesUnreadable: reading the references failed, or a reference is malformed; nothing was changed.
        StoreNotConfigured, StoreMissing, StoreInaccessible: the store cannot be used or listed; nothing was
            changed.
    """
    check_seconds("quarantine", quarantine)
    survey = survey_store(
        schemas,
        references,
        store_name=store_name,
        verbose=verbose,
        min_age=min_age,
        registry=registry,
        clock=clock,
    )
    collection = _Collection(survey, min_age, quarantine)
    if not dry_run:
        collection.run()
    if verbose:
        for line in collection.report:
            log.info("%s", line)
    figures = _figures(survey)
    return {
        "referenced": figures["referenced"],
        "stored": figures["stored"],
        "orphaned": figures["orphaned"],
        "hash_deleted": collection.deleted,
        "schema_paths_deleted": 0,
        "deleted": collection.deleted,
        "bytes_freed": collection.freed,
        "errors": collection.errors,
        "dry_run": dry_run,
        "hash_orphaned": figures["hash_orphaned"],
        "schema_paths_orphaned": 0,
        "orphaned_bytes": figures["orphaned_bytes"],
        "hash_young": figures["hash_young"],
        "hash_quarantined": collection.quarantined,
        "hash_restored": collection.restored,
        "leftovers_deleted": collection.cleared,
    }


def format_stats(stats: Mapping[str, Any]) -> str:
    """Return the result of ``scan`` or ``collect`` as a few lines of text."""
    lines = [f"stored       {format_count(stats['stored'], 'item')}"]
    lines.append(f"referenced   {format_count(stats['referenced'], 'item')}")
    orphaned = format_count(stats["orphaned"], "item")
    lines.append(f"orphaned     {orphaned}, {format_size(stats.get('orphaned_bytes', 0))}")
    if stats.get("hash_young"):
        lines.append(f"too young    {format_count(stats['hash_young'], 'item')} without a reference yet")
    if "deleted" not in stats:
        if stats.get("hash_quarantined"):
            size = format_size(stats.get("hash_quarantined_bytes", 0))
            lines.append(f"set aside    {format_count(stats['hash_quarantined'], 'item')}, {size}")
        return "\n".join(lines)
    if stats["dry_run"]:
        return "\n".join([*lines, "dry run: nothing was touched; collect with dry_run=False"])
    if stats.get("hash_quarantined"):
        lines.append(f"set aside    {format_count(stats['hash_quarantined'], 'item')} now")
    if stats.get("hash_restored"):
        lines.append(f"brought back {format_count(stats['hash_restored'], 'item')} that is referenced again")
    lines.append(
        f"deleted      {format_count(stats['deleted'], 'item')}, {format_size(stats['bytes_freed'])} freed"
    )
    if stats["errors"]:
        lines.append(f"failed       {format_count(stats['errors'], 'item')}; the log says why")
    return "\n".join(lines)


@dataclass
class _Collection:
    """A collection and its counts so far.

    Attributes:
        survey: the files, and the referenced ones among them.
        min_age: seconds during which unreferenced content stays.
        quarantine: seconds between quarantine and deletion; 0 deletes at once.
        deleted: files deleted for good.
        freed: bytes of these files.
        quarantined: files put into quarantine.
        restored: files taken out of quarantine.
        cleared: temporary files removed.
        errors: files that failed.
        report: a line for each file.
    """

    survey: Survey
    min_age: float
    quarantine: float
    _: KW_ONLY
    deleted: int = 0
    freed: int = 0
    quarantined: int = 0
    restored: int = 0
    cleared: int = 0
    errors: int = 0
    report: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Deal with each file of the survey."""
        for path in self.survey.ahead:
            self._try(self.survey.backend.set_right, path)
        for path in sorted(self.survey.files.quarantined):
            self._try(self._sift, path)
        for path in self.survey.orphaned:
            self._try(self._set_aside, path)
        for path in self.survey.files.parts:
            self._try(self._clear, path)

    def _try(self, step: Callable[[str], None], path: str) -> None:
        """Process a file; count and log a failure, and go on with the next file."""
        try:
            step(path)
        except MissingExternalFile:
            pass  # removed meanwhile, by another collection or delete_path
        except RegistryError as error:
            self.errors += 1
            log.warning("could not collect %s: %s", path, error)

    def _set_aside(self, path: str) -> None:
        """Put an orphan into quarantine; without a quarantine, delete the orphan."""
        survey = self.survey
        if not survey.backend.set_aside(
            path, path + QUARANTINE_SUFFIX, survey.now - self.min_age, survey.now
        ):
            return
        if self.quarantine:
            self.quarantined += 1
            self.report.append(f"set aside {path}")
            return
        survey.backend.remove(path + QUARANTINE_SUFFIX)
        self._count_deleted(path, survey.files.contents[path])

    def _sift(self, path: str) -> None:
        """Restore content with a new reference; delete content after its time in quarantine."""
        survey, aside = self.survey, path + QUARANTINE_SUFFIX
        if survey.is_referenced(path) and survey.backend.bring_back(aside, path):
            self.restored += 1
            self.report.append(f"brought back {path}")
        elif survey.age(aside) >= self.quarantine:
            survey.backend.remove(aside)
            self._count_deleted(aside, survey.files.quarantined[path])

    def _clear(self, path: str) -> None:
        """Remove the temporary file of a killed put, once a day old."""
        if self.survey.age(path) >= _LEFT_OVER:
            self.survey.backend.remove(path)
            self.cleared += 1

    def _count_deleted(self, path: str, size: int) -> None:
        self.deleted += 1
        self.freed += size
        self.report.append(f"deleted {path} ({format_size(size)})")


def _figures(survey: Survey) -> dict[str, Any]:
    """Return the figures for ``scan``."""
    contents, quarantined = survey.files.contents, survey.files.quarantined
    stored, orphaned = len(contents), len(survey.orphaned)
    orphaned_bytes = sum(contents[path] for path in survey.orphaned)
    return {
        "hash_referenced": survey.references,
        "hash_stored": stored,
        "hash_orphaned": orphaned,
        "hash_orphaned_bytes": orphaned_bytes,
        "orphaned_hashes": survey.orphaned,
        "schema_paths_referenced": 0,
        "schema_paths_stored": 0,
        "schema_paths_orphaned": 0,
        "schema_paths_orphaned_bytes": 0,
        "orphaned_paths": [],
        "referenced": survey.references,
        "stored": stored,
        "orphaned": orphaned,
        "orphaned_bytes": orphaned_bytes,
        "hash_young": len(survey.young),
        "hash_quarantined": len(quarantined),
        "hash_quarantined_bytes": sum(quarantined.values()),
    }
