"""``shardcast backup cat``: the bytes of a file in a snapshot."""

from __future__ import annotations

import os

import click

from shardcast.cli.backup.snapshot_source import SETTINGS, SnapshotSource, source_options
from shardcast.cli.streams import answer_descriptor


@click.command(context_settings=SETTINGS, short_help="Print the file PATH of snapshot ID.")
@click.argument("snapshot", metavar="ID")
@click.argument("path")
@source_options
def cat(snapshot: str, path: str, source: SnapshotSource) -> None:
    """Print the bytes of the file PATH in the snapshot ID; only the file's chunks are read, each verified."""
    from shardcast.backup.client.browsing import entry_at, read_file
    from shardcast.disk_errors import disk_errors
    from shardcast.open_files import write_all

    output = answer_descriptor()
    with source.open() as opened:
        _, tree = opened.choose(snapshot)
        entry = entry_at(tree, os.fsencode(path))
        for data in read_file(tree, opened.reader, entry):
            try:
                write_all(output, data)
            except BrokenPipeError:
                raise
            except OSError as error:
                with disk_errors("could not write to", "stdout"):
                    raise error
