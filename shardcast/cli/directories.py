"""Changes of a data directory by a command, through the node that runs there or without one."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from shardcast.constants import DISTRIBUTION_FILE
from shardcast.errors import DataDirInUse, LocalDiskError, NoNode
from shardcast.store.data_dir_layout import own_folder

T = TypeVar("T")

_NODE_START_TIMEOUT = 10.0
"""Seconds from the moment a node locks its directory until its socket must answer."""
_POLL_INTERVAL = 0.1
"""Seconds between two attempts to reach the node or to take the directory."""


def through_node_or_alone(data_dir: Path, ask_node: Callable[[], T], alone: Callable[[], T]) -> T:
    """Return the result of ``ask_node``, or of ``alone`` where no node runs on the data directory.

    A node that starts holds the directory before its socket answers; it gets 10 s.

    Args:
        data_dir: the data directory.
        ask_node: asks the node; raises ``NoNode`` where none runs.
        alone: takes the directory and works itself; raises ``DataDirInUse`` where another process has it.

    Raises:
        LocalDiskError: the folder is no data directory.
        DataDirInUse: another process holds the directory, and is no node.
    """
    if not data_dir.is_dir():
        raise LocalDiskError(f"there is no data directory {data_dir}")
    if not own_folder(data_dir).is_dir() and not (data_dir / DISTRIBUTION_FILE).exists():
        raise LocalDiskError(f"{data_dir} is no data directory")
    deadline = time.monotonic() + _NODE_START_TIMEOUT
    while True:
        try:
            return ask_node()
        except NoNode:
            pass
        try:
            return alone()
        except DataDirInUse:  # perhaps by a node that starts or ends
            if time.monotonic() > deadline:
                raise
        time.sleep(_POLL_INTERVAL)
