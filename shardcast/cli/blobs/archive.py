"""``shardcast archive``: blobs under their SHA-256, many in a request."""

from __future__ import annotations

from pathlib import Path

import click

from shardcast.access.credentials import read_token
from shardcast.addresses import Network
from shardcast.cli import options
from shardcast.cli.access_options import (
    MirrorAccessOptions,
    ServerAccessOptions,
    mirror_access_options,
    server_access_options,
)
from shardcast.cli.guarded_options import PortOption
from shardcast.cli.limit_options import (
    DownloadLimitOptions,
    UploadLimitOptions,
    download_limit_options,
    upload_limit_options,
)
from shardcast.cli.serving import ForegroundNode

_SETTINGS = {"help_option_names": ["-h", "--help"]}


@click.group(context_settings=_SETTINGS)
def archive() -> None:
    """Keep blobs under their SHA-256, many in a request, as Casa does."""


@archive.command(context_settings=_SETTINGS)
@click.argument("directory", type=options.NamedPath(path_type=Path, file_okay=False))
@options.option(
    "--host",
    env="ARCHIVE_HOST",
    default="::",
    help="The address to listen on; :: is every one, of IPv4 and IPv6.",
)
@click.option(
    "--port",
    cls=PortOption,
    envvar=["SHARDCAST_ARCHIVE_PORT", "PORT"],
    show_envvar=True,
    type=click.IntRange(0, 65535),
    default=3000,
    show_default=True,
    help="The port for all clients; 0 picks a free one.",
)
@click.option(
    "--authorized-port",
    cls=PortOption,
    envvar=["SHARDCAST_AUTHORIZED_PORT", "AUTHORIZED_PORT"],
    show_envvar=True,
    type=click.IntRange(0, 65535),
    help="A port for pushing without a token; by default pushing needs a token.",
)
@options.option(
    "--authorized-host", default="127.0.0.1", help="The address to listen on with --authorized-port."
)
@options.option(
    "--token-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A file with the token for pushing at any port.",
)
@options.option(
    "--mirror",
    type=options.ServerList(),
    multiple=True,
    help="Servers to fetch missing blobs from: archives, hash servers, nodes. Several, or comma-separated.",
)
@options.option("--max-blob", type=options.Size(), default="4GiB", help="Maximum bytes of a blob.")
@options.trusted_proxy_option
@server_access_options
@mirror_access_options
@upload_limit_options
@download_limit_options
@options.logging_options
@options.node_options
def serve(
    directory: Path,
    *,
    host: str,
    port: int,
    authorized_port: int | None,
    authorized_host: str,
    token_file: Path | None,
    mirror: tuple[list[str], ...],
    max_blob: int,
    trusted_proxy: tuple[Network, ...] | None,
    server_access: ServerAccessOptions,
    mirror_access: MirrorAccessOptions,
    upload_limits: UploadLimitOptions,
    download_limits: DownloadLimitOptions,
    ready_fd: int | None,
    parent: int | None,
) -> None:
    """Serve the blobs in DIRECTORY; a missing directory is made."""
    options.start_logging()
    from shardcast.blobs.server.archive_server import ArchiveNode
    from shardcast.nodes.runtime import run
    from shardcast.server.bounds import Bounds

    servers = [server for group in mirror for server in group]
    foreground = ForegroundNode(ready_fd, parent)
    node = ArchiveNode.on_directory(
        directory,
        host=host,
        port=port,
        authorized_port=authorized_port,
        authorized_host=authorized_host,
        token=read_token(token_file) if token_file else None,
        mirror=servers,
        max_blob=max_blob,
        bounds=Bounds(trusted=trusted_proxy or (), uploads=foreground.prepare(upload_limits.load)),
        access=foreground.prepare(server_access.load),
        mirror_access=foreground.prepare(mirror_access.load),
        downloads=foreground.prepare(download_limits.load),
    )

    async def announce(running: ArchiveNode) -> None:
        """Print where pushes need no token."""
        if running.push_url:
            click.echo(f"Taking pushes at {running.push_url}", err=True)

    run(foreground.serve(node, announce))
