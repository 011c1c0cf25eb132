"""Garbage collection: what no reference names any more goes, in two phases and after a grace time.

What is referenced is told by the caller, so the references can be in any database. Content is set aside when
nobody refers to it and it is older than ``min_age``; a later collection deletes it, when it has been aside
for ``quarantine`` and still nobody refers to it. Until then ``get_hash`` reads it as before, and a collection
that meets a reference to it brings it back.
"""

from __future__ import annotations

import logging
import posixpath
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shardcast.ages import age, lies_ahead
from shardcast.errors import MissingExternalFile, RegistryError, UsageError
from shardcast.filesystem import PART
from shardcast.registry.backend import StorageBackend
from shardcast.registry.current import current
from shardcast.registry.hash_registry import ASIDE, Registry
from shardcast.registry.hashes import checked_schema, is_hash
from shardcast.registry.references import References, key_of, read_references
from shardcast.sizes import format_count, format_size

MIN_AGE = 3600.0
"""Seconds that content stays although nobody refers to it: its row may not be committed yet."""

QUARANTINE = 24 * 3600.0
"""Seconds that content is set aside before it is deleted."""

_LEFT_OVER = 24 * 3600.0
"""Seconds after which nobody writes a temporary file any more."""

_PART = re.compile(r"\.[0-9a-f]{16}" + re.escape(PART))

log = logging.getLogger(__name__)


@dataclass
class _Found:
    """What lies below the schemas of a store: paths with their bytes."""

    contents: dict[str, int] = field(default_factory=dict)
    aside: dict[str, int] = field(default_factory=dict)
    """By the paths that they had."""
    parts: list[str] = field(default_factory=list)


@dataclass
class _Marked:
    """What is there, and who refers to it."""

    backend: StorageBackend
    found: _Found
    referenced: set[str]
    """The keys of the paths that are referenced."""
    references: int
    """How many of those lie in the schemas."""
    now: float
    young: list[str]
    ahead: list[str]
    """Of the young ones, those whose time lies ahead."""
    orphaned: list[str]

    def is_referenced(self, path: str) -> bool:
        return key_of(path) in self.referenced


def scan(
    *schemas: str,
    references: References,
    store_name: str | None = None,
    verbose: bool = False,
    min_age: float = MIN_AGE,
    registry: Registry | None = None,
    clock: Callable[[], float] = time.time,
) -> dict[str, Any]:
    """Say what could be collected; nothing is touched.

    Args:
        schemas: the schemas to look at. No other is listed, or counted, or touched.
        references: every row's metadata of these schemas, in a list say, or a callable that returns it. More
            of it does no harm. An iterator is refused: read a second time, it would have nothing.
        store_name: the store to look at; None for the default.
        verbose: log what is done, at ``INFO``.
        min_age: seconds; content that is younger is no orphan yet.
        registry: whose stores; None for those of ``configure``.
        clock: the time, in seconds since 1970.

    Returns:
        As in DataJoint ``hash_referenced``, ``hash_stored``, ``hash_orphaned``, ``hash_orphaned_bytes``,
        ``orphaned_hashes`` (paths, in order), the totals ``referenced``, ``stored``, ``orphaned``,
        ``orphaned_bytes``, and ``schema_paths_…`` and ``orphaned_paths``, which are 0 and empty, since there
        is no schema-addressed content here. Besides ``hash_young`` (unreferenced, and younger than
        ``min_age``), ``hash_quarantined`` and ``hash_quarantined_bytes`` (set aside until now).

    Raises:
        UsageError: no schema was named, one can't be, an age is not a number of seconds, or references is an
            iterator.
        ReferencesUnreadable: it isn't sure what is referenced.
        StoreNotConfigured, StoreMissing, StoreInaccessible: the store can't be used.
    """
    return _figures(_mark(schemas, references, store_name, verbose, min_age, registry, clock))


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
    """Set orphans aside, and delete for good what was set aside ``quarantine`` seconds ago.

    Args:
        dry_run: touch nothing, and say what would be. That is the default.
        min_age: seconds. Less than the longest time between a put and its row's commit is safe only while
            nobody puts.
        quarantine: seconds. 0 deletes orphans at once, as DataJoint does.

    The others are those of ``scan``.

    Returns:
        As in DataJoint ``referenced``, ``stored``, ``orphaned``, ``hash_orphaned``, ``hash_deleted`` and
        ``deleted`` (for good, both), ``bytes_freed``, ``errors`` (files that could not be dealt with; each is
        logged), ``dry_run``, and ``schema_paths_orphaned`` and ``schema_paths_deleted``, which are 0. Besides
        ``orphaned_bytes``, ``hash_young``, ``hash_quarantined`` and ``hash_restored`` (set aside, and brought
        back, by this collection), and ``leftovers_deleted`` (temporary files of puts that were killed).

    Raises:
        UsageError: no schema was named, one can't be, an age is not a number of seconds, or references is an
            iterator.
        ReferencesUnreadable: it isn't sure what is referenced; nothing was touched.
        StoreNotConfigured, StoreMissing, StoreInaccessible: the store can't be used or listed; nothing was
            touched.
    """
    _check_seconds("quarantine", quarantine)
    marked = _mark(schemas, references, store_name, verbose, min_age, registry, clock)
    done = _Done()
    if not dry_run:
        for path in marked.ahead:
            done.careful(path, marked.backend.set_right, path)
        for path in sorted(marked.found.aside):
            done.careful(path, _sift, marked, path, quarantine, done)
        for path in marked.orphaned:
            done.careful(path, _take, marked, path, min_age, quarantine, done)
        for path in marked.found.parts:
            done.careful(path, _clear, marked, path, done)
    if verbose:
        for line in done.said:
            log.info("%s", line)
    figures = _figures(marked)
    return {
        "referenced": figures["referenced"],
        "stored": figures["stored"],
        "orphaned": figures["orphaned"],
        "hash_deleted": done.deleted,
        "schema_paths_deleted": 0,
        "deleted": done.deleted,
        "bytes_freed": done.freed,
        "errors": done.errors,
        "dry_run": dry_run,
        "hash_orphaned": figures["hash_orphaned"],
        "schema_paths_orphaned": 0,
        "orphaned_bytes": figures["orphaned_bytes"],
        "hash_young": figures["hash_young"],
        "hash_quarantined": done.set_aside,
        "hash_restored": done.restored,
        "leftovers_deleted": done.cleared,
    }


def format_stats(stats: Mapping[str, Any]) -> str:
    """What ``scan`` or ``collect`` returned, as a few lines to read."""
    lines = [f"stored       {format_count(stats['stored'], 'item')}"]
    lines.append(f"referenced   {format_count(stats['referenced'], 'item')}")
    orphaned = format_count(stats["orphaned"], "item")
    lines.append(f"orphaned     {orphaned}, {format_size(stats.get('orphaned_bytes', 0))}")
    if stats.get("hash_young"):
        lines.append(f"too young    {format_count(stats['hash_young'], 'item')} that nobody refers to yet")
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
class _Done:
    """What a collection did so far."""

    deleted: int = 0
    freed: int = 0
    set_aside: int = 0
    restored: int = 0
    cleared: int = 0
    errors: int = 0
    said: list[str] = field(default_factory=list)

    def careful(self, path: str, do: Callable[..., None], *given: Any) -> None:
        """Deal with one file; one that fails is counted and logged, and keeps no other from its turn."""
        try:
            do(*given)
        except MissingExternalFile:
            pass  # it went meanwhile, by another collection or delete_path
        except RegistryError as error:
            self.errors += 1
            log.warning("could not collect %s: %s", path, error)


def _take(marked: _Marked, path: str, min_age: float, quarantine: float, done: _Done) -> None:
    """Set an orphan aside, and delete it at once where there is no quarantine."""
    if not marked.backend.set_aside(path, path + ASIDE, marked.now - min_age, marked.now):
        return
    if quarantine:
        done.set_aside += 1
        done.said.append(f"set aside {path}")
        return
    marked.backend.remove(path + ASIDE)
    _count_deleted(done, path, marked.found.contents[path])


def _sift(marked: _Marked, path: str, quarantine: float, done: _Done) -> None:
    """Bring back what is referenced again; delete for good what was aside for long enough."""
    aside = path + ASIDE
    if marked.is_referenced(path) and marked.backend.bring_back(aside, path):
        done.restored += 1
        done.said.append(f"brought back {path}")
    elif _age(marked, aside) >= quarantine:
        marked.backend.remove(aside)
        _count_deleted(done, aside, marked.found.aside[path])


def _clear(marked: _Marked, path: str, done: _Done) -> None:
    """Remove the temporary file of a put that was killed."""
    if _age(marked, path) >= _LEFT_OVER:
        marked.backend.remove(path)
        done.cleared += 1


def _age(marked: _Marked, path: str) -> float:
    """The seconds since a file was written; a time that lies ahead is set right, and counts from now on."""
    when = marked.backend.modified(path)
    if lies_ahead(when, marked.now):
        marked.backend.set_right(path)
    return age(when, marked.now)


def _count_deleted(done: _Done, path: str, size: int) -> None:
    done.deleted += 1
    done.freed += size
    done.said.append(f"deleted {path} ({format_size(size)})")


def _mark(
    schemas: tuple[str, ...],
    references: References,
    store_name: str | None,
    verbose: bool,
    min_age: float,
    registry: Registry | None,
    clock: Callable[[], float],
) -> _Marked:
    """Find what is there, and then who refers to it: in this order, what is put meanwhile is in no danger."""
    if not schemas:
        raise UsageError("at least one schema must be named; only the content of those is collected")
    _check_seconds("min_age", min_age)
    registry = registry or current()
    spec = registry.spec(store_name)
    backend = registry.get_store_backend(store_name)
    now = clock()
    folders = [f"{spec.hash_prefix}/{checked_schema(schema)}" for schema in dict.fromkeys(schemas)]
    found = _find(backend, folders)
    if verbose:
        log.info(
            "store %s: %s below %s", spec.name, format_count(len(found.contents), "item"), ", ".join(folders)
        )
    paths = read_references(registry, spec, references)
    referenced = {key_of(path) for path in paths}
    inside = tuple(key_of(folder) + "/" for folder in folders)
    unreferenced = sorted(path for path in found.contents if key_of(path) not in referenced)
    young, ahead, orphaned = _by_age(backend, unreferenced, now, min_age)
    counted = sum(1 for key in referenced if key.startswith(inside))
    return _Marked(backend, found, referenced, counted, now, young, ahead, orphaned)


def _figures(marked: _Marked) -> dict[str, Any]:
    contents = marked.found.contents
    stored, orphaned = len(contents), len(marked.orphaned)
    orphaned_bytes = sum(contents[path] for path in marked.orphaned)
    return {
        "hash_referenced": marked.references,
        "hash_stored": stored,
        "hash_orphaned": orphaned,
        "hash_orphaned_bytes": orphaned_bytes,
        "orphaned_hashes": marked.orphaned,
        "schema_paths_referenced": 0,
        "schema_paths_stored": 0,
        "schema_paths_orphaned": 0,
        "schema_paths_orphaned_bytes": 0,
        "orphaned_paths": [],
        "referenced": marked.references,
        "stored": stored,
        "orphaned": orphaned,
        "orphaned_bytes": orphaned_bytes,
        "hash_young": len(marked.young),
        "hash_quarantined": len(marked.found.aside),
        "hash_quarantined_bytes": sum(marked.found.aside.values()),
    }


def _find(backend: StorageBackend, folders: list[str]) -> _Found:
    """What lies below the folders: only what the registry put there, by its name."""
    found = _Found()
    for folder in folders:
        for path, size in backend.files(folder).items():
            name = posixpath.basename(path)
            if is_hash(name):
                found.contents[path] = size
            elif name.endswith(ASIDE) and is_hash(name.removesuffix(ASIDE)):
                found.aside[path.removesuffix(ASIDE)] = size
            elif _PART.fullmatch(name):
                found.parts.append(path)
    return found


def _by_age(
    backend: StorageBackend, paths: list[str], now: float, min_age: float
) -> tuple[list[str], list[str], list[str]]:
    """The paths whose files are younger than an age, those whose time lies ahead, and the others. What
    went meanwhile is none of these."""
    young: list[str] = []
    ahead: list[str] = []
    old: list[str] = []
    for path in paths:
        try:
            when = backend.modified(path)
        except MissingExternalFile:
            continue
        (young if when > now - min_age else old).append(path)
        if lies_ahead(when, now):
            ahead.append(path)
    return young, ahead, old


def _check_seconds(what: str, seconds: float) -> None:
    if not isinstance(seconds, int | float) or not seconds >= 0:
        raise UsageError(f"{what} must be a number of seconds, 0 or more, not {seconds!r}")
