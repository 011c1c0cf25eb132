"""Options about access: the tokens and certificates of a command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shardcast.access.client_access import ClientAccess
from shardcast.access.server_access import ServerAccess
from shardcast.cli.options import grouped

AddOptions = Callable[[Callable[..., Any]], Callable[..., Any]]
"""A decorator of commands."""


@dataclass(frozen=True)
class ServerAccessOptions:
    """Options of a command that listens."""

    def load(self) -> ServerAccess:
        """Return the access rules of the listener."""
        return ServerAccess()


@dataclass(frozen=True)
class ClientAccessOptions:
    """Options of a command that sends requests to servers."""

    def load(self) -> ClientAccess:
        """Return the access to the servers."""
        return ClientAccess()


server_access_options: AddOptions = grouped("server_access", ServerAccessOptions)
client_access_options: AddOptions = grouped("client_access", ClientAccessOptions)
