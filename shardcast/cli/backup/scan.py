"""``shardcast backup scan``: show the paths a backup would save."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from shardcast.cli import options
from shardcast.cli.backup.client_options import SETTINGS, SaveOptions, dir_option, save_options
from shardcast.cli.exit_codes import COPIES_MISSING
from shardcast.disk_errors import disk_errors
from shardcast.plain_text import one_line
from shardcast.sizes import format_size

_LONGEST_PATH = 1 << 16


@click.command(context_settings=SETTINGS)
@dir_option
@save_options
@options.json_option
@options.logging_options
def scan(*, folder: Path, save: SaveOptions, as_json: bool) -> None:
    """Print the paths a backup of a folder would save, one a line, and a sum on stderr; ask no server."""
    options.start_logging()
    from shardcast.backup.client.registration import folder_path
    from shardcast.backup.client.scanning import Scan

    path, problems = folder_path(folder), 0

    def tell(below: bytes, words: str) -> None:
        nonlocal problems
        problems += 1
        click.echo(f"{os.fsdecode(path.rstrip(b'/') + b'/' + below)!r}: {words}", err=True)

    scan = Scan(save.load(), tell)
    files = size = 0
    with disk_errors("could not list", os.fsdecode(path)):
        for found in scan.names(path):
            files += not found.path.endswith(b"/")
            size += found.size
            text = os.fsdecode(found.path)
            if as_json:
                click.echo(json.dumps({"path": text, "size": found.size}))
            else:
                click.echo(one_line(text, _LONGEST_PATH))
    click.echo(f"{files} files, {format_size(size)}; {scan.left_out} names left out", err=True)
    if problems:
        click.get_current_context().exit(COPIES_MISSING)
