"""Content put, got and deleted: the registry over its stores."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shardcast.errors import (
    HashCollision,
    HashMismatch,
    MissingExternalFile,
    StoreInaccessible,
    StoreNotConfigured,
)
from shardcast.registry.backend import ObjectBackend, StorageBackend
from shardcast.registry.directory import DirectoryBackend
from shardcast.registry.hashes import Buffer, build_hash_path, compute_hash
from shardcast.registry.stores import StoreSpec, read_spec

ASIDE = ".orphan"
"""The end of the name of what garbage collection set aside, until it is deleted or brought back."""

_ATTEMPTS = 5
"""How often a put begins anew because what it met was changed under its hands."""

log = logging.getLogger(__name__)


class Registry:
    """A hash registry over the stores of one configuration.

    Args:
        stores: each store's keys by its name, and under ``default`` the name of the one that is used when
            none is named. A store is checked when it is used.
    """

    def __init__(self, stores: Mapping[str, Any]) -> None:
        if not isinstance(stores, Mapping):
            raise StoreNotConfigured(f"stores must be a mapping of names to their keys, not {stores!r}")
        self._stores: dict[str, Any] = copy.deepcopy(dict(stores))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Registry:
        """A registry from a JSON file of stores, or from a ``datajoint.json``, which has them in ``stores``.

        Raises:
            StoreNotConfigured: it can't be read, or has no stores.
        """
        try:
            said = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StoreNotConfigured(f"could not read the registry's stores from {path}: {error}") from error
        if not isinstance(said, dict):
            raise StoreNotConfigured(f"{path} must be a JSON object of stores, not {type(said).__name__}")
        inner = said.get("stores")
        return cls(inner if isinstance(inner, dict) and "protocol" not in inner else said)

    def spec(self, store_name: str | None = None) -> StoreSpec:
        """What a store is configured as; the default's for None.

        Raises:
            StoreNotConfigured: there is no such store, no default, or it can't be meant so.
        """
        return read_spec(self._stores, store_name)

    def get_store_backend(self, store_name: str | None = None) -> StorageBackend:
        """A store, to be asked for files by their paths; the default for None.

        Raises:
            StoreNotConfigured: there is no such store, no default, or a package is missing for it.
            StoreMissing: its directory does not exist.
            StoreInaccessible: it can't be used.
        """
        spec = self.spec(store_name)
        return DirectoryBackend(spec) if spec.protocol == "file" else ObjectBackend(spec)

    def get_store_subfolding(self, store_name: str | None = None) -> tuple[int, ...] | None:
        """The subfolding of a store, ``(2, 2)`` say; None for no folders.

        Raises:
            StoreNotConfigured: there is no such store, no default, or it can't be meant so.
        """
        return self.spec(store_name).subfolding

    def put_hash(self, data: Buffer, schema_name: str, store_name: str | None = None) -> dict[str, Any]:
        """Have content in a store, once per schema.

        What is there already is compared: equal, it counts as new for garbage collection; corrupt, it is
        replaced. When this returns, the content is in the store under its path, in a directory durably.

        Returns:
            What ``get_hash`` needs, to be kept in a database: ``hash``, ``path``, ``schema``, ``store`` (the
            store's name, the default's where none was named), ``size`` in bytes, and ``sha256``.

        Raises:
            TypeError: ``data`` is not bytes.
            InvalidName: the schema's name can't be one.
            HashCollision: other content of the same MD5 has the path; nothing was put.
            StoreNotConfigured, StoreMissing, StoreInaccessible: the store can't be used.
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
        """Content by what ``put_hash`` returned for it, here or in DataJoint, from the path stored there.

        Raises:
            KeyError: ``path`` or ``hash`` is missing in ``metadata``.
            InvalidName: the path would lead out of the store.
            MissingExternalFile: there is nothing at the path.
            HashMismatch: what is there is not what was put.
            StoreNotConfigured, StoreMissing, StoreInaccessible: the store can't be used.
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
        """Delete a file by its stored path, for good, and what was set aside of it. Nothing looks whether it
        is referenced: that is ``gc.collect``'s work.

        Returns:
            Whether there was something.

        Raises:
            InvalidName: the path would lead out of the store.
            StoreNotConfigured, StoreMissing, StoreInaccessible: the store can't be used.
        """
        backend = self.get_store_backend(store_name)
        there = [one for one in (path, path + ASIDE) if backend.exists(one) and not backend.isdir(one)]
        for one in there:
            backend.remove(one)
        return bool(there)


def _put(backend: StorageBackend, path: str, data: bytes) -> None:
    for _ in range(_ATTEMPTS):
        try:
            there = backend.get_buffer(path)
        except MissingExternalFile:
            if backend.create(path, data):
                return
            continue  # another process was faster: see what it put
        if there == data:
            if backend.renew(path, data):
                return
            continue  # it was set aside in this moment
        if compute_hash(there) == compute_hash(data):
            raise HashCollision(
                f"{backend.get_url(path)} has other content of the same MD5 ({len(there)} bytes, not "
                f"{len(data)}); nothing was put. Store this one in another schema, and find out who made it"
            )
        log.warning("%s was corrupt; it is replaced by what is put", backend.get_url(path))
        backend.put_buffer(data, path)
        return
    raise StoreInaccessible(
        f"could not put {backend.get_url(path)}: something puts and removes it again and again"
    )


def _get(backend: StorageBackend, path: str) -> bytes:
    try:
        return backend.get_buffer(path)
    except MissingExternalFile:
        try:
            data = backend.get_buffer(path + ASIDE)
        except MissingExternalFile:
            pass
        else:
            log.warning(
                "%s was set aside by garbage collection; collect again with its reference to bring it back",
                backend.get_url(path),
            )
            return data
        # In the moment between the two, it may have been brought back.
        return backend.get_buffer(path)
