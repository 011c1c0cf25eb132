"""Commands that change a data directory, beside the node that runs there and without one."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from shardcast.constants import DISTRIBUTION_FILE
from shardcast.errors import DataDirInUse, LocalDiskError, NoNode
from shardcast.store.data_dir import own_folder

T = TypeVar("T")

_NODE_STARTS = 10.0
"""Seconds that a node has from taking its directory to opening its socket."""
_LOOK_AGAIN = 0.1
"""Seconds between two looks at whether the data directory is free."""


def beside_or_alone(data_dir: Path, beside: Callable[[], T], alone: Callable[[], T]) -> T:
    """Return the result of ``beside``, which asks the node on a data directory; of ``alone``, which takes the
    directory itself, where none runs (``NoNode``). A node that starts is waited for.

    Raises:
        LocalDiskError: the folder is no data directory.
        DataDirInUse: another process holds the directory, and is no node.
    """
    if not data_dir.is_dir():
        raise LocalDiskError(f"there is no data directory {data_dir}")
    if not own_folder(data_dir).is_dir() and not (data_dir / DISTRIBUTION_FILE).exists():
        raise LocalDiskError(f"{data_dir} is no data directory")
    deadline = time.monotonic() + _NODE_STARTS
    while True:
        try:
            return beside()
        except NoNode:
            pass
        try:
            return alone()
        except DataDirInUse:  # by a node that starts or ends, perhaps
            if time.monotonic() > deadline:
                raise
        time.sleep(_LOOK_AGAIN)
