"""``shardcast backup check --store_dir``: the whole store, at the server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shardcast.cli import options
from shardcast.cli.exit_codes import DONE, INTEGRITY
from shardcast.cli.progress import Display, progress_display
from shardcast.sizes import format_count, format_size

if TYPE_CHECKING:
    from shardcast.backup.server.checking import StoreCheck
    from shardcast.backup.server.store_folder import StoreFolder


def check_store_dir(store_dir: Path, part: tuple[int, int] | None, as_json: bool) -> int:
    """Check the store in a folder, print the damage, and return the exit code.

    Args:
        store_dir: the folder of the backup server.
        part: the part of the packs to read, and the number of parts; None to read none.
        as_json: print JSON.

    Raises:
        UsageError: no backup server has used the folder.
        LocalDiskError, WrongStore: the store can't be read.
    """
    from shardcast.backup.server.checking import subset, to_json
    from shardcast.backup.server.store_folder import StoreFolder
    from shardcast.nodes.runtime import run

    folder = StoreFolder(store_dir)
    folder.check()
    reads = subset(*part) if part else lambda number: False
    with progress_display(options.is_quiet()) as display:
        found = run(_check(folder, reads, display))
    if as_json:
        click.echo(json.dumps(to_json(found)))
    else:
        _print(found)
    return DONE if found.is_whole else INTEGRITY


async def _check(folder: StoreFolder, reads: Callable[[int], bool], display: Display) -> StoreCheck:
    """Check a store, and record the summary in the store's own log."""
    import asyncio

    from shardcast.backup.server.backup_store import BackupStore
    from shardcast.backup.server.checking import check_store
    from shardcast.backup.server.management import StoreManager

    store = await asyncio.to_thread(BackupStore, folder)

    def show(found: StoreCheck) -> None:
        display.show("check", found.bytes_read, None, format_count(found.packs, "pack"))

    try:
        found = await check_store(store, reads, show)
    finally:
        await store.close()
    with StoreManager.opened(folder) as manager:
        manager.record("check", _summary(found))
    return found


def _print(found: StoreCheck) -> None:
    """Print the damage, a line each, and a summary on stderr."""
    for words in found.database:
        click.echo(f"database: {words}")
    for file in found.damaged:
        click.echo(f"damaged: {file}")
    for file in found.lost:
        click.echo(f"gone: {file}")
    for hurt in found.hurt:
        click.echo(f"snapshot {hurt.id} of {hurt.client} lacks {format_count(hurt.chunks, 'chunk')}")
    if not options.is_quiet():
        click.echo(_summary(found), err=True)


def _summary(found: StoreCheck) -> str:
    """Return the result as a sentence."""
    text = f"{format_count(found.packs, 'pack')} checked, {format_size(found.bytes_read)} read: "
    text += (
        "all right"
        if found.is_whole
        else (
            f"{len(found.damaged)} damaged, {len(found.lost)} gone, "
            f"{format_count(len(found.hurt), 'snapshot')} hurt; the next backup sends again what it still has"
        )
    )
    text += f"; {format_count(found.mended, 'pack')} right again" if found.mended else ""
    if found.unknown_files:
        text += f"; {format_count(found.unknown_files, 'file')} of no client, left alone"
    return text
