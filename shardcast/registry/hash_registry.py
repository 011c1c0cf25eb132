"""The registry over its stores: put, read and delete content."""

from __future__ import annotations

import copy
import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from shardcast.errors import (
    HashCollision,
    HashMismatch,
    MissingExternalFile,
    StoreInaccessible,
    StoreNotConfigured,
)
from shardcast.json_text import parse_json
from shardcast.registry.backend import ObjectBackend, StorageBackend
from shardcast.registry.directory import DirectoryBackend
from shardcast.registry.hashes import Buffer, build_hash_path, compute_hash
from shardcast.registry.stores import StoreSpec, read_spec

QUARANTINE_SUFFIX = ".orphan"
"""The end of the name of content in garbage collection's quarantine."""

_ATTEMPTS = 5
"""Attempts of a put whose path other processes change meanwhile."""

log = logging.getLogger(__name__)


class Registry:
    """A hash registry over the stores of one configuration."""

    def __init__(self, stores: Mapping[str, Any]) -> None:
        """Keep a configuration; each store is checked at its first use.

        Args:
            stores: the keys of each store, by the store's name; and under ``default`` the name of the default
                store.

        Raises:
            StoreNotConfigured: ``stores`` is no mapping.
        """
        if not isinstance(stores, Mapping):
            raise StoreNotConfigured(f"stores must be a mapping of names to their keys, not {stores!r}")
        self._stores: dict[str, Any] = copy.deepcopy(dict(stores))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Return a registry of the stores in a JSON file, or of ``stores`` in a ``datajoint.json``.

        Raises:
            StoreNotConfigured: the file can't be read, or has no stores.
        """
        try:
            content = parse_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StoreNotConfigured(f"could not read the registry's stores from {path}: {error}") from error
        if not isinstance(content, dict):
            raise StoreNotConfigured(f"{path} must be a JSON object of stores, not {type(content).__name__}")
        inner = content.get("stores")
        return cls(inner if isinstance(inner, dict) and "protocol" not in inner else content)

    def spec(self, store_name: str | None = None) -> StoreSpec:
        """Return the configuration of a store; of the default store for None.

        Raises:
            StoreNotConfigured: the store or the default is missing, or its keys are wrong.
        """
        return read_spec(self._stores, store_name)

    def get_store_backend(self, store_name: str | None = None) -> StorageBackend:
        """Return the backend of a store, with files by path; of the default store for None.

        Raises:
            StoreNotConfigured: the store or the default is missing, or a package for its protocol.
            StoreMissing: the store's directory does not exist.
            StoreInaccessible: the store does not answer, or refuses.
        """
        spec = self.spec(store_name)
        return DirectoryBackend(spec) if spec.protocol == "file" else ObjectBackend(spec)

    def get_store_subfolding(self, store_name: str | None = None) -> tuple[int, ...] | None:
        """Return the subfolding of a store, ``(2, 2)`` say; None for no folders.

        Raises:
            StoreNotConfigured: the store or the default is missing, or its keys are wrong.
        """
        return self.spec(store_name).subfolding

    def put_hash(self, data: Buffer, schema_name: str, store_name: str | None = None) -> dict[str, Any]:
        """Put content into a store, once per schema.

        Present content is compared: equal content counts as new for garbage collection, corrupt content is
        replaced. On return, the content is in the store under its path; in a directory durably.

        Returns:
            The metadata for ``get_hash``, to be kept in a database: ``hash``, ``path``, ``schema``, ``store``
            (the store's name; the default's for None), ``size`` in bytes, and ``sha256``.

        Raises:
            TypeError: ``data`` is not bytes.
            InvalidName: the schema's name is impossible.
            HashCollision: other content of the same MD5 has the path; nothing was put.
            StoreNotConfigured, StoreMissing, StoreInaccessible: the store cannot be used.
        """
        data = bytes(data) if isinstance(data, bytearray | memoryview) else data
        if not isinstance(data, bytes):
            raise TypeError(f"content must be bytes, not {type(data).__name__}")
        spec, backend = self.spec(store_name), self.get_store_backend(store_name)
        content_hash = compute_hash(data)
        path = build_hash_path(content_hash, schema_name, spec.subfolding, hash_prefix=spec.hash_prefix)
        _put(backend, path, data)
        return {
            "hash": content_hash,
            "path": path,
            "schema": schema_name,
            "store": spec.name,
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }

    def get_hash(self, metadata: Mapping[str, Any]) -> bytes:
        """Return content, given the metadata from ``put_hash``, ours or DataJoint's.

        The path in the metadata is read, also after a change of the store's subfolding. Content in garbage
        collection's quarantine is read there, with a warning in the log.

        Raises:
            KeyError: ``path`` or ``hash`` is missing in ``metadata``.
            InvalidName: the path leads out of the store.
            MissingExternalFile: the path has no file.
            HashMismatch: the file's bytes differ from the content put.
            StoreNotConfigured, StoreMissing, StoreInaccessible: the store cannot be used.
        """
        path, expected = metadata["path"], metadata["hash"]
        backend = self.get_store_backend(metadata.get("store"))
        data = _get(backend, path)
        found = compute_hash(data)
        if found != expected:
            raise HashMismatch(
                f"{backend.get_url(path)} is corrupt: its hash is {found}, {expected} was put; "
                "put the content again to repair it, or restore the file"
            )
        digest = metadata.get("sha256")
        if digest is not None and hashlib.sha256(data).hexdigest() != digest:
            raise HashMismatch(
                f"{backend.get_url(path)} is other content of the same MD5: its SHA-256 is not {digest}; "
                "restore the file"
            )
        return data

    def delete_path(self, path: str, store_name: str | None = None) -> bool:
        """Delete a file by its stored path, for good, also from the quarantine of garbage collection.

        References are not checked; use ``gc.collect`` to delete only unreferenced content.

        Returns:
            Whether there was a file.

        Raises:
            InvalidName: the path leads out of the store.
            StoreNotConfigured, StoreMissing, StoreInaccessible: the store cannot be used.
        """
        backend = self.get_store_backend(store_name)
        names = (path, path + QUARANTINE_SUFFIX)
        files = [name for name in names if backend.exists(name) and not backend.isdir(name)]
        for file in files:
            backend.remove(file)
        return bool(files)


def _put(backend: StorageBackend, path: str, data: bytes) -> None:
    """Put content under a path, safely beside other processes that put, renew and collect content.

    Raises:
        HashCollision: other content of the same MD5 has the path.
        StoreInaccessible: the store cannot be used, or the path changed at each of ``_ATTEMPTS``.
    """
    for _ in range(_ATTEMPTS):
        try:
            stored = backend.get_buffer(path)
        except MissingExternalFile:
            if backend.create(path, data):
                return
            continue  # another process was faster: compare its content
        if stored == data:
            if backend.renew(path, data):
                return
            continue  # garbage collection renamed it since it was read
        if compute_hash(stored) == compute_hash(data):
            raise HashCollision(
                f"{backend.get_url(path)} has other content of the same MD5 ({len(stored)} bytes, not "
                f"{len(data)}); nothing was put. Store this one in another schema, and find out who made it"
            )
        log.warning("%s was corrupt; the new content replaces it", backend.get_url(path))
        backend.put_buffer(data, path)
        return
    raise StoreInaccessible(
        f"could not put {backend.get_url(path)}: another program puts and removes it again and again; "
        "put the content again once that has ended"
    )


def _get(backend: StorageBackend, path: str) -> bytes:
    """Return the bytes of a file, also from the quarantine of garbage collection.

    Raises:
        MissingExternalFile: the path has no file, in neither place.
        StoreInaccessible: the store can't be used.
    """
    try:
        return backend.get_buffer(path)
    except MissingExternalFile:
        try:
            data = backend.get_buffer(path + QUARANTINE_SUFFIX)
        except MissingExternalFile:
            pass
        else:
            log.warning(
                "%s was set aside by garbage collection; collect again with its reference to bring it back",
                backend.get_url(path),
            )
            return data
        # Between the two reads, garbage collection may have restored the file.
        return backend.get_buffer(path)
