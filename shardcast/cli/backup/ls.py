"""``shardcast backup ls``: list a folder of a snapshot."""

from __future__ import annotations

import os
from collections.abc import Iterable

import click

from shardcast.cli import options
from shardcast.cli.backup.snapshot_source import SETTINGS, SnapshotSource, source_options
from shardcast.cli.streams import print_answer


@click.command(context_settings=SETTINGS, short_help="List a folder of snapshot ID.")
@click.argument("snapshot", metavar="ID")
@click.argument("path", required=False, default="")
@source_options
@click.option("--recursive", "-R", is_flag=True, help="All below the folder, too.")
@options.json_option
def ls(snapshot: str, path: str, source: SnapshotSource, *, recursive: bool, as_json: bool) -> None:
    """List the folder PATH of the snapshot ID like `ls -l`; without PATH, the top.

    ID is a snapshot's id, at least its first 4 characters, or `latest`.
    """
    from shardcast.backup.client.browsing import list_entries
    from shardcast.cli.backup.entry_lines import entry_object, long_lines

    with source.open() as opened:
        _, tree = opened.choose(snapshot)
        found = list_entries(tree, os.fsencode(path), recursive=recursive)
        blocks: Iterable[str] = (entry_object(*one) for one in found) if as_json else long_lines(found)
        for block in blocks:
            print_answer(block)
