"""The registry of the module's functions: the only state that this package keeps."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from shardcast.errors import StoreNotConfigured
from shardcast.registry.hash_registry import Registry

STORES_VARIABLE = "SHARDCAST_REGISTRY_STORES"
"""The variable that names a JSON file with the stores; the file is read once, when it is first needed."""

_current: Registry | None = None


def configure(stores: Mapping[str, Any] | Registry | None) -> None:
    """Set the stores that ``put_hash`` and the others use, in the whole process.

    Args:
        stores: the stores by their names, or a registry; None for those of the file that
            ``SHARDCAST_REGISTRY_STORES`` names, read again when they are needed.

    Raises:
        StoreNotConfigured: ``stores`` can't be a configuration.
    """
    global _current
    _current = Registry(stores) if isinstance(stores, Mapping) else stores


def current() -> Registry:
    """Return the registry that ``put_hash`` and the others use.

    Raises:
        StoreNotConfigured: no stores are configured.
    """
    global _current
    if _current is None:
        file = os.environ.get(STORES_VARIABLE)
        if not file:
            raise StoreNotConfigured(
                "no stores are configured; call shardcast.registry.configure(stores), or name a JSON file "
                f"with them in {STORES_VARIABLE}"
            )
        _current = Registry.from_file(file)
    return _current
