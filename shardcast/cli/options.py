"""Options shared by several commands, each with its environment variable, and their types."""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from shardcast import constants
from shardcast.addresses import Network, parse_ip_addr_list, parse_networks, parse_servers
from shardcast.cli.guarded_options import GuardedOption, PortOption
from shardcast.cli.log_file import LogFile
from shardcast.cli.log_format import log_format
from shardcast.errors import UsageError
from shardcast.protocol.feed import check_origin_id
from shardcast.sizes import parse_size

LOG_FILE_SIZE = 10_000_000
"""Bytes of a log file before a new one begins."""
Command = TypeVar("Command", bound=Callable[..., Any])


class Size(click.ParamType[int]):
    """Type of a size in bytes, written with or without a unit."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes."""
        if isinstance(value, int):
            return value
        try:
            return parse_size(str(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)


class Rate(Size):
    """Type of bytes a second: a size, with or without ``/s``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes."""
        return super().convert(value.removesuffix("/s") if isinstance(value, str) else value, param, ctx)


_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
"""Seconds of each unit."""
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([smhdw]?)", re.ASCII)


class Duration(click.ParamType[float]):
    """Type of a length of time, written in seconds or with a unit."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        if isinstance(value, float):
            return value
        match = _DURATION.fullmatch(str(value).strip().lower())
        if not match:
            self.fail(f"{value!r} is no length of time; write 90s, 10m, 1h, 7d, 2w", param, ctx)
        return float(match[1]) * _UNITS[match[2]]


class ServerList(click.ParamType[list[str]]):
    """Type of a comma-separated list of servers."""

    name = "servers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """Return the base URLs."""
        try:
            return parse_servers(str(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)


class NamedPath(click.Path):
    """Type of a non-empty path.

    An unset variable of the shell gives an empty path, and an empty path would mean the current directory.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        if value == "":
            self.fail("it is empty; the current directory is .", param, ctx)
        return super().convert(value, param, ctx)


def servers_or_ip_addr_list(servers: list[str] | None, option: str) -> list[str]:
    """Return the servers of an option, or those of ``IP_ADDR_LIST`` without the option.

    Args:
        servers: the value of the option.
        option: the option's name, for the message.

    Raises:
        UsageError: neither names a server, or the list is malformed.
    """
    if servers:
        return servers
    listed = os.environ.get(constants.IP_ADDR_LIST, "").strip()
    if not listed:
        raise UsageError(f"no servers: give {option} a,b or set IP_ADDR_LIST='a b'")
    return parse_ip_addr_list(listed)


def option(
    name: str,
    *words: Any,
    env: str | None = None,
    cls: type[GuardedOption] = GuardedOption,
    **settings: Any,
) -> Callable[[Command], Command]:
    """Make a click option with an environment variable.

    Args:
        name: the option, ``--keep``.
        words: further names of the option, or of the parameter.
        env: name of the variable after ``SHARDCAST_``; by default the option's, ``KEEP``.
        cls: class of the option.
        settings: arguments of ``click.option``.
    """
    variable = constants.ENVIRONMENT_PREFIX + (env or name.strip("-").replace("-", "_").upper())
    shown = settings.get("default") is not None
    return click.option(
        name, *words, cls=cls, envvar=variable, show_envvar=True, show_default=shown, **settings
    )


def grouped(
    name: str, group: type[Any], *options: Callable[[Command], Command], prefix: str = ""
) -> Callable[[Command], Command]:
    """Add options to a command, and pass their values to the parameter ``name`` as one object.

    Args:
        name: the parameter of the command.
        group: a dataclass with a field for each of the options.
        options: the options, in the order of the help text.
        prefix: put before the fields' names in the names of the options' parameters, to use a group twice in
            a command.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_group(**values: Any) -> Any:
            grouped_values = {field.name: values.pop(prefix + field.name) for field in fields(group)}
            return command(**values, **{name: group(**grouped_values)})

        decorated = cast(Command, with_group)
        for add_option in reversed(options):
            decorated = add_option(decorated)
        return decorated

    return decorate


def data_dir_option(default: str) -> Callable[[Command], Command]:
    """Make the option ``--data-dir``, whose default is the role's."""
    return option(
        "--data-dir",
        type=click.Path(path_type=Path, readable=False),
        default=default,
        help="The folder with the versions.",
    )


shard_size_option = option(
    "--shard-size", type=Size(), default=constants.SHARD_SIZE, help="Bytes in a shard: 50MB, 48MiB, 50000000."
)


class Networks(click.ParamType[tuple[Network, ...]]):
    """Type of a comma-separated list of addresses and networks."""

    name = "networks"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the networks; an address is a network of one machine."""
        if isinstance(value, tuple):
            return value
        try:
            return parse_networks(str(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)


trusted_proxy_option = option(
    "--trusted-proxy",
    type=Networks(),
    help="Proxies (10.0.0.7,10.1.0.0/16) without a limit of connections, trusted to give the "
    "addresses of a swarm's members in the header Forwarded.",
)
site_option = option(
    "--site",
    help="The name of this machine's site; each piece enters a site once. By default its subnet.",
)
advertise_option = option(
    "--advertise",
    metavar="HOST[:PORT]",
    help="The address of this node for sharing clients and middles, if the upstreams allow this address.",
)
advertise_networks_option = option(
    "--advertise-networks",
    type=Networks(),
    help="Networks (10.1.0.0/16) in which sharing clients can --advertise addresses other than their own.",
)


@dataclass(frozen=True)
class Listening:
    """Listening address of a node, and the proxies exempt from connection limits."""

    host: str
    port: int
    trusted_proxy: tuple[Network, ...] | None


listening_options = grouped(
    "listening",
    Listening,
    option("--host", default="::", help="The address to listen on; :: is every one, of IPv4 and IPv6."),
    option(
        "--port",
        cls=PortOption,
        env="HTTP_PORT",
        type=click.IntRange(0, 65535),
        default=constants.HTTP_PORT,
        help="The port to listen on; 0 picks a free one.",
    ),
    trusted_proxy_option,
)


@dataclass(frozen=True)
class Retention:
    """Number of versions to keep, and the maximum bytes of all together."""

    keep: int
    max_bytes: int | None


retention_options = grouped(
    "retention",
    Retention,
    option(
        "--keep",
        env="MAX_DISTRIBUTION_FOLDERS",
        type=click.IntRange(1),
        default=constants.MAX_DISTRIBUTION_FOLDERS,
        help="How many versions to keep.",
    ),
    option(
        "--max-bytes",
        type=Size(),
        help="Maximum bytes of all versions together: 500GB; the oldest are removed to stay below.",
    ),
)


class OriginId(click.ParamType[str]):
    """Type of an origin id, the name of a line of versions."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the id."""
        try:
            return check_origin_id(str(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)


origin_id_option = option(
    "--origin-id",
    type=OriginId(),
    help="Accept only versions with this origin id, printed by the origin at its first start.",
)
json_option = option("--json", "as_json", is_flag=True, help="Print results as JSON.")


def node_options(command: Command) -> Command:
    """Add the hidden options of a node started by another process, and ending with it.

    ``--ready-fd`` is the descriptor for the node's URL or error, ``--parent`` the process whose end ends the
    node.
    """
    command = click.option("--ready-fd", type=int, hidden=True)(command)
    return click.option("--parent", type=int, hidden=True)(command)


def _remembered(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    """Return a callback to store an option's value for ``start_logging`` and ``is_quiet``."""

    def remember(ctx: click.Context, _param: click.Parameter, value: Any) -> None:
        ctx.meta[f"shardcast.{name}"] = value

    return remember


def logging_options(command: Command) -> Command:
    """Add the options of the log, read by ``start_logging`` and ``is_quiet`` instead of the command."""
    levels = click.Choice(["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], case_sensitive=False)
    added = (
        option(
            "--log-level",
            type=levels,
            default=constants.LOG_LEVEL,
            expose_value=False,
            callback=_remembered("level"),
            help="The lowest level of messages in the log; DEBUG includes each request.",
        ),
        option(
            "--log-format",
            type=click.Choice(["text", "json"]),
            default="text",
            expose_value=False,
            callback=_remembered("log_format"),
            help="json: an object a line, with version, shard and server where a message names them.",
        ),
        option(
            "--log-file",
            type=NamedPath(path_type=Path),
            expose_value=False,
            callback=_remembered("log_file"),
            help="Write the log to this file instead of stderr; one for each process.",
        ),
        option(
            "--log-file-size",
            type=Size(),
            default=LOG_FILE_SIZE,
            expose_value=False,
            callback=_remembered("log_file_size"),
            help="Bytes after which a new file begins; FILE.1 to FILE.5 are the ones before.",
        ),
        option(
            "--quiet",
            "-q",
            is_flag=True,
            expose_value=False,
            callback=_remembered("quiet"),
            help="Print errors only, and no progress.",
        ),
    )
    for add_option in reversed(added):
        command = add_option(command)
    return command


def is_quiet() -> bool:
    """Return whether ``--quiet`` was given to the running command."""
    return bool(click.get_current_context().meta.get("shardcast.quiet"))


def start_logging() -> None:
    """Send the log to stderr or a file, as the options say.

    Raises:
        LocalDiskError: the file can't be written.
    """
    given = click.get_current_context().meta
    level = given.get("shardcast.level", constants.LOG_LEVEL)
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if path := given.get("shardcast.log_file"):
        handler = LogFile(path, given.get("shardcast.log_file_size", LOG_FILE_SIZE))
    handler.setFormatter(log_format(given.get("shardcast.log_format", "text")))
    logging.basicConfig(level=logging.ERROR if is_quiet() else level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    if level != "DEBUG":
        # asyncio logs the errors of broken connections' transports; the node logs the important ones itself.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
