"""References of a database, read strictly: if in doubt, nothing is deleted."""

from __future__ import annotations

import inspect
import posixpath
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from shardcast.errors import ReferencesUnreadable, ShardcastError, StoreNotConfigured, UsageError
from shardcast.json_text import parse_json
from shardcast.registry.backend import object_root
from shardcast.registry.directory import directory_root
from shardcast.registry.hash_registry import Registry
from shardcast.registry.stores import StoreSpec

Reference = Mapping[str, Any] | str | bytes | None
"""A row's value: the metadata of ``put_hash``, as a mapping or as JSON text; None for an empty row."""

References = Iterable[Reference] | Callable[[], Iterable[Reference]]
"""All references, readable twice: an iterator would be empty the second time."""


def read_references(registry: Registry, spec: StoreSpec, references: References) -> set[str]:
    """Return the paths referenced in a store, as they are spelled.

    Raises:
        UsageError: ``references`` is an iterator.
        ReferencesUnreadable: reading failed, or a reference is malformed.
    """
    paths: set[str] = set()
    elsewhere: dict[str | None, bool] = {}
    if isinstance(references, Iterator):
        raise UsageError(
            "references is an iterator, which can be read only once, and then looks as if nothing were "
            "referenced; give a list, or the function that makes the iterator"
        )
    try:
        for row in _unread(references()) if callable(references) else references:
            reference = _read(row)
            if reference is None:
                continue
            path, name = reference
            if name not in elsewhere:
                elsewhere[name] = _is_elsewhere(registry, spec, name)
            if not elsewhere[name]:
                paths.add(path)
    except ShardcastError as error:
        raise ReferencesUnreadable(f"{error}; nothing was touched") from error
    except Exception as error:
        raise ReferencesUnreadable(
            f"the references could not be read: {type(error).__name__}: {error}; nothing was touched"
        ) from error
    return paths


def key_of(path: str) -> str:
    """Return a key equal for all spellings of a path treated as the same by some file system.

    A file is kept if any of its spellings is referenced, so an error can only keep files.
    """
    plain = unicodedata.normalize("NFC", posixpath.normpath(path))
    return unicodedata.normalize("NFC", plain.casefold())


def _unread(rows: Iterable[Reference]) -> Iterable[Reference]:
    """Return the rows from a callable, unless they are a generator already read.

    Raises:
        ReferencesUnreadable: the rows are such a generator.
    """
    if inspect.isgenerator(rows) and inspect.getgeneratorstate(rows) != inspect.GEN_CREATED:
        raise ReferencesUnreadable(
            "the callable returned a generator that was read before; have it make a new one"
        )
    return rows


def _read(row: Reference) -> tuple[str, str | None] | None:
    """Return the path and the store's name in a row's value; None where the row has no reference.

    Raises:
        ReferencesUnreadable: the value can't be understood.
    """
    value: Any = row
    if isinstance(row, str | bytes):
        try:
            value = parse_json(row)
        except ValueError as error:
            raise ReferencesUnreadable(f"a reference is no JSON: {row[:100]!r}") from error
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ReferencesUnreadable(f"a reference is {type(value).__name__}, and no metadata of put_hash")
    path, name = value.get("path"), value.get("store")
    if not isinstance(path, str) or not path or path.startswith("/"):
        raise ReferencesUnreadable(f"a reference has no path in a store: its path is {path!r}")
    if not isinstance(name, str | None):
        raise ReferencesUnreadable(f"a reference has no store's name: its store is {name!r}")
    return path, name


def _is_elsewhere(registry: Registry, spec: StoreSpec, name: str | None) -> bool:
    """Return whether a reference's store lies elsewhere than ``spec``.

    Places are compared, not names: two stores may be one directory, and None is the default. A store missing
    in the configuration may be this place too, so its references count here.
    """
    try:
        other = registry.spec(name)
    except StoreNotConfigured:
        return False
    return _place(other) != _place(spec)


def _place(spec: StoreSpec) -> tuple[str, str]:
    """Return the place of a store, without the endpoint: one bucket may have several endpoints."""
    root = directory_root(spec) if spec.protocol == "file" else object_root(spec)
    return spec.protocol, key_of(root)
