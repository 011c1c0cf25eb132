"""What a database refers to, read so that no doubt deletes anything."""

from __future__ import annotations

import inspect
import json
import posixpath
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from shardcast.errors import ReferencesUnreadable, ShardcastError, StoreNotConfigured, UsageError
from shardcast.registry.backend import object_root
from shardcast.registry.directory import directory_root
from shardcast.registry.hash_registry import Registry
from shardcast.registry.stores import StoreSpec

Reference = Mapping[str, Any] | str | bytes | None
"""A row's value: what ``put_hash`` returned, as it is or as JSON text; None where the row has none."""

References = Iterable[Reference] | Callable[[], Iterable[Reference]]
"""All of them, each time that they are asked for: no iterator, which would have none the second time."""


def read_references(registry: Registry, spec: StoreSpec, references: References) -> set[str]:
    """The paths that are referenced in a store, as they are spelled.

    Raises:
        UsageError: they are an iterator.
        ReferencesUnreadable: reading them failed, or one of them can't be understood.
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
            read = _read(row)
            if read is None:
                continue
            path, name = read
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
    """What the spellings of a path have in common that some file system takes for one. A file is kept when it
    is referenced in any of them, so this may err towards keeping, and only so."""
    plain = unicodedata.normalize("NFC", posixpath.normpath(path))
    return unicodedata.normalize("NFC", plain.casefold())


def _unread(rows: Iterable[Reference]) -> Iterable[Reference]:
    """What a callable returned, once it is known not to be a generator that somebody read from before."""
    if inspect.isgenerator(rows) and inspect.getgeneratorstate(rows) != inspect.GEN_CREATED:
        raise ReferencesUnreadable(
            "the callable returned a generator that was read before; have it make a new one"
        )
    return rows


def _read(row: Reference) -> tuple[str, str | None] | None:
    """The path and the store's name in a row's value; None where it has none."""
    value: Any = row
    if isinstance(row, str | bytes):
        try:
            value = json.loads(row)
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
    """Whether a reference to the store of this name refers to another place than ``spec``.

    Places are compared and not names: two stores may be one directory, and None is the default. One that
    isn't configured any more may be this place too, so what refers to it is kept here.
    """
    try:
        other = registry.spec(name)
    except StoreNotConfigured:
        return False
    return _place(other) != _place(spec)


def _place(spec: StoreSpec) -> tuple[str, str]:
    """Where a store is. Its endpoint is no part of it: one bucket may be reached by several."""
    root = directory_root(spec) if spec.protocol == "file" else object_root(spec)
    return spec.protocol, key_of(root)
