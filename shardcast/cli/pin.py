"""``shardcast pin`` and ``shardcast unpin``."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import click

from shardcast.cli import options
from shardcast.constants import DISTRIBUTION_FILE
from shardcast.distribution import is_version
from shardcast.errors import DataDirInUse, LocalDiskError, NoNode, UsageError
from shardcast.store import pins
from shardcast.store.data_dir import DataDir, own_folder

_NODE_STARTS = 10.0
"""Seconds that a node has from taking its directory to opening its socket."""
_LOOK_AGAIN = 0.1
"""Seconds between two looks at whether the data directory is free."""
_SETTINGS = {"help_option_names": ["-h", "--help"]}


@click.command(context_settings=_SETTINGS)
@click.argument("version")
@options.data_dir_option("./data")
@options.logging_options
def pin(version: str, data_dir: Path) -> None:
    """Keep VERSION in a data directory until it is unpinned, however many newer ones there are.

    It works beside the origin or the middle that runs there, and without one.
    """
    _change(version, data_dir, keep=True)


@click.command(context_settings=_SETTINGS)
@click.argument("version")
@options.data_dir_option("./data")
@options.logging_options
def unpin(version: str, data_dir: Path) -> None:
    """Let VERSION, which was pinned in a data directory, go when newer ones take its place."""
    _change(version, data_dir, keep=False)


def _change(version: str, data_dir: Path, keep: bool) -> None:
    options.start_logging()
    if not is_version(version):
        raise UsageError(f"{version!r} is not a version; write v1, v2, …")
    if not data_dir.is_dir():
        raise LocalDiskError(f"there is no data directory {data_dir}")
    if not own_folder(data_dir).is_dir() and not (data_dir / DISTRIBUTION_FILE).exists():
        raise LocalDiskError(f"{data_dir} is no data directory")
    from shardcast.peer.control import change_pin

    deadline = time.monotonic() + _NODE_STARTS
    while True:
        try:
            change_pin(data_dir, version, keep)
            break
        except NoNode:
            pass
        try:
            with contextlib.closing(DataDir(data_dir, "pin")) as held:
                (pins.pin if keep else pins.unpin)(held, version)
            break
        except DataDirInUse:  # by a node that starts or ends, perhaps
            if time.monotonic() > deadline:
                raise
        time.sleep(_LOOK_AGAIN)
    click.echo(f"{version} is {'pinned' if keep else 'no longer pinned'} in {data_dir}", err=True)
