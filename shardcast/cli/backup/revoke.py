"""``shardcast backup revoke``: a client's keys become worthless."""

from __future__ import annotations

import json
from pathlib import Path

import click

from shardcast.cli import options
from shardcast.cli.backup.server_options import SETTINGS, store_dir_option
from shardcast.sizes import format_count


@click.command(context_settings=SETTINGS, short_help="Make the keys of CLIENT worthless.")
@click.argument("client")
@store_dir_option
@options.json_option
def revoke(client: str, store_dir: Path, as_json: bool) -> None:
    """Revoke all keys and open invitations of CLIENT, at once; the client's snapshots stay.

    `invite --for CLIENT` lets a machine be this client again.
    """
    from shardcast.backup.server.management import StoreManager
    from shardcast.backup.server.store_folder import StoreFolder

    with StoreManager.opened(StoreFolder(store_dir)) as manager:
        count = manager.revoke(client)
    click.echo(
        json.dumps({"client": client, "revoked": count})
        if as_json
        else f"Revoked {format_count(count, 'key')} of {client}."
    )
