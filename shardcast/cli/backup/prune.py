"""``shardcast backup prune``: delete data needed by no snapshot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shardcast.cli import options
from shardcast.cli.backup.server_options import SETTINGS, store_dir_option
from shardcast.sizes import format_count, format_size

if TYPE_CHECKING:
    from shardcast.backup.server.pruning import PruneReport
    from shardcast.backup.server.store_folder import StoreFolder
    from shardcast.backup.server.sweeping import Swept


@click.command(context_settings=SETTINGS, short_help="Delete data needed by no snapshot.")
@store_dir_option
@click.option("--dry-run", is_flag=True, help="Only report the data to delete.")
@options.option(
    "--grace",
    env="BACKUP_GRACE",
    type=options.Duration(),
    default="10m",
    help="Time for restores still reading the data to delete; 0s deletes at once.",
)
@options.json_option
@options.logging_options
def prune(store_dir: Path, *, dry_run: bool, grace: float, as_json: bool) -> None:
    """Delete data needed by no snapshot, beside a running server and running backups.

    Packs without needed data are marked, and deleted after --grace and the end of all running backups: by the
    server, or by the next prune. Packs of mostly unneeded data are rewritten if the disk has room.
    """
    options.start_logging()
    from shardcast.backup.server.store_folder import StoreFolder
    from shardcast.nodes.runtime import run

    folder = StoreFolder(store_dir)
    folder.check()
    report = run(_prune(folder, grace, dry_run))
    click.echo(json.dumps(report.to_json()) if as_json else _text(report))


async def _prune(folder: StoreFolder, grace: float, dry_run: bool) -> PruneReport:
    """Prune a store, and record the result in the store's own log, except for a dry run.

    Raises:
        LocalDiskError: another prune runs, or the disk failed.
        IntegrityError: a snapshot's list is damaged.
    """
    import asyncio

    from shardcast.backup.server.backup_store import BackupStore
    from shardcast.backup.server.management import StoreManager, one_prune
    from shardcast.backup.server.pruning import prune

    with one_prune(folder):
        store = await asyncio.to_thread(BackupStore, folder)
        try:
            report = await prune(store, grace, dry_run=dry_run)
        finally:
            await store.close()
        if not dry_run:
            with StoreManager.opened(folder) as manager:
                manager.record("prune", _text(report))
    return report


def _text(report: PruneReport) -> str:
    """Return a report as a sentence."""
    would, deleted, marked = "would be " if report.dry_run else "", report.deleted, report.condemned
    words = [] if report.dry_run else [f"{_packs(deleted)} deleted"]
    if marked.packs or report.dry_run:
        words.append(f"{_packs(marked)} {would}marked")
    if report.rewritten.packs:
        count = format_count(report.rewritten.packs, "pack")
        words.append(f"{count} {would}rewritten (frees {format_size(report.rewritten.bytes)})")
    text = ", ".join([*words, f"{format_size(report.kept_bytes)} kept"])
    if report.waits_for_run:
        text += "; a running backup keeps marked packs until it ends"
    if report.no_room:
        text += "; the disk has no room to rewrite packs: prune again when what was marked is deleted"
    return text


def _packs(swept: Swept) -> str:
    """Return packs and their bytes in words."""
    return f"{format_count(swept.packs, 'pack')} ({format_size(swept.bytes)})"
