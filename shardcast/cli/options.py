"""The options that several commands share, each with its environment variable, and their types."""

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
from shardcast.cli.log_format import LogFormat
from shardcast.errors import UsageError
from shardcast.protocol.feed import check_origin_id
from shardcast.sizes import parse_size

Command = TypeVar("Command", bound=Callable[..., Any])


class Size(click.ParamType[int]):
    """A size in bytes, with or without a unit."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_size(str(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)


_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([smhdw]?)", re.ASCII)


class Duration(click.ParamType[float]):
    """Seconds, with or without a unit."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = _DURATION.fullmatch(str(value).strip().lower())
        if not found:
            self.fail(f"{value!r} is no length of time; write 90s, 10m, 1h, 7d, 2w", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


class ServerList(click.ParamType[list[str]]):
    """Servers, comma-separated."""

    name = "servers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        try:
            return parse_servers(str(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)


class NamedPath(click.Path):
    """A path that is not empty: an unset variable leaves one, which would be the current directory."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("it is empty; the current directory is .", param, ctx)
        return super().convert(value, param, ctx)


_MAX_TOKEN = 4096
"""Bytes of a token: a header bears no more than 8190."""
_TOKEN = re.compile(r"[!-~]+", re.ASCII)


def read_token(file: Path) -> str:
    """The token that is all that a file holds.

    Raises:
        UsageError: it holds none, or what no request could bear.
        OSError: it can't be read.
    """
    with file.open("rb") as opened:
        token = opened.read(_MAX_TOKEN + 1).strip().decode("ascii", "replace")
    if len(token) > _MAX_TOKEN:
        raise UsageError(f"there are more than {_MAX_TOKEN} bytes in the token file {file}")
    if not _TOKEN.fullmatch(token):
        why = "it has blanks, or characters that are not ASCII," if token else "there is nothing"
        raise UsageError(f"{why} in the token file {file}; write one word of ASCII there")
    return token


def servers_or_ip_addr_list(servers: list[str] | None, option: str) -> list[str]:
    """The servers of an option, or of ``IP_ADDR_LIST`` without it.

    Raises:
        UsageError: there are none, or the list is malformed.
    """
    if servers:
        return servers
    listed = os.environ.get(constants.IP_ADDR_LIST, "").strip()
    if not listed:
        raise UsageError(f"no servers: give {option} a,b or set IP_ADDR_LIST='a b'")
    return parse_ip_addr_list(listed)


def option(name: str, *words: Any, env: str | None = None, **settings: Any) -> Callable[[Command], Command]:
    """A click option with its environment variable, ``SHARDCAST_<NAME>`` unless ``env`` says otherwise."""
    variable = constants.ENVIRONMENT_PREFIX + (env or name.strip("-").replace("-", "_").upper())
    shown = settings.get("default") is not None
    return click.option(name, *words, envvar=variable, show_envvar=True, show_default=shown, **settings)


def grouped(
    name: str, group: type[Any], *options: Callable[[Command], Command]
) -> Callable[[Command], Command]:
    """Add options to a command, and pass their values to its parameter ``name`` as one object.

    Args:
        name: the parameter of the command.
        group: a dataclass with a field for each of the options.
        options: the options, in the order of the help text.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_group(**values: Any) -> Any:
            grouped_values = {field.name: values.pop(field.name) for field in fields(group)}
            return command(**values, **{name: group(**grouped_values)})

        decorated = cast(Command, with_group)
        for add_option in reversed(options):
            decorated = add_option(decorated)
        return decorated

    return decorate


def data_dir_option(default: str) -> Callable[[Command], Command]:
    return option(
        "--data-dir",
        type=click.Path(path_type=Path, readable=False),
        default=default,
        help="The folder that holds the versions.",
    )


shard_size_option = option(
    "--shard-size", type=Size(), default=constants.SHARD_SIZE, help="Bytes in a shard: 50MB, 48MiB, 50000000."
)


class Networks(click.ParamType[tuple[Network, ...]]):
    """Addresses and networks, comma-separated."""

    name = "networks"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        try:
            return parse_networks(str(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)


trusted_proxy_option = option(
    "--trusted-proxy",
    type=Networks(),
    help="Addresses and networks (10.0.0.7,10.1.0.0/16) whose connections are not counted.",
)


@dataclass(frozen=True)
class Listening:
    """Address that a node listens on, and the proxies that its connection limits ignore."""

    host: str
    port: int
    trusted_proxy: tuple[Network, ...] | None


listening_options = grouped(
    "listening",
    Listening,
    option("--host", default="::", help="The address to listen on; :: is every one, of IPv4 and IPv6."),
    option(
        "--port",
        env="HTTP_PORT",
        type=click.IntRange(0, 65535),
        default=constants.HTTP_PORT,
        help="The port to listen on; 0 picks a free one.",
    ),
    trusted_proxy_option,
)


@dataclass(frozen=True)
class Retention:
    """Number of versions that a node keeps, and the bytes that all of them may take together."""

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
        help="Bytes that all versions may take together: 500GB; older ones go before their time.",
    ),
)


class OriginId(click.ParamType[str]):
    """The name of a line of versions."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return check_origin_id(str(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)


origin_id_option = option(
    "--origin-id",
    type=OriginId(),
    help="Accept only the line of versions with this origin id, which the origin prints at its first start.",
)
json_option = option("--json", "as_json", is_flag=True, help="Print results as JSON.")


def node_options(command: Command) -> Command:
    """What a node needs that another process starts and ends with itself."""
    command = click.option("--ready-fd", type=int, hidden=True)(command)
    return click.option("--parent", type=int, hidden=True)(command)


def logging_options(command: Command) -> Command:
    """``--log-level`` and ``--quiet``; the command itself needn't know them."""

    def set_level(ctx: click.Context, _param: click.Parameter, value: str) -> None:
        ctx.meta["shardcast.level"] = value

    def set_quiet(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
        ctx.meta["shardcast.quiet"] = value

    levels = click.Choice(["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], case_sensitive=False)
    with_level = option(
        "--log-level",
        type=levels,
        default=constants.LOG_LEVEL,
        expose_value=False,
        callback=set_level,
        help="How much to tell on stderr.",
    )
    with_quiet = option(
        "--quiet",
        "-q",
        is_flag=True,
        expose_value=False,
        callback=set_quiet,
        help="Tell only of errors; no progress.",
    )
    return with_level(with_quiet(command))


def is_quiet() -> bool:
    """Whether ``--quiet`` was given to the running command."""
    return bool(click.get_current_context().meta.get("shardcast.quiet"))


def start_logging() -> None:
    """Log to stderr as ``--log-level`` and ``--quiet`` say."""
    level = click.get_current_context().meta.get("shardcast.level", constants.LOG_LEVEL)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormat("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.ERROR if is_quiet() else level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    if level != "DEBUG":
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
