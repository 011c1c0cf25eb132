"""``shardcast store serve``: blobs over HTTP, with hashserver's options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from shardcast.addresses import Network
from shardcast.cli import options
from shardcast.cli.access_options import ServerAccessOptions, store_access_options
from shardcast.cli.guarded_options import PortOption
from shardcast.cli.limit_options import UploadLimitOptions, upload_limit_options
from shardcast.cli.serving import ForegroundNode
from shardcast.errors import AddressTaken, ShardcastError


class _Refused(click.ClickException):
    """A failure with hashserver's exit code 1, for wrong options.

    Only unparsable options have exit code 2.
    """


class _Taken(click.ClickException):
    """A port in use: hashserver's exit code 3."""

    exit_code = 3


def _option(name: str, *words: Any, **settings: Any) -> Callable[[options.Command], options.Command]:
    """Return an option with a variable of ours and one of hashserver's."""
    variable = name.removeprefix("--").replace("-", "_").upper()
    names = [f"SHARDCAST_STORE_{variable}", f"HASHSERVER_{variable}"]
    return click.option(name, *words, envvar=names, show_envvar=True, **settings)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("directory", envvar=["SHARDCAST_STORE_DIRECTORY", "HASHSERVER_DIRECTORY"])
@_option("--writable", is_flag=True, help="Accept new blobs, too.")
@_option(
    "--hash-algorithm",
    type=click.Choice(["sha-256", "sha3-256"]),
    default="sha-256",
    show_default=True,
    help="The digest in the names of blobs.",
)
@_option(
    "--layout",
    help="prefix (ab/ab3f…) or flat (ab3f…); by default the layout of the present blobs, else prefix.",
)
@_option("--extra-dirs", default="", help="More directories to read, with semicolons between them.")
@_option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    cls=PortOption,
    type=int,
    envvar=["SHARDCAST_STORE_HTTP_PORT", "SHARDCAST_STORE_PORT", "HASHSERVER_PORT"],
    show_envvar=True,
    help="The port to listen on; by default a free one from 49152 to 65535.",
)
@click.option("--port-range", type=int, nargs=2, metavar="A B", help="Any free port from A to B.")
@_option(
    "--lock-timeout",
    type=float,
    default=120.0,
    show_default=True,
    help="Seconds after which an untouched lock file is ignored.",
)
@click.option(
    "--status-file",
    type=click.Path(path_type=Path),
    help="A JSON file for the parent program to read the port from.",
)
@click.option("--timeout", type=float, help="End after so many seconds without a request.")
@options.trusted_proxy_option
@store_access_options
@upload_limit_options
@options.logging_options
@options.node_options
def serve(
    directory: str,
    *,
    writable: bool,
    hash_algorithm: str,
    layout: str | None,
    extra_dirs: str,
    host: str,
    port: int | None,
    port_range: tuple[int, int] | None,
    lock_timeout: float,
    status_file: Path | None,
    timeout: float | None,
    trusted_proxy: tuple[Network, ...] | None,
    server_access: ServerAccessOptions,
    upload_limits: UploadLimitOptions,
    ready_fd: int | None,
    parent: int | None,
) -> None:
    """Serve the blobs in DIRECTORY over HTTP, as hashserver does."""
    options.start_logging()
    from shardcast.blobs.server.hash_server import (
        ALGORITHMS,
        DYNAMIC_PORTS,
        StoreServer,
        StoreSettings,
        parse_directories,
    )
    from shardcast.nodes.runtime import run
    from shardcast.server.bounds import Bounds

    source = click.get_current_context().get_parameter_source("port")
    if port_range is not None and source is ParameterSource.COMMANDLINE:
        raise click.UsageError("--port and --port-range exclude each other")
    ports = port_range or ((port, port) if port is not None else DYNAMIC_PORTS)
    algorithm, extra = ALGORITHMS[hash_algorithm], parse_directories(extra_dirs)
    if not directory:
        raise _Refused("the name of the directory is empty; the current one is .")
    settings = StoreSettings(
        Path(directory), algorithm, layout or None, extra, writable=writable, lock_seconds=lock_timeout
    )
    foreground = ForegroundNode(ready_fd, parent)
    bounds = Bounds(trusted=trusted_proxy or (), uploads=foreground.prepare(upload_limits.load))
    node = StoreServer.running(
        settings,
        host,
        ports,
        status_file=status_file,
        timeout=timeout,
        bounds=bounds,
        access=foreground.prepare(server_access.load),
    )
    try:
        run(foreground.serve(node, until=StoreServer.wait_until_idle))
    except AddressTaken as error:
        raise (_Refused if port_range else _Taken)(str(error)) from error
    except ShardcastError as error:
        raise _Refused(str(error)) from error
