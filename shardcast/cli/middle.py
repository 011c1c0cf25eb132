"""``shardcast-middle``."""

from __future__ import annotations

from pathlib import Path

import click

from shardcast import constants
from shardcast.addresses import Network
from shardcast.cli import options
from shardcast.cli.serving import ForegroundNode


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@options.option(
    "--upstream", type=options.ServerList(), help="Servers whose versions to keep, comma-separated."
)
@options.data_dir_option("./middle_data")
@options.host_option
@options.port_option
@options.option(
    "--check-interval",
    type=click.FloatRange(0, 86_400, min_open=True),
    default=constants.CHECK_INTERVAL,
    help="Seconds until what failed is tried again, and between looks at servers without a feed.",
)
@options.keep_option
@options.max_bytes_option
@options.origin_id_option
@options.trusted_proxy_option
@options.logging_options
@options.node_options
def middle(
    upstream: list[str] | None,
    data_dir: Path,
    host: str,
    port: int,
    check_interval: float,
    keep: int,
    max_bytes: int | None,
    origin_id: str | None,
    trusted_proxy: tuple[Network, ...] | None,
    ready_fd: int | None,
    parent: int | None,
) -> None:
    """Keep the newest versions that other servers offer, and serve them.

    Without --upstream the servers are those of IP_ADDR_LIST.
    """
    options.start_logging()
    servers = options.servers_or_ip_addr_list(upstream, "--upstream")
    from shardcast.nodes.middle import Middle
    from shardcast.nodes.runtime import run
    from shardcast.server.bounds import Bounds

    bounds = Bounds(trusted=trusted_proxy or ())
    node = Middle.running(servers, data_dir, host, port, check_interval, keep, max_bytes, origin_id, bounds)
    run(ForegroundNode(ready_fd, parent).serve(node))
