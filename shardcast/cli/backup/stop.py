"""``shardcast backup stop``: end a running backup server."""

from __future__ import annotations

from pathlib import Path

import click

from shardcast.cli import options
from shardcast.cli.backup.server_options import SETTINGS, store_dir_option
from shardcast.cli.backup.start_config import read_config
from shardcast.errors import UsageError

_PATIENCE = 30.0
"""Seconds for a server to end: running answers may use some of them."""


@click.command(context_settings=SETTINGS, short_help="End a running backup server.")
@store_dir_option
@click.option("--port", type=click.IntRange(1, 65535), help="End the server on this port instead.")
@click.option(
    "--config",
    type=options.NamedPath(path_type=Path, dir_okay=False),
    help="End the server of `start --config FILE` instead.",
)
def stop(store_dir: Path, port: int | None, config: Path | None) -> None:
    """End the backup server of STORE_DIR, and wait for its end; without a server, do nothing."""
    from shardcast.backup.server.stopping import folder_of_port, stop_server
    from shardcast.backup.server.store_folder import StoreFolder

    if port is not None and config is not None:
        raise UsageError("--port and --config exclude each other")
    if config is not None:
        settings, _ = read_config(config)
        store_dir = Path(settings.get("store_dir", store_dir)).expanduser()
    folder = folder_of_port(port) if port is not None else StoreFolder(store_dir)
    if folder is None or not stop_server(folder, _PATIENCE):
        click.echo("No backup server of yours runs there.", err=True)
