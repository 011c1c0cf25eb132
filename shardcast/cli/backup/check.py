"""``shardcast backup check``: whether everything that snapshots need is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from shardcast.cli import options
from shardcast.cli.backup.server_options import SETTINGS
from shardcast.errors import UsageError


class PackPart(click.ParamType[tuple[int, int]]):
    """Type of a part of the packs: ``2/7``."""

    name = "n/t"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the part, and of how many."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", str(value).strip(), re.ASCII)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            self.fail(f"{value!r} is no part; write 1/7 to 7/7", param, ctx)
        return int(match[1]), int(match[2])


@click.command(context_settings=SETTINGS, short_help="Check that everything that snapshots need is there.")
@options.option(
    "--store_dir",
    "--store-dir",
    "store_dir",
    env="BACKUP_STORE_DIR",
    type=options.NamedPath(path_type=Path, file_okay=False),
    required=True,
    help="Check the whole store, at the server.",
)
@click.option("--read-data", is_flag=True, help="Read every byte, and digest it.")
@click.option(
    "--read-data-subset", "part", type=PackPart(), help="Read a part of the packs: 1/7 today, 2/7 tomorrow."
)
@options.json_option
@options.logging_options
def check(store_dir: Path, *, read_data: bool, part: tuple[int, int] | None, as_json: bool) -> int:
    """Check the store of a backup server, beside a running one and running backups.

    It prints which packs are damaged or gone and which snapshots that hurts, and records it: the next backup
    sends again what it still has. The exit code is 5 when something is wrong.
    """
    options.start_logging()
    from shardcast.cli.backup.check_store import check_store_dir

    if read_data and part:
        raise UsageError("--read-data and --read-data-subset exclude each other")
    return check_store_dir(store_dir, (1, 1) if read_data else part, as_json)
