"""``shardcast pin`` and ``shardcast unpin``: keep a version beyond the retention."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from shardcast.cli import options
from shardcast.cli.directories import through_node_or_alone
from shardcast.errors import UsageError
from shardcast.protocol.distribution import is_version
from shardcast.store import pins
from shardcast.store.data_dir import DataDir
from shardcast.store.line_change import finish_change

_SETTINGS = {"help_option_names": ["-h", "--help"]}


@click.command(context_settings=_SETTINGS)
@click.argument("version")
@options.data_dir_option("./data")
@options.logging_options
def pin(version: str, data_dir: Path) -> None:
    """Keep VERSION in a data directory until it is unpinned, however many newer ones there are.

    The command works with or without a running origin or middle.
    """
    _change(version, data_dir, keep=True)


@click.command(context_settings=_SETTINGS)
@click.argument("version")
@options.data_dir_option("./data")
@options.logging_options
def unpin(version: str, data_dir: Path) -> None:
    """End the pin of VERSION in a data directory: newer versions can replace it."""
    _change(version, data_dir, keep=False)


def _change(version: str, data_dir: Path, keep: bool) -> None:
    """Pin (``keep``) or unpin a version, through the node on the data directory or without one.

    Raises:
        UsageError: ``version`` is no version's name.
        LocalDiskError: the folder is no data directory.
        DataDirInUse: after 10 s, another process still holds the directory, and is no node that answers.
    """
    options.start_logging()
    if not is_version(version):
        raise UsageError(f"{version!r} is not a version; write v1, v2, …")

    def alone() -> None:
        with contextlib.closing(DataDir(data_dir, "pin")) as held:
            finish_change(
                held
            )  # else the pin would meet a version that an unfinished change of line puts aside
            (pins.pin if keep else pins.unpin)(held, version)

    from shardcast.control.client import change_pin

    through_node_or_alone(data_dir, lambda: change_pin(data_dir, version, keep), alone)
    click.echo(f"{version} is {'pinned' if keep else 'no longer pinned'} in {data_dir}", err=True)
