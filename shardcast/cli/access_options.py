"""Options about access: the tokens and certificates of a command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from shardcast.access.client_access import ClientAccess
from shardcast.access.server_access import ServerAccess
from shardcast.access.token_file import TokenFile
from shardcast.cli.options import NamedPath, grouped

AddOptions = Callable[[Callable[..., Any]], Callable[..., Any]]
"""A decorator of commands."""


@dataclass(frozen=True)
class ServerAccessOptions:
    """Options of a command that listens."""

    tokens: Path | None

    def load(self) -> ServerAccess:
        """Return the access rules of the listener.

        Raises:
            UsageError: the file of tokens is broken.
            LocalDiskError: a file can't be read.
        """
        return ServerAccess(tokens=TokenFile(self.tokens) if self.tokens else None)


@dataclass(frozen=True)
class ClientAccessOptions:
    """Options of a command that sends requests to servers."""

    def load(self) -> ClientAccess:
        """Return the access to the servers."""
        return ClientAccess()


def _server_options(*variables: str) -> AddOptions:
    """Return the options of a listener; ``variables`` set the file of tokens, the first before the others."""
    return grouped(
        "server_access",
        ServerAccessOptions,
        click.option(
            "--tokens",
            envvar=list(variables),
            show_envvar=True,
            type=NamedPath(path_type=Path),
            help="A file of tokens, made by `shardcast token new`; each request needs one of them then.",
        ),
    )


server_access_options = _server_options("SHARDCAST_TOKENS")
store_access_options = _server_options("SHARDCAST_STORE_TOKENS", "SHARDCAST_TOKENS")
client_access_options: AddOptions = grouped("client_access", ClientAccessOptions)
