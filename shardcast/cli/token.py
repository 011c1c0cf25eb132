"""``shardcast token new``: a token for clients, and the line for a server's file of tokens."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from shardcast.access.scopes import Scope
from shardcast.access.token_file import append_token
from shardcast.access.tokens import check_name, format_expiry, make_token, parse_expiry, parse_scopes
from shardcast.cli import options
from shardcast.errors import UsageError

_SETTINGS = {"help_option_names": ["-h", "--help"]}
_LAST_SECOND = 253402300799.0
"""The end of the year 9999, since 1970; no date is later."""


class Scopes(click.ParamType[frozenset[Scope]]):
    """Type of a comma-separated list of scopes."""

    name = "scopes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the scopes."""
        if isinstance(value, frozenset):
            return value
        try:
            return parse_scopes(str(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)


class Expiry(click.ParamType[float]):
    """Type of a time in the future: a date or a time in UTC, or a length of time from now."""

    name = "expiry"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the seconds since 1970; None for ``never``."""
        if isinstance(value, float):
            return value
        text, now = str(value).strip(), time.time()
        if text[:1].isdigit() and text[-1:].isalpha() and text[-1:] != "Z":
            expires: float | None = now + options.Duration().convert(text, param, ctx)
        else:
            try:
                expires = parse_expiry(text)
            except UsageError as error:
                self.fail(f"{error}, or a length of time: 12h, 90d", param, ctx)
        if expires is not None and not now < expires <= _LAST_SECOND:
            self.fail(f"{text!r} is no time in the future, before the year 10000", param, ctx)
        return expires


@click.group(context_settings=_SETTINGS)
def token() -> None:
    """Make access tokens for clients of servers with --tokens."""


@token.command(context_settings=_SETTINGS)
@click.option(
    "--scope",
    "scopes",
    type=Scopes(),
    multiple=True,
    required=True,
    help=f"What the token allows, comma-separated: {', '.join(Scope)}.",
)
@click.option("--name", help="The name of the bearers in the server's file and log.")
@click.option(
    "--expires",
    type=Expiry(),
    help="The end of validity: 90d, 12h, 2027-02-26, 2027-02-26T17:00:00Z.",
)
@click.option(
    "--append",
    "file",
    type=options.NamedPath(path_type=Path, dir_okay=False),
    help="Append the line to this file of a server; a missing file is made.",
)
@options.json_option
def new(
    scopes: Sequence[frozenset[Scope]],
    name: str | None,
    expires: float | None,
    file: Path | None,
    as_json: bool,
) -> None:
    """Print a new token, and the line for the file of a server's --tokens.

    The token is stored nowhere: give it to the clients (their --token-file) now. The line has only the
    SHA-256. With --append the line goes into the file, and only the token is printed.
    """
    made = make_token(frozenset[Scope]().union(*scopes), check_name(name) if name else "", expires)
    if file:
        append_token(file, made.token)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "token": made.text,
                    "line": made.token.line,
                    "id": made.token.id,
                    "name": made.token.name,
                    "scopes": [scope for scope in Scope if scope in made.token.scopes],
                    "expires": None if expires is None else format_expiry(expires),
                }
            )
        )
        return
    click.echo(made.text)
    if file is None:
        click.echo(made.token.line)
