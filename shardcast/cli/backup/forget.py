"""``shardcast backup forget``: delete snapshots kept by no rule."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shardcast.cli import options
from shardcast.cli.backup.snapshot_source import SETTINGS, OpenSource, SnapshotSource, source_options

if TYPE_CHECKING:
    from shardcast.backup.client.answers import ListedSnapshot
    from shardcast.backup.policy import ForgetPlan, KeepRules

_count = click.IntRange(0, 1_000_000)
_MAX_KEY_FILE = 4096


def _keep(name: str, text: str) -> Callable[[options.Command], options.Command]:
    return click.option(f"--keep-{name}", name, type=_count, default=0, metavar="N", help=text)


@click.command(context_settings=SETTINGS, short_help="Delete snapshots kept by no rule.")
@click.argument("snapshots", metavar="[ID]…", nargs=-1)
@source_options
@_keep("last", "Keep the newest N.")
@_keep("hourly", "Keep the newest of each of N hours with a snapshot.")
@_keep("daily", "Keep the newest of each of N days.")
@_keep("weekly", "Keep the newest of each of N weeks.")
@_keep("monthly", "Keep the newest of each of N months.")
@_keep("yearly", "Keep the newest of each of N years.")
@click.option(
    "--keep-within", "within", type=options.Duration(), default=0.0, help="Keep all of the last: 14d."
)
@click.option("--keep-tag", "keep_tags", multiple=True, metavar="TAG", help="Keep all with this tag.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Consider only those with this tag.")
@click.option("--dry-run", is_flag=True, help="Show the snapshots to delete, and why the others stay.")
@options.option(
    "--admin-key-file",
    env="BACKUP_ADMIN_KEY_FILE",
    type=options.NamedPath(path_type=Path, dir_okay=False),
    help="The file with the admin key, needed at an append-only server.",
)
@options.json_option
def forget(
    snapshots: tuple[str, ...],
    source: SnapshotSource,
    *,
    keep_tags: tuple[str, ...],
    tags: tuple[str, ...],
    dry_run: bool,
    admin_key_file: Path | None,
    as_json: bool,
    **rules: Any,
) -> None:
    """Delete the snapshots of the folder and its subfolders kept by no --keep rule; or the snapshots ID.

    Rules count each host and folder separately, by the server's times of arrival, in UTC. Snapshots younger
    than the server's --min-age always stay, and are not counted. The next `prune` there deletes the bytes.
    """
    from shardcast.backup.client.snapshot_choice import choose_snapshot, snapshots_of
    from shardcast.backup.policy import KeepRules
    from shardcast.errors import UsageError

    wanted = KeepRules(**rules, tags=frozenset(keep_tags))
    if snapshots and wanted != KeepRules():
        raise UsageError("name snapshots by ID, or give --keep rules; not both")
    admin_key = _admin_key(admin_key_file)
    with source.open() as opened:
        listed = opened.server.snapshots()
        if snapshots:
            going = [choose_snapshot(listed, text, opened.folder) for text in snapshots]
            why: dict[str, list[str]] = {}
        else:
            found = [
                one for one in snapshots_of(listed, opened.folder) if not tags or set(tags) & set(one.tags)
            ]
            plan = _plan(found, wanted.checked(), opened)
            going = [one for one in found if one.id in set(plan.forget)]
            why = {name: list(reasons) for name, reasons in plan.keep.items()}
        if going and not dry_run:
            opened.server.forget([one.id for one in going], admin_key)
        unusual = opened.facts.unusual
    _report(going, why, listed, dry_run=dry_run, as_json=as_json)
    if unusual:
        click.echo(f"Warning: {unusual}", err=True)


def _plan(found: list[ListedSnapshot], rules: KeepRules, opened: OpenSource) -> ForgetPlan:
    """Return the snapshots to delete; the newest arrival is a lower bound for the server's clock."""
    from shardcast.backup.policy import Arrival, plan_forget

    now = max([time.time(), *(one.arrived for one in found)])
    arrivals = [Arrival(one.id, one.arrived, (one.host, one.path), frozenset(one.tags)) for one in found]
    return plan_forget(arrivals, rules, now=now, min_age=opened.facts.min_age)


def _admin_key(file: Path | None) -> str | None:
    """Return the key in a file.

    Raises:
        UsageError: the file holds no key.
        LocalDiskError: the file can't be read.
    """
    from shardcast.disk_errors import disk_errors
    from shardcast.errors import UsageError

    if file is None:
        return None
    with disk_errors("could not read", file), file.open("rb") as opened:
        text = opened.read(_MAX_KEY_FILE).strip()
    if not text.isascii() or len(text.split()) != 1:
        raise UsageError(f"{file} holds no admin key; the key is in admin.key of the server's folder")
    return text.decode()


def _report(
    going: list[ListedSnapshot],
    why: dict[str, list[str]],
    listed: list[ListedSnapshot],
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Print the deleted snapshots, and in a dry run why the others stay."""
    from shardcast.cli.backup.entry_lines import shown_path
    from shardcast.cli.streams import print_answer
    from shardcast.cli.times import shown_time
    from shardcast.sizes import format_count

    if as_json:
        fields = {"forgotten": [one.id for one in going], "kept": why, "dry_run": dry_run}
        print_answer(json.dumps(fields))
        return
    word = "would go" if dry_run else "forgotten"
    lines = [f"{word:<10} {one.id}  {shown_time(one.arrived)}  {shown_path(one.path)}" for one in going]
    if dry_run:
        lines += [
            f"{'stays':<10} {one.id}  {shown_time(one.arrived)}  {shown_path(one.path)}  "
            f"({', '.join(why[one.id])})"
            for one in listed
            if one.id in why
        ]
    if lines:
        print_answer("\n".join(lines))
    count = format_count(len(going), "snapshot")
    click.echo(f"{count} {'would go' if dry_run else 'forgotten'}, {len(why)} kept", err=True)
