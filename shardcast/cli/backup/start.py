"""``shardcast backup start``: the backup server in the foreground."""

from __future__ import annotations

from pathlib import Path

import click

from shardcast.addresses import Network
from shardcast.cli import options
from shardcast.cli.access_options import ServerAccessOptions, server_access_options
from shardcast.cli.backup.server_options import SETTINGS, store_dir_option
from shardcast.cli.limit_options import UploadLimitOptions, upload_limit_options
from shardcast.cli.serving import ForegroundNode

_PORT = 7532
"""hashstore's port."""


@click.command(context_settings=SETTINGS)
@click.argument("again", required=False, type=click.Choice(["start"]), metavar="")
@store_dir_option
@options.option("--host", default="::", help="The address to listen on; :: is every one, of IPv4 and IPv6.")
@options.option(
    "--port",
    env="BACKUP_PORT",
    type=click.IntRange(0, 65535),
    default=_PORT,
    help="The port to listen on; 0 picks a free one.",
)
@options.option(
    "--append-only",
    env="BACKUP_APPEND_ONLY",
    is_flag=True,
    help="Let no client forget snapshots without the key in STORE_DIR/admin.key.",
)
@options.trusted_proxy_option
@server_access_options
@upload_limit_options
@options.logging_options
@options.node_options
def start(
    again: str | None,
    *,
    store_dir: Path,
    host: str,
    port: int,
    append_only: bool,
    trusted_proxy: tuple[Network, ...] | None,
    server_access: ServerAccessOptions,
    upload_limits: UploadLimitOptions,
    ready_fd: int | None,
    parent: int | None,
) -> None:
    """Keep backups of clients that were invited, in STORE_DIR, which is made where it doesn't exist."""
    options.start_logging()
    from shardcast.backup.server.app import BackupServerNode, BackupServerSettings
    from shardcast.nodes.runtime import run
    from shardcast.server.bounds import Bounds

    foreground = ForegroundNode(ready_fd, parent)
    node = BackupServerNode.running(
        BackupServerSettings(store_dir, append_only=append_only),
        host,
        port,
        bounds=Bounds(trusted=trusted_proxy or (), uploads=foreground.prepare(upload_limits.load)),
        access=foreground.prepare(server_access.load),
    )
    run(foreground.serve(node))
