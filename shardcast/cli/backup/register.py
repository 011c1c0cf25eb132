"""``shardcast backup register``: a folder of this machine, to be saved at a server."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import click

from shardcast.cli import options
from shardcast.cli.backup.client_options import SETTINGS, dir_option
from shardcast.cli.backup.server_address import server_address
from shardcast.cli.backup.server_options import PORT


@click.command(context_settings=SETTINGS)
@dir_option
@click.option(
    "--url",
    required=True,
    help=f"The backup server: HOST, HOST:PORT or a URL; the port is {PORT} unless given, 443 for https.",
)
@options.option(
    "--invitation",
    env="BACKUP_INVITATION",
    required=True,
    help="The invitation from `shardcast backup invite` at the server. It works once.",
)
@click.option(
    "--ca", type=options.NamedPath(path_type=Path), help="CAs (PEM) to trust for the server, now and later."
)
@click.option(
    "--client-certificate",
    type=options.NamedPath(path_type=Path),
    help="The certificate (PEM) to show to the server, now and later.",
)
@click.option(
    "--client-key", type=options.NamedPath(path_type=Path), help="The key of the certificate (PEM)."
)
@options.json_option
@options.logging_options
def register(
    *,
    folder: Path,
    url: str,
    invitation: str,
    ca: Path | None,
    client_certificate: Path | None,
    client_key: Path | None,
    as_json: bool,
) -> None:
    """Register a folder at a backup server, with an invitation from there.

    The key of this machine is kept in ~/.config/shardcast/backup, readable by this user only. After this,
    `shardcast backup backup` saves the folder, and every folder below.
    """
    options.start_logging()
    from shardcast.access.tls import client_tls
    from shardcast.backup.client.registration import (
        Registration,
        folder_path,
        prepare_registrations,
        save_registration,
    )
    from shardcast.backup.client.remote import BackupServer

    path, tls = folder_path(folder), client_tls(ca, client_certificate, client_key)
    prepare_registrations()  # fails before the invitation is used up
    server = BackupServer(server_address(url), tls=tls)
    server.check()
    found = server.register(invitation.strip(), socket.gethostname(), path)
    save_registration(Registration(path, server.url, found.client, found.key, tls))
    shown = os.fsdecode(path)
    if as_json:
        fields: dict[str, object] = {"client": found.client, "url": server.url, "path": shown}
        fields |= {"read_only": found.read_only, "shares": found.shares}
        click.echo(json.dumps(fields))
    else:
        may = "may restore from" if found.read_only else "is registered at"
        click.echo(f"{shown} {may} {server.url} as {found.client}", err=True)
        if found.shares:
            click.echo(
                "This server keeps equal parts of its clients' files once: a client with the bytes of a file "
                "can learn whether another one has the file.",
                err=True,
            )
