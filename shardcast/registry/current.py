"""The registry used by the module's functions: the only state of this package."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from shardcast.errors import StoreNotConfigured
from shardcast.registry.hash_registry import Registry

STORES_VARIABLE = "SHARDCAST_REGISTRY_STORES"
"""The variable with the name of a JSON file of stores; the file is read once, at the first use."""

_current: Registry | None = None


def configure(stores: Mapping[str, Any] | Registry | None) -> None:
    """Set the stores for ``put_hash`` and the other functions, in the whole process.

    Args:
        stores: the stores by name, or a registry; None for those in the file named by
            ``SHARDCAST_REGISTRY_STORES``, read again at the next use. A store's keys are checked at its first
            use, not here.
    """
    global _current
    _current = Registry(stores) if isinstance(stores, Mapping) else stores


def current() -> Registry:
    """Return the registry used by ``put_hash`` and the other functions.

    Raises:
        StoreNotConfigured: no stores are configured, or the named file can't be read.
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
