"""``shardcast backup snapshots``: the snapshots of a folder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from shardcast.cli import options
from shardcast.cli.backup.snapshot_source import SETTINGS, SnapshotSource, source_options

if TYPE_CHECKING:
    from shardcast.backup.client.answers import ListedSnapshot


@click.command(context_settings=SETTINGS, short_help="List the snapshots.")
@source_options
@click.option("--all", "all_folders", is_flag=True, help="Those of all folders of this client.")
@click.option(
    "--tag", "tags", multiple=True, metavar="TAG", help="Only those with this tag; may be given again."
)
@options.json_option
def snapshots(source: SnapshotSource, *, all_folders: bool, tags: tuple[str, ...], as_json: bool) -> None:
    """List the snapshots of the folder and its subfolders, oldest first: id, arrival, size, path, tags."""
    from shardcast.backup.client.snapshot_choice import snapshots_of
    from shardcast.cli.streams import print_answer

    with source.open() as opened:
        found = snapshots_of(opened.server.snapshots(), None if all_folders else opened.folder)
        found = [one for one in found if not tags or set(tags) & set(one.tags)]
        lines = [_as_json(one) for one in found] if as_json else _table(found)
        if lines:
            print_answer("\n".join(lines))


def _as_json(one: ListedSnapshot) -> str:
    """Return a snapshot as a line of JSON."""
    from shardcast.backup.entries import text_or_base64

    fields = {
        "id": one.id,
        "arrived": one.arrived,
        "host": one.host,
        "tags": list(one.tags),
        "files": one.files,
        "bytes": one.bytes,
        "new_bytes": one.new_bytes,
    }
    return json.dumps(fields | dict([text_or_base64("path", one.path)]))


def _table(found: list[ListedSnapshot]) -> list[str]:
    """Return the lines for people, aligned."""
    from shardcast.cli.backup.entry_lines import shown_path
    from shardcast.cli.times import shown_time
    from shardcast.plain_text import one_line
    from shardcast.sizes import format_size

    rows = [
        (
            one.id,
            shown_time(one.arrived),
            str(one.files),
            format_size(one.bytes),
            f"+{format_size(one.new_bytes)}",
            one_line(
                f"{one.host}:{shown_path(one.path)} {' '.join(f'#{tag}' for tag in one.tags)}", 8192
            ).rstrip(),
        )
        for one in found
    ]
    widths = [max((len(row[at]) for row in rows), default=0) for at in range(5)]
    return [
        f"{row[0]:<{widths[0]}}  {row[1]}  {row[2]:>{widths[2]}} files  {row[3]:>{widths[3]}}  "
        f"{row[4]:>{widths[4]}}  {row[5]}"
        for row in rows
    ]
