"""``shardcast backup invite``: an invitation for one machine."""

from __future__ import annotations

import json
from pathlib import Path

import click

from shardcast.cli import options
from shardcast.cli.backup.server_options import SETTINGS, store_dir_option
from shardcast.errors import UsageError

_LONGEST = 366 * 86400.0
"""Seconds of the longest life of an invitation."""


@click.command(context_settings=SETTINGS, short_help="Invite a machine to keep its backups here.")
@store_dir_option
@click.option("--for", "client", metavar="CLIENT", help="Let the machine become this client, not a new one.")
@click.option("--read-only", is_flag=True, help="With --for: the new key allows only reading, for restores.")
@click.option("--replace", is_flag=True, help="With --for: registering revokes the client's other keys.")
@options.option(
    "--expires",
    env="BACKUP_EXPIRES",
    type=options.Duration(),
    default="7d",
    help="How long the invitation can be used.",
)
@options.json_option
def invite(
    store_dir: Path, *, client: str | None, read_only: bool, replace: bool, expires: float, as_json: bool
) -> None:
    """Print an invitation, by which one machine registers once (`shardcast backup register`).

    It works with or without a running server. With --for, a new machine becomes an existing client, and can
    restore this client's snapshots: after a loss of the old machine, or to restore elsewhere.
    """
    from shardcast.backup.server.management import StoreManager
    from shardcast.backup.server.store_folder import StoreFolder

    if client is None and (read_only or replace):
        raise UsageError("--read-only and --replace concern an existing client: name it by --for")
    if not 0 < expires <= _LONGEST:
        raise UsageError("--expires must be more than nothing, and at most 366d")
    with StoreManager.opened(StoreFolder(store_dir)) as manager:
        text = manager.invite(expires, client, read_only=read_only, replaces=replace)
    click.echo(json.dumps({"invitation": text, "for": client, "seconds": expires}) if as_json else text)
