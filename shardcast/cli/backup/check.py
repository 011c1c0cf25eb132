"""``shardcast backup check``: check that no data of snapshots is missing, at the server or a client."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from shardcast.cli import options
from shardcast.cli.backup.server_options import SETTINGS
from shardcast.cli.backup.snapshot_source import SnapshotSource, source_options
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


@click.command(context_settings=SETTINGS, short_help="Check that no data of snapshots is missing.")
@options.option(
    "--store_dir",
    "--store-dir",
    "store_dir",
    env="BACKUP_STORE_DIR",
    type=options.NamedPath(path_type=Path, file_okay=False),
    help="Check the whole store, at the server; without it, the snapshots of a client.",
)
@source_options
@click.option("--read-data", is_flag=True, help="Read and verify every byte.")
@click.option(
    "--read-data-subset", "part", type=PackPart(), help="Read a part of the bytes: 1/7 today, 2/7 tomorrow."
)
@options.json_option
@options.logging_options
def check(
    store_dir: Path | None,
    source: SnapshotSource,
    *,
    read_data: bool,
    part: tuple[int, int] | None,
    as_json: bool,
) -> int:
    """Check that no data of snapshots is missing; print the damage, and the damaged snapshots.

    With --store_dir at the server: check the whole store, beside a running server and running backups. Damage
    is recorded, and the next backup sends the damaged data again, if still there. Without --store_dir: check
    the snapshots of the folder from the client, byte by byte with --read-data. The exit code is 5 after
    damage.
    """
    options.start_logging()
    if read_data and part:
        raise UsageError("--read-data and --read-data-subset exclude each other")
    part = (1, 1) if read_data else part
    if store_dir is None:
        from shardcast.cli.backup.check_client import check_client

        return check_client(source, part, as_json)
    from shardcast.cli.backup.check_store import check_store_dir

    return check_store_dir(store_dir, part, as_json)
