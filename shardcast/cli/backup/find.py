"""``shardcast backup find``: find a name in snapshots."""

from __future__ import annotations

from itertools import chain

import click

from shardcast.cli import options
from shardcast.cli.backup.snapshot_source import SETTINGS, SnapshotSource, source_options
from shardcast.cli.streams import print_answer


@click.command(context_settings=SETTINGS, short_help="Find NAME in snapshots.")
@click.argument("name")
@source_options
@click.option("--snapshot", metavar="ID", help="Only in this snapshot; in all of the folder if missing.")
@options.json_option
def find(name: str, source: SnapshotSource, *, snapshot: str | None, as_json: bool) -> None:
    """Find a NAME such as `report.odt`, `*.key`, `photos/` or `/etc/*.conf`, in the newest snapshot first.

    The exit code is 3 where the name is in none.
    """
    from shardcast.backup.client.browsing import SnapshotSearch
    from shardcast.backup.client.snapshot_choice import choose_snapshot, snapshots_of
    from shardcast.cli.backup.entry_lines import entry_object, long_lines
    from shardcast.cli.times import shown_time
    from shardcast.errors import VersionNotOffered
    from shardcast.sizes import format_count

    search, any_found = SnapshotSearch(name), False
    with source.open() as opened:
        listed = opened.server.snapshots()
        chosen = (
            [choose_snapshot(listed, snapshot, opened.folder)]
            if snapshot
            else list(reversed(snapshots_of(listed, opened.folder)))
        )
        for one in chosen:
            found = search.run(opened.tree(one.id))
            first = next(found, None)
            if first is None:
                continue
            any_found, found = True, chain((first,), found)
            if not as_json:
                print_answer(f"{one.id} of {shown_time(one.arrived)}:")
            blocks = (
                (entry_object(*each, snapshot=one.id) for each in found) if as_json else long_lines(found)
            )
            for block in blocks:
                print_answer(block)
    if not any_found:
        raise VersionNotOffered(f"{name!r} is in none of {format_count(len(chosen), 'snapshot')}")
