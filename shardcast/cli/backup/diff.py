"""``shardcast backup diff``: how two snapshots differ."""

from __future__ import annotations

import click

from shardcast.cli import options
from shardcast.cli.backup.snapshot_source import SETTINGS, SnapshotSource, source_options
from shardcast.cli.streams import print_answer


@click.command(context_settings=SETTINGS, short_help="Show how the snapshots A and B differ.")
@click.argument("old", metavar="A")
@click.argument("new", metavar="B")
@source_options
@options.json_option
def diff(old: str, new: str, source: SnapshotSource, *, as_json: bool) -> None:
    """Show the additions (+), removals (-) and changes (M) from the snapshot A to the snapshot B.

    Folders that are the same in both are not read.
    """
    from shardcast.backup.client.browsing import diff_trees
    from shardcast.backup.entries import SavedKind
    from shardcast.cli.backup.entry_lines import entry_object, shown_path

    with source.open() as opened:
        trees = [opened.choose(text)[1] for text in (old, new)]
        for sign, path, entry, what in diff_trees(*trees):
            if as_json:
                print_answer(entry_object(path, entry, change=sign, what=list(what)))
                continue
            mark = "/" if entry.kind is SavedKind.FOLDER else ""
            only = f"  ({', '.join(what)})" if what and "content" not in what else ""
            print_answer(f"{sign} {shown_path(path)}{mark}{only}")
