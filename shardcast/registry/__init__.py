"""A hash registry: content under its hash, per schema, in a directory or a bucket; DataJoint 2.0's interface.

::

    from shardcast import registry

    registry.configure({"default": "main", "main": {"protocol": "file", "location": "/data/store"}})
    metadata = registry.put_hash(b"content", "lab")     # keep it in a database
    registry.get_hash(metadata)                         # b"content"

Content lies under ``_hash/SCHEMA/HASH`` and stays there until ``registry.gc.collect`` finds no
reference. Functions use the stores of ``configure``, or those of the JSON file named by
``SHARDCAST_REGISTRY_STORES``; a ``Registry`` has the same functions over stores of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shardcast.errors import (
    HashCollision,
    HashMismatch,
    InvalidName,
    MissingExternalFile,
    ReferencesUnreadable,
    RegistryError,
    StoreInaccessible,
    StoreMissing,
    StoreNotConfigured,
)
from shardcast.registry import gc
from shardcast.registry.backend import StorageBackend
from shardcast.registry.current import configure, current
from shardcast.registry.hash_registry import Registry
from shardcast.registry.hashes import Buffer, build_hash_path, compute_hash

__all__ = [
    "HashCollision",
    "HashMismatch",
    "InvalidName",
    "MissingExternalFile",
    "ReferencesUnreadable",
    "Registry",
    "RegistryError",
    "StorageBackend",
    "StoreInaccessible",
    "StoreMissing",
    "StoreNotConfigured",
    "build_hash_path",
    "compute_hash",
    "configure",
    "delete_path",
    "gc",
    "get_hash",
    "get_store_backend",
    "get_store_subfolding",
    "put_hash",
]


def get_store_backend(store_name: str | None = None) -> StorageBackend:
    """Call ``Registry.get_store_backend`` of the configured stores."""
    return current().get_store_backend(store_name)


def get_store_subfolding(store_name: str | None = None) -> tuple[int, ...] | None:
    """Call ``Registry.get_store_subfolding`` of the configured stores."""
    return current().get_store_subfolding(store_name)


def put_hash(data: Buffer, schema_name: str, store_name: str | None = None) -> dict[str, Any]:
    """Call ``Registry.put_hash`` of the configured stores."""
    return current().put_hash(data, schema_name, store_name)


def get_hash(metadata: Mapping[str, Any]) -> bytes:
    """Call ``Registry.get_hash`` of the configured stores."""
    return current().get_hash(metadata)


def delete_path(path: str, store_name: str | None = None) -> bool:
    """Call ``Registry.delete_path`` of the configured stores."""
    return current().delete_path(path, store_name)
