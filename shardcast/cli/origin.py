"""``shardcast-origin``: publish files, and serve them."""

from __future__ import annotations

import json
from pathlib import Path

import click

from shardcast.addresses import Network
from shardcast.cli import options
from shardcast.cli.access_options import ServerAccessOptions, server_access_options
from shardcast.cli.limit_options import UploadLimitOptions, upload_limit_options
from shardcast.cli.serving import ForegroundNode
from shardcast.protocol.wire import MAX_VERSION


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@options.data_dir_option("./data")
@options.listening_options
@options.advertise_networks_option
@options.site_option
@options.option(
    "--broadcast",
    "payloads",
    multiple=True,
    type=click.Path(path_type=Path, readable=False),
    help="A file to publish at the start; can be given several times.",
)
@options.shard_size_option
@options.retention_options
@options.option(
    "--first-version",
    type=click.IntRange(1, MAX_VERSION),
    default=1,
    help="Smallest number of a new version; lets an origin continue where another one stopped.",
)
@options.option(
    "--legacy-digest",
    type=click.Choice(["sha256", "blake3"]),
    default="sha256",
    help="The digest in distribution.txt; readers of 0.3.x expect blake3.",
)
@options.option(
    "--publish",
    "takes_uploads",
    is_flag=True,
    help="Publish payloads sent here by `shardcast broadcast --to`; without --tokens, anyone may send.",
)
@options.json_option
@server_access_options
@upload_limit_options
@options.logging_options
@options.node_options
def origin(
    *,
    data_dir: Path,
    listening: options.Listening,
    advertise_networks: tuple[Network, ...] | None,
    site: str | None,
    payloads: tuple[Path, ...],
    shard_size: int,
    retention: options.Retention,
    first_version: int,
    legacy_digest: str,
    takes_uploads: bool,
    as_json: bool,
    server_access: ServerAccessOptions,
    upload_limits: UploadLimitOptions,
    ready_fd: int | None,
    parent: int | None,
) -> None:
    """Publish files and serve them to middles and clients.

    Publish files with --broadcast, or at any time with `shardcast broadcast PATH`.
    """
    options.start_logging()
    from shardcast.nodes.child_process import how_started
    from shardcast.nodes.origin import Origin
    from shardcast.nodes.runtime import run
    from shardcast.server.bounds import Bounds

    async def publish_all(running: Origin) -> None:
        broadcasts = [(path, await running.publish(path.absolute())) for path in payloads]
        for path, broadcast in broadcasts:
            await broadcast.result()
            version = broadcast.version
            click.echo(json.dumps({"version": version, "path": str(path)}) if as_json else version)

    foreground = ForegroundNode(ready_fd, parent)
    node = Origin.running(
        data_dir,
        host=listening.host,
        port=listening.port,
        keep=retention.keep,
        shard_size=shard_size,
        first_version=first_version,
        listed_digest=legacy_digest,
        max_bytes=retention.max_bytes,
        advertise_networks=advertise_networks or (),
        site=site,
        bounds=Bounds(trusted=listening.trusted_proxy or (), uploads=foreground.prepare(upload_limits.load)),
        access=foreground.prepare(server_access.load),
        takes_uploads=takes_uploads,
        started=how_started(parent),
    )
    run(foreground.serve(node, publish_all))
