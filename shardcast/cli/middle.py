"""``shardcast-middle``: keep the versions of other servers, and serve them."""

from __future__ import annotations

from pathlib import Path

import click

from shardcast import constants
from shardcast.addresses import Network
from shardcast.cli import options
from shardcast.cli.access_options import (
    ClientAccessOptions,
    ServerAccessOptions,
    client_access_options,
    server_access_options,
)
from shardcast.cli.limit_options import (
    DownloadLimitOptions,
    UploadLimitOptions,
    download_limit_options,
    upload_limit_options,
)
from shardcast.cli.serving import ForegroundNode


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@options.option(
    "--upstream", type=options.ServerList(), help="Servers whose versions to keep, comma-separated."
)
@options.data_dir_option("./middle_data")
@options.listening_options
@options.advertise_networks_option
@options.advertise_option
@options.site_option
@options.option(
    "--check-interval",
    type=click.FloatRange(0, 86_400, min_open=True),
    default=constants.CHECK_INTERVAL,
    help="Seconds until failed versions are tried again, and between requests to servers without a feed.",
)
@options.retention_options
@options.origin_id_option
@server_access_options
@upload_limit_options
@download_limit_options
@client_access_options
@options.logging_options
@options.node_options
def middle(
    *,
    upstream: list[str] | None,
    data_dir: Path,
    listening: options.Listening,
    advertise_networks: tuple[Network, ...] | None,
    advertise: str | None,
    site: str | None,
    check_interval: float,
    retention: options.Retention,
    origin_id: str | None,
    server_access: ServerAccessOptions,
    upload_limits: UploadLimitOptions,
    download_limits: DownloadLimitOptions,
    client_access: ClientAccessOptions,
    ready_fd: int | None,
    parent: int | None,
) -> None:
    """Keep and serve the newest versions of other servers.

    Without --upstream the servers are those of IP_ADDR_LIST.
    """
    options.start_logging()
    servers = options.servers_or_ip_addr_list(upstream, "--upstream")
    from shardcast.nodes.middle import Middle
    from shardcast.nodes.runtime import run
    from shardcast.server.bounds import Bounds

    foreground = ForegroundNode(ready_fd, parent)
    node = Middle.running(
        servers,
        data_dir,
        host=listening.host,
        port=listening.port,
        check_interval=check_interval,
        keep=retention.keep,
        max_bytes=retention.max_bytes,
        origin_id=origin_id,
        advertise_networks=advertise_networks or (),
        advertise=advertise,
        site=site,
        bounds=Bounds(trusted=listening.trusted_proxy or (), uploads=foreground.prepare(upload_limits.load)),
        access=foreground.prepare(server_access.load),
        upstream_access=foreground.prepare(client_access.load),
        downloads=foreground.prepare(download_limits.load),
    )
    run(foreground.serve(node))
