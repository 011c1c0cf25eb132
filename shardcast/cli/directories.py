"""Changes of a data directory by a command, through a running node or without one."""

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
"""Seconds for a node's socket to answer, after the node has locked its directory."""
_POLL_INTERVAL = 0.1
"""Seconds between two attempts to reach the node or to take the directory."""


def through_node_or_alone(data_dir: Path, ask_node: Callable[[], T], alone: Callable[[], T]) -> T:
    """Return the result of ``ask_node``, or of ``alone`` without a running node on the data directory.

    A starting node holds the directory before its socket answers; wait 10 s for the answer.

    Args:
        data_dir: the data directory.
        ask_node: asks the node; raises ``NoNode`` without one.
        alone: takes the directory and does the work; raises ``DataDirInUse`` if another process holds it.

    Raises:
        LocalDiskError: the folder is no data directory.
        DataDirInUse: after 10 s, another process still holds the directory, and is no node that answers.
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
