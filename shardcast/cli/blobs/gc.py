"""``shardcast store gc``, ``pin`` and ``unpin``: the deletion of unreferenced blobs, and exceptions."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict
from pathlib import Path

import click

from shardcast.blobs.access_stats import AccessStats, archive_folder, stats_file
from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.maintenance import gc_roots as roots
from shardcast.blobs.maintenance.gc import (
    GarbageCollection,
    GcResult,
    Tally,
    check_roots,
    known_roots,
    remember_roots,
)
from shardcast.blobs.maintenance.gc_policy import Rules
from shardcast.cli import options
from shardcast.cli.blobs.options import (
    SETTINGS,
    Digest,
    directory_argument,
    directory_option,
    open_store,
    read_digest_arguments,
)
from shardcast.cli.exit_codes import DONE, LOCAL_DISK
from shardcast.cli.progress import Display, progress_display
from shardcast.errors import BlobMissing
from shardcast.sizes import format_count, format_size

_FILE = click.Path(path_type=Path, readable=False)


@click.command(context_settings=SETTINGS)
@directory_argument
@options.option(
    "--data-dir",
    "data_dirs",
    env="STORE_GC_DATA_DIR",
    type=_FILE,
    multiple=True,
    help="Keep the shards and payloads of a data directory's versions.",
)
@options.option(
    "--snapshot",
    "snapshots",
    env="STORE_GC_SNAPSHOT",
    type=_FILE,
    multiple=True,
    help="Keep the blobs in a file of digests, one a line.",
)
@options.option(
    "--registry-references",
    "references",
    env="STORE_GC_REGISTRY_REFERENCES",
    type=_FILE,
    multiple=True,
    help="Keep the blobs in a file of references returned by put_hash, one JSON object a line.",
)
@click.option("--forget-root", "forget", multiple=True, help="Forget this root of earlier runs, by name.")
@options.option(
    "--unreferenced-older-than",
    "older_than",
    env="STORE_GC_UNREFERENCED_OLDER_THAN",
    type=options.Duration(),
    help="Delete unreferenced blobs put longer ago than this: 7d. Without this option, nothing is deleted.",
)
@options.option(
    "--grace",
    env="STORE_GC_GRACE",
    type=options.Duration(),
    default="1h",
    help="Time between marking a blob and deleting it; blobs put within this time are left alone.",
)
@click.option("--delete", is_flag=True, help="Mark and delete blobs; by default only report.")
@options.json_option
@options.logging_options
def gc(
    directory: Path,
    *,
    data_dirs: tuple[Path, ...],
    snapshots: tuple[Path, ...],
    references: tuple[Path, ...],
    forget: tuple[str, ...],
    older_than: float | None,
    grace: float,
    delete: bool,
    as_json: bool,
) -> int:
    """Delete unreferenced blobs in DIRECTORY.

    This takes two runs: the first marks the blobs, and a later one, after the time of --grace, deletes those
    still unreferenced and not put again. Pinned blobs stay in any case. If a root can't be read, nothing is
    changed.
    """
    options.start_logging()
    store = open_store(directory)
    asked = [
        roots.pins(store.folder),
        *map(roots.data_dir, data_dirs),
        *(roots.snapshot(file, store.algorithm) for file in snapshots),
        *map(roots.registry_references, references),
    ]
    names = {root.name for root in asked}
    check_roots(store.folder, names, forget)
    with progress_display(options.is_quiet()) as display:
        result = _collect(store, asked, Rules(older_than, grace), delete=delete, display=display)
    if as_json:
        click.echo(json.dumps({"dry_run": not delete, "roots": sorted(names), **asdict(result)}))
    else:
        _print_result(result, older_than, delete)
    for failure in result.failures:
        click.echo(f"could not mark or delete the blob {failure}", err=True)
    if delete:
        asyncio.run(_forget_missing(store))
    return LOCAL_DISK if result.failed else DONE


def _collect(
    store: BlobDirectory, asked: list[roots.Root], rules: Rules, *, delete: bool, display: Display
) -> GcResult:
    """Read the roots, collect the garbage, and show the progress; with ``delete``, remember the roots' names.

    All roots are read before any change, so an unreadable root ends the run.

    Raises:
        ShardcastError: a root can't be read, or the store can't be used.
    """
    now, names = time.time(), {root.name for root in asked}
    referenced = roots.read_all(asked, store.algorithm)
    if delete and names != known_roots(store.folder):
        remember_roots(store.folder, names)
    collection = GarbageCollection(store.folder, referenced, rules, now=now, delete=delete)
    for _ in collection.run():
        done = collection.result.all
        display.show("gc", done.bytes, None, format_count(done.blobs, "blob"))
    return collection.result


async def _forget_missing(store: BlobDirectory) -> None:
    """Remove deleted blobs from the access statistics of an archive on this directory."""
    file = stats_file(archive_folder(Path(store.folder.root)))
    if file.exists():
        ledger = AccessStats(file)
        try:
            await ledger.forget_missing(store.lookup.present)
        finally:
            await ledger.close()


def _print_result(result: GcResult, older_than: float | None, delete: bool) -> None:
    """Print the result, and the option to go further."""
    would = "" if delete else "would be "
    lines = [
        ("here", result.all),
        ("referred to", result.referenced),
        ("not referred to", result.unreferenced),
    ]
    lines += [(f"{would}marked, to go after the grace time", result.marked)]
    lines += [("marked before, and still in the grace time", result.waiting)]
    lines += [(f"{would}kept after all", result.unmarked), (f"{would}removed", result.removed)]
    for what, tally in lines:
        if tally.blobs or what.endswith(("here", "removed")):
            click.echo(_line(what, tally))
    if older_than is None and result.unreferenced.blobs:
        click.echo("unreferenced blobs are kept; --unreferenced-older-than deletes them", err=True)
    elif not delete and (result.marked.blobs or result.unmarked.blobs or result.removed.blobs):
        click.echo("nothing was changed; to delete, add --delete", err=True)


def _line(what: str, tally: Tally) -> str:
    """Return a line about some blobs: how many they are, and their bytes."""
    return f"{what}: {format_count(tally.blobs, 'blob')}, {format_size(tally.bytes)}"


@click.command(context_settings=SETTINGS)
@click.argument("digests", nargs=-1, type=Digest())
@directory_option
@options.logging_options
def pin(digests: tuple[str, ...], directory: Path) -> None:
    """Keep blobs, referenced or not, until they are unpinned."""
    options.start_logging()
    store = open_store(directory)
    for digest in read_digest_arguments(digests, None):
        roots.pin(store.folder, digest)


@click.command(context_settings=SETTINGS)
@click.argument("digests", nargs=-1, type=Digest())
@directory_option
@options.logging_options
def unpin(digests: tuple[str, ...], directory: Path) -> None:
    """End the pins of blobs: unreferenced ones can be deleted. The exit code is 3 if one was not pinned."""
    options.start_logging()
    store = open_store(directory)
    lacking = [
        digest for digest in read_digest_arguments(digests, None) if not roots.unpin(store.folder, digest)
    ]
    if lacking:
        raise BlobMissing(f"not pinned in {directory}: {' '.join(lacking)}")
