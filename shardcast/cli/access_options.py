"""Options about access: the tokens and certificates of a command."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from shardcast.access.client_access import TOKEN_VARIABLE, ClientAccess, load_credentials
from shardcast.access.tls import ClientTls, server_tls
from shardcast.cli.options import Command, NamedPath, grouped
from shardcast.constants import ENVIRONMENT_PREFIX

if TYPE_CHECKING:
    from shardcast.access.server_access import ServerAccess

AddOptions = Callable[[Callable[..., Any]], Callable[..., Any]]
"""A decorator of commands."""


@dataclass(frozen=True)
class ServerAccessOptions:
    """Options of a listening command."""

    tokens: Path | None
    certificate: Path | None
    key: Path | None
    client_ca: Path | None

    def load(self) -> ServerAccess:
        """Return the access rules of the listener.

        Raises:
            UsageError: the options don't fit together, or the file of tokens is broken.
            LocalDiskError: a file can't be read.
        """
        from shardcast.access.server_access import ServerAccess
        from shardcast.access.token_file import TokenFile

        return ServerAccess(
            tokens=TokenFile(self.tokens) if self.tokens else None,
            tls=server_tls(self.certificate, self.key, self.client_ca),
        )


@dataclass(frozen=True)
class ClientAccessOptions:
    """Options of a command with requests to servers.

    Attributes:
        token_variable: the environment variable with the tokens themselves. No option takes tokens: ``ps``
            shows options to all users of a machine.
        token_file: a file with the tokens for the servers.
        require_tls: whether requests go to https servers only.
        ca: a file with the CAs to trust, and no others.
        client_certificate: a file with the certificate to show to servers on request.
        client_key: a file with the certificate's key; None if ``client_certificate`` has the key too.
    """

    token_variable: ClassVar[str] = TOKEN_VARIABLE

    token_file: Path | None = None
    require_tls: bool = False
    ca: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None

    def load(self) -> ClientAccess:
        """Return the access to the servers.

        Raises:
            UsageError: the tokens are malformed, or the options don't fit together.
            LocalDiskError: the token file can't be read.
        """
        credentials = load_credentials(self.token_file, self.token_variable)
        tls = ClientTls(self.ca, self.client_certificate, self.client_key)
        return ClientAccess(credentials=credentials, require_tls=self.require_tls, tls=tls)


@dataclass(frozen=True)
class MirrorAccessOptions(ClientAccessOptions):
    """The same options with the prefix ``--mirror-``, for a command with access options of its own."""

    token_variable: ClassVar[str] = f"{ENVIRONMENT_PREFIX}MIRROR_TOKEN"


def _client_options(
    name: str, group: type[ClientAccessOptions], prefix: str = "", also: tuple[str, ...] = ()
) -> AddOptions:
    """Return the decorator that adds the options of ``ClientAccessOptions`` to a command.

    Args:
        name: the command's parameter.
        group: the class of the parameter's value.
        prefix: of the options, ``mirror``; empty for none.
        also: names of earlier variables for the token file.
    """
    dashed, snake = (f"--{prefix}-", f"{prefix}_") if prefix else ("--", "")
    variable = f"{ENVIRONMENT_PREFIX}{snake.upper()}"
    servers = "the servers of --mirror" if prefix else "the servers"
    return grouped(
        name,
        group,
        click.option(
            f"{dashed}token-file",
            envvar=[f"{variable}TOKEN_FILE", *also],
            show_envvar=True,
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            help=f"A file with the token for {servers}, or lines host=token; else {group.token_variable}.",
        ),
        click.option(
            f"{dashed}require-tls",
            envvar=f"{variable}REQUIRE_TLS",
            show_envvar=True,
            is_flag=True,
            help=f"Refuse {servers} whose addresses don't begin with https://.",
        ),
        _file_option(f"{dashed}ca", f"CAs (PEM) to trust for {servers}, instead of the system's."),
        _file_option(
            f"{dashed}client-certificate", f"The certificate (PEM) to show to {servers} where they want one."
        ),
        _file_option(
            f"{dashed}client-key", "The key of the client certificate (PEM), if not in the same file."
        ),
        prefix=snake,
    )


class _Lock(click.Option):
    """An option whose absence opens a server to more people."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Return the value of the first variable in the environment.

        Raises:
            BadParameter: a variable is empty, for instance from an unset ``$FILE`` of a shell: the server
                would be open.
        """
        for name in self.envvar or ():
            if os.environ.get(name) == "":
                raise click.BadParameter(f"{name} is set, and empty; unset it or name a file", ctx, self)
        return super().resolve_envvar_value(ctx)


def _file_option(
    name: str, text: str, *more_prefixes: str, cls: type[click.Option] = click.Option
) -> Callable[[Command], Command]:
    """Make an option for a file, with a variable for each prefix, those of ``more_prefixes`` first."""
    variable = name.removeprefix("--").replace("-", "_").upper()
    return click.option(
        name,
        cls=cls,
        type=NamedPath(path_type=Path),
        envvar=[prefix + variable for prefix in (*more_prefixes, ENVIRONMENT_PREFIX)],
        show_envvar=True,
        help=text,
    )


def _server_options(*prefixes: str) -> AddOptions:
    """Return the decorator that adds a listening command's options; ``prefixes`` are of further variables."""
    return grouped(
        "server_access",
        ServerAccessOptions,
        _file_option(
            "--tokens",
            "A file of tokens, made by `shardcast token new`; each request then needs one of them.",
            *prefixes,
            cls=_Lock,
        ),
        _file_option(
            "--certificate",
            "The certificate (PEM) of this server, with its chain: speak TLS. Read again when it changes.",
            *prefixes,
            cls=_Lock,
        ),
        _file_option(
            "--key", "The key of --certificate (PEM), if not in the same file.", *prefixes, cls=_Lock
        ),
        _file_option(
            "--client-ca",
            "CAs (PEM): answer only clients with a certificate signed by one of them.",
            *prefixes,
            cls=_Lock,
        ),
    )


server_access_options: AddOptions = _server_options()
store_access_options: AddOptions = _server_options(f"{ENVIRONMENT_PREFIX}STORE_")
client_access_options: AddOptions = _client_options("client_access", ClientAccessOptions)
push_access_options: AddOptions = _client_options(
    "client_access", ClientAccessOptions, also=(f"{ENVIRONMENT_PREFIX}STORE_TOKEN_FILE",)
)
mirror_access_options: AddOptions = _client_options("mirror_access", MirrorAccessOptions, "mirror")
