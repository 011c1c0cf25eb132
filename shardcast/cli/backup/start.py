"""``shardcast backup start``: the backup server in the foreground."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from shardcast.addresses import Network
from shardcast.cli import options
from shardcast.cli.access_options import ServerAccessOptions, server_access_options
from shardcast.cli.backup.server_options import PORT, SETTINGS, store_dir_option
from shardcast.cli.backup.start_config import read_config
from shardcast.cli.guarded_options import PortOption
from shardcast.cli.limit_options import UploadLimitOptions, upload_limit_options
from shardcast.cli.serving import ForegroundNode


@click.command(context_settings=SETTINGS, short_help="Keep backups of invited clients.")
@click.argument("again", required=False, type=click.Choice(["start"]), metavar="")
@store_dir_option
@options.option("--host", default="::", help="The address to listen on; :: is every one, of IPv4 and IPv6.")
@options.option(
    "--port",
    cls=PortOption,
    env="BACKUP_PORT",
    type=click.IntRange(0, 65535),
    default=PORT,
    help="The port to listen on; 0 picks a free one.",
)
@options.option(
    "--config",
    env="BACKUP_CONFIG",
    type=options.NamedPath(path_type=Path, dir_okay=False),
    help="A file with store_dir and port, like hashstore's; options take precedence.",
)
@options.option(
    "--append-only",
    env="BACKUP_APPEND_ONLY",
    is_flag=True,
    help="Let no client forget snapshots without the key in STORE_DIR/admin.key.",
)
@options.option(
    "--min-age",
    env="BACKUP_MIN_AGE",
    type=options.Duration(),
    default="0s",
    help="Minimum age of a snapshot to forget (30d).",
)
@options.option(
    "--quota",
    env="BACKUP_QUOTA",
    type=options.Size(),
    help="Maximum bytes of each client (500GB); `clients --quota` sets those of one client.",
)
@options.option(
    "--dedupe-clients",
    env="BACKUP_DEDUPE_CLIENTS",
    is_flag=True,
    help="Keep equal chunks of clients that register from now on once. A client with a file's bytes can then "
    "learn whether another one has the file.",
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
    config: Path | None,
    append_only: bool,
    min_age: float,
    quota: int | None,
    dedupe_clients: bool,
    trusted_proxy: tuple[Network, ...] | None,
    server_access: ServerAccessOptions,
    upload_limits: UploadLimitOptions,
    ready_fd: int | None,
    parent: int | None,
) -> None:
    """Keep backups of invited clients in STORE_DIR; a missing folder is made.

    Clients register with an invitation (`shardcast backup invite`), and use a key of their own from then on;
    --tokens concern /status alone.
    """
    options.start_logging()
    from shardcast.backup.server.app import BackupServerNode
    from shardcast.backup.server.state import BackupRules
    from shardcast.nodes.runtime import run
    from shardcast.server.bounds import Bounds

    foreground = ForegroundNode(ready_fd, parent)
    if config is not None:
        store_dir, port = foreground.prepare(lambda: _configured(config, store_dir, port))
    node = BackupServerNode.running(
        store_dir,
        BackupRules(append_only, min_age, quota, dedupe_clients),
        host,
        port,
        bounds=Bounds(trusted=trusted_proxy or (), uploads=foreground.prepare(upload_limits.load)),
        access=foreground.prepare(server_access.load),
    )
    run(foreground.serve(node))


def _configured(file: Path, store_dir: Path, port: int) -> tuple[Path, int]:
    """Return the folder and the port: from the file unless set by an option or variable.

    Name the ignored keys of the file on stderr.

    Raises:
        UsageError: the file is malformed.
        LocalDiskError: the file can't be read.
    """
    settings, passed_over = read_config(file)
    if passed_over:
        click.echo(f"{file}: {', '.join(passed_over)} has no meaning here, and is ignored", err=True)
    context = click.get_current_context()
    if "store_dir" in settings and context.get_parameter_source("store_dir") is ParameterSource.DEFAULT:
        store_dir = Path(settings["store_dir"]).expanduser()
    if "port" in settings and context.get_parameter_source("port") is ParameterSource.DEFAULT:
        port = int(settings["port"])
    return store_dir, port
