"""The registry that the module's functions use: the only state that this package keeps."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from shardcast.errors import StoreNotConfigured
from shardcast.registry.hash_registry import Registry

STORES_VARIABLE = "SHARDCAST_REGISTRY_STORES"
"""Names a JSON file with the stores; read once, when the first function needs it."""

_current: Registry | None = None


def configure(stores: Mapping[str, Any] | Registry | None) -> None:
    """Say which stores ``put_hash`` and the others use, in the whole process; for None those of the file that
    ``SHARDCAST_REGISTRY_STORES`` names, read anew."""
    global _current
    _current = Registry(stores) if isinstance(stores, Mapping) else stores


def current() -> Registry:
    """The registry that ``put_hash`` and the others use.

    Raises:
        StoreNotConfigured: nothing was configured.
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
