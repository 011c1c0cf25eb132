"""``shardcast backup restore``: a snapshot, or a part of one, on the disk again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shardcast.cli import options
from shardcast.cli.backup.snapshot_source import SETTINGS, SnapshotSource, source_options
from shardcast.cli.exit_codes import DONE, INTEGRITY, PARTLY_DONE

if TYPE_CHECKING:
    from shardcast.backup.client.answers import ListedSnapshot
    from shardcast.backup.client.restore_entries import RestoreSettings
    from shardcast.backup.client.restore_report import RestoreCounts, RestoreReport
    from shardcast.cli.progress import Display


@click.command(context_settings=SETTINGS, short_help="Restore snapshot ID.")
@click.argument("snapshot", metavar="ID")
@source_options
@click.option(
    "--dest",
    required=True,
    type=options.NamedPath(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Where to; nothing outside is written. A folder that is not there is made.",
)
@click.option("--include", multiple=True, metavar="PATTERN", help="Only these: '*.txt', 'docs/', '/a/b'.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Not these; may be given again.")
@click.option("--overwrite", is_flag=True, help="Replace what is there and differs; nothing is deleted.")
@click.option(
    "--privileged",
    is_flag=True,
    help="Restore setuid and setgid, too; as root also devices, capabilities and other attributes of the "
    "system. Only from a server that you trust: it could make them up.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be made and replaced, and write nothing.")
@options.json_option
@options.logging_options
def restore(
    snapshot: str,
    source: SnapshotSource,
    *,
    dest: Path,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    overwrite: bool,
    privileged: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Restore the snapshot ID, or parts of it, below a folder; every byte is verified before.

    ID is a snapshot's id, at least its first 4 characters, or `latest`. After an interruption the same
    command goes on. Files that are there and equal stay; others are named and stay, unless --overwrite
    replaces them, and the exit code is 7.
    """
    options.start_logging()
    from shardcast.backup.attributes import AttributeRights
    from shardcast.backup.client.restore_entries import RestoreSettings
    from shardcast.backup.client.restore_report import RestoreReport
    from shardcast.backup.client.restore_selection import RestoreSelection
    from shardcast.backup.client.restoring import restore_into
    from shardcast.cli.progress import progress_display

    selection = RestoreSelection(include, exclude)
    with source.open() as opened, progress_display(options.is_quiet() or dry_run) as display:
        found, tree = opened.choose(snapshot)
        report = RestoreReport(_teller(display))
        settings = RestoreSettings(
            selection=selection,
            overwrite=overwrite,
            dry_run=dry_run,
            rights=AttributeRights(owners=os.geteuid() == 0, privileged=privileged),
            show=_show if dry_run and not as_json else None,
            progress=_progress(display, report, found, selection.is_all),
        )
        restore_into(dest, tree, opened.reader, settings, report)
    _summarize(report, settings, dest, found.id, as_json)
    return _code(report.counts)


def _teller(display: Display) -> Callable[[str, str], None]:
    """Return the function that tells of a problem with a path, also with --quiet."""
    from shardcast.plain_text import one_line

    def tell(path: str, text: str) -> None:
        display.pause()
        click.echo(one_line(f"{path}: {text}", 8192), err=True)

    return tell


def _show(word: str, path: bytes) -> None:
    """Print what would be done with a path."""
    from shardcast.cli.backup.entry_lines import shown_path
    from shardcast.cli.streams import print_answer

    print_answer(f"{word:<7} {shown_path(path)}")


def _progress(
    display: Display, report: RestoreReport, found: ListedSnapshot, is_all: bool
) -> Callable[[], None]:
    """Return the function that shows how far a restore is."""
    size = found.bytes if is_all else None

    def show() -> None:
        display.show(f"restore {found.id[:8]}", report.counts.bytes, size, f"{report.counts.files} files")

    return show


def _summarize(
    report: RestoreReport, settings: RestoreSettings, dest: Path, snapshot: str, as_json: bool
) -> None:
    """Print what was done: a line on stderr, or JSON on stdout."""
    from shardcast.cli.streams import print_answer
    from shardcast.sizes import format_count, format_size

    if as_json:
        print_answer(json.dumps({"snapshot": snapshot, "dest": str(dest), **report.as_json()}))
        return
    if options.is_quiet():
        return
    counts = report.counts
    done = "would be restored" if settings.dry_run else "restored"
    parts = [f"{format_count(counts.files, 'file')} ({format_size(counts.bytes)})"]
    parts += [format_count(counts.folders, "folder")] if counts.folders else []
    parts += [format_count(counts.others, "link and other entry")] if counts.others == 1 else []
    parts += [f"{counts.others} links and other entries"] if counts.others > 1 else []
    click.echo(f"{', '.join(parts)} of {snapshot} {done} to {dest}", err=True)
    for number, text in (
        (counts.kept, "were there already, equal"),
        (counts.replaced, "replaced what was there"),
        (counts.differing, "differ from what is there, which stays; --overwrite replaces it"),
        (counts.damaged, "are damaged at the server, or gone there; the next backup mends what it still has"),
        (counts.failed, "could not be restored, or not with all attributes"),
    ):
        if number:
            click.echo(f"{number} {text}", err=True)
    if report.owners:
        click.echo("owners were left out: only root can set them", err=True)
    if report.system_attributes:
        click.echo("attributes of the system were left out: root restores them by --privileged", err=True)


def _code(counts: RestoreCounts) -> int:
    """Return the exit code: damage counts more than what stays as it is."""
    if counts.damaged:
        return INTEGRITY
    return PARTLY_DONE if counts.differing or counts.failed else DONE
