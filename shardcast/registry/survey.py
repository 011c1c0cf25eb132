"""A survey of a registry's store: the files below some schemas, and the referenced ones among them."""

from __future__ import annotations

import logging
import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from shardcast.ages import age, is_future
from shardcast.errors import MissingExternalFile, UsageError
from shardcast.registry.backend import StorageBackend
from shardcast.registry.current import current
from shardcast.registry.hash_registry import QUARANTINE_SUFFIX, Registry
from shardcast.registry.hashes import checked_schema, is_hash
from shardcast.registry.references import References, key_of, read_references
from shardcast.sizes import format_count
from shardcast.temporary_files import PART

_PART = re.compile(r"\.[0-9a-f]{16}" + re.escape(PART))

log = logging.getLogger("shardcast.registry.gc")
"""The logger of the collection; set its level to see the steps."""


@dataclass
class StoreFiles:
    """The files below the schemas of a store.

    Attributes:
        contents: bytes of each content, by path.
        quarantined: bytes of each content in quarantine, by the path before.
        parts: paths of temporary files.
    """

    contents: dict[str, int] = field(default_factory=dict)
    quarantined: dict[str, int] = field(default_factory=dict)
    parts: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The files of a store, and the referenced ones among them.

    Attributes:
        backend: the store.
        files: the store's files.
        referenced: keys of the referenced paths (``references.key_of``).
        references: number of these in the schemas.
        now: the time of the survey, in seconds since 1970.
        young: paths of unreferenced content younger than the minimum age.
        ahead: paths of unreferenced content with a time in the future.
        orphaned: paths of the other unreferenced content.
    """

    backend: StorageBackend
    files: StoreFiles
    referenced: set[str]
    references: int
    now: float
    young: list[str]
    ahead: list[str]
    orphaned: list[str]

    def is_referenced(self, path: str) -> bool:
        """Return whether a path is referenced, in any spelling."""
        return key_of(path) in self.referenced

    def age(self, path: str) -> float:
        """Return the seconds since a file was written; set a time in the future to now.

        Raises:
            RegistryError: the file's time cannot be read.
        """
        modified = self.backend.modified(path)
        if is_future(modified, self.now):
            self.backend.set_right(path)
        return age(modified, self.now)


def survey_store(
    schemas: tuple[str, ...],
    references: References,
    *,
    store_name: str | None,
    verbose: bool,
    min_age: float,
    registry: Registry | None,
    clock: Callable[[], float],
) -> Survey:
    """List the files, and then read the references.

    In this order content put meanwhile is in no danger: it is not listed.

    Raises:
        UsageError, ReferencesUnreadable, RegistryError: as for ``scan``.
    """
    if not schemas:
        raise UsageError("name at least one schema; only the content of named schemas is collected")
    check_seconds("min_age", min_age)
    registry = registry or current()
    spec = registry.spec(store_name)
    backend = registry.get_store_backend(store_name)
    now = clock()
    folders = [f"{spec.hash_prefix}/{checked_schema(schema)}" for schema in dict.fromkeys(schemas)]
    files = _list(backend, folders)
    if verbose:
        log.info(
            "store %s: %s below %s", spec.name, format_count(len(files.contents), "item"), ", ".join(folders)
        )
    paths = read_references(registry, spec, references)
    referenced = {key_of(path) for path in paths}
    inside = tuple(key_of(folder) + "/" for folder in folders)
    unreferenced = sorted(path for path in files.contents if key_of(path) not in referenced)
    young, ahead, orphaned = _by_age(backend, unreferenced, now, min_age)
    return Survey(
        backend=backend,
        files=files,
        referenced=referenced,
        references=sum(1 for key in referenced if key.startswith(inside)),
        now=now,
        young=young,
        ahead=ahead,
        orphaned=orphaned,
    )


def _list(backend: StorageBackend, folders: list[str]) -> StoreFiles:
    """Return the registry's own files below the folders, recognized by name.

    Raises:
        StoreInaccessible: a folder cannot be listed.
    """
    files = StoreFiles()
    for folder in folders:
        for path, size in backend.files(folder).items():
            name = posixpath.basename(path)
            if is_hash(name):
                files.contents[path] = size
            elif name.endswith(QUARANTINE_SUFFIX) and is_hash(name.removesuffix(QUARANTINE_SUFFIX)):
                files.quarantined[path.removesuffix(QUARANTINE_SUFFIX)] = size
            elif _PART.fullmatch(name):
                files.parts.append(path)
    return files


def _by_age(
    backend: StorageBackend, paths: list[str], now: float, min_age: float
) -> tuple[list[str], list[str], list[str]]:
    """Return the paths younger than an age, those among them with a time in the future, and the old paths.

    A file removed meanwhile is in none of the lists.
    """
    young: list[str] = []
    ahead: list[str] = []
    old: list[str] = []
    for path in paths:
        try:
            modified = backend.modified(path)
        except MissingExternalFile:
            continue
        (young if modified > now - min_age else old).append(path)
        if is_future(modified, now):
            ahead.append(path)
    return young, ahead, old


def check_seconds(name: str, seconds: float) -> None:
    """Refuse an age that is no number of seconds.

    Raises:
        UsageError: the value is no number, or less than 0.
    """
    if not isinstance(seconds, int | float) or not seconds >= 0:
        raise UsageError(f"{name} must be a number of seconds, 0 or more, not {seconds!r}")
