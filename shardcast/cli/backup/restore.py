"""``shardcast backup restore``: a snapshot, or a part of one, on the disk again."""

from __future__ import annotations

import json
import os
import time
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
    help="The destination; nothing outside is written. A missing folder is made.",
)
@click.option("--include", multiple=True, metavar="PATTERN", help="Only these: '*.txt', 'docs/', '/a/b'.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Not these; may be given again.")
@click.option("--overwrite", is_flag=True, help="Replace existing files that differ; nothing is deleted.")
@click.option(
    "--privileged",
    is_flag=True,
    help="Restore setuid and setgid, too; as root also devices, capabilities and other attributes of "
    "the system. Only from a trusted server: a server can forge them.",
)
@click.option("--no-owner", is_flag=True, help="As root, leave the owners out: every new file is root's.")
@click.option("--dry-run", is_flag=True, help="Show the entries to make and to replace, and write nothing.")
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
    no_owner: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Restore the snapshot ID, or parts of it, below a folder; every byte is verified before.

    ID is a snapshot's id, at least its first 4 characters, or `latest`. After an interruption, the same
    command continues. Existing equal files stay. Existing files that differ are listed and stay, with exit
    code 7, unless --overwrite replaces them.
    """
    options.start_logging()
    from shardcast.backup.attributes import AttributeRights
    from shardcast.backup.client.restore_entries import RestoreSettings
    from shardcast.backup.client.restore_report import RestoreReport
    from shardcast.backup.client.restore_selection import RestoreSelection
    from shardcast.backup.client.restoring import restore_into
    from shardcast.cli.progress import interruptible, progress_display
    from shardcast.errors import VersionNotOffered

    selection, started = RestoreSelection(include, exclude), time.monotonic()
    with source.open() as opened, progress_display(options.is_quiet() or dry_run) as display:
        found, tree = opened.choose(snapshot)
        report = RestoreReport(_teller(display))
        settings = RestoreSettings(
            selection=selection,
            overwrite=overwrite,
            dry_run=dry_run,
            rights=AttributeRights(owners=os.geteuid() == 0 and not no_owner, privileged=privileged),
            show=_show if dry_run and not as_json else None,
            progress=_progress(display, report, found, selection.is_all),
        )
        with interruptible(f"{dest} keeps what is there by now; the same command goes on."):
            restore_into(dest, tree, opened.reader, settings, report)
    if not selection.is_all and not report.matched:
        raise VersionNotOffered(f"nothing in snapshot {found.id} matches the patterns")
    if as_json:
        _print_json(report, dest, found.id)
    elif not options.is_quiet():
        _summarize(report, settings, f"{found.id} to {dest}", time.monotonic() - started)
    return _code(report.counts)


def _teller(display: Display) -> Callable[[str, str], None]:
    """Return the function to report a problem with a path, also with --quiet."""
    from shardcast.plain_text import one_line

    def tell(path: str, text: str) -> None:
        display.erase()
        click.echo(one_line(f"{path}: {text}", 8192), err=True)

    return tell


def _show(word: str, path: bytes) -> None:
    """Print the planned action for a path."""
    from shardcast.cli.backup.entry_lines import shown_path
    from shardcast.cli.streams import print_answer

    print_answer(f"{word:<7} {shown_path(path)}")


def _progress(
    display: Display, report: RestoreReport, found: ListedSnapshot, is_all: bool
) -> Callable[[], None]:
    """Return the function to show the progress of a restore."""
    size = found.bytes if is_all else None

    def show() -> None:
        counts = report.counts
        done = counts.bytes + counts.kept_bytes
        total = size if size and size >= done else None
        display.show(f"restore {found.id[:8]}", done, total, f"{counts.files + counts.kept} files")

    return show


def _print_json(report: RestoreReport, dest: Path, snapshot: str) -> None:
    """Print the result as JSON."""
    from shardcast.cli.streams import print_answer

    print_answer(json.dumps({"snapshot": snapshot, "dest": str(dest), **report.as_json()}))


def _summarize(report: RestoreReport, settings: RestoreSettings, what: str, seconds: float) -> None:
    """Print a summary on stderr: a line, and one more for each count of interest to a person."""
    from shardcast.sizes import format_count, format_rate, format_size

    counts, planned = report.counts, settings.dry_run
    parts = [f"{format_count(counts.files, 'file')} ({format_size(counts.bytes)})"]
    parts += [format_count(counts.folders, "folder")] if counts.folders else []
    others = "link or special file" if counts.others == 1 else "links and special files"
    parts += [f"{counts.others} {others}"] if counts.others else []
    if planned:
        click.echo(f"would restore {', '.join(parts)} of {what}", err=True)
    else:
        rate = format_rate(counts.bytes / max(seconds, 0.001))
        click.echo(f"restored {', '.join(parts)} of {what}, in {seconds:.1f} s ({rate})", err=True)
    for number, text in (
        (counts.replaced, "of them replacing what is there" if planned else "of them in place of others"),
        (counts.kept, "there already, equal"),
        (counts.differing, "there already, different: not restored; --overwrite replaces"),
        (counts.damaged, "damaged at the server, or gone there; the next backup mends what it still has"),
        (counts.failed, "not restored, or not with all attributes"),
    ):
        if number:
            click.echo(f"{number} {text}", err=True)
    if report.owners and os.geteuid():
        click.echo("owners were left out: only root can set them", err=True)
    if report.system_attributes:
        click.echo("attributes of the system were left out: root restores them by --privileged", err=True)


def _code(counts: RestoreCounts) -> int:
    """Return the exit code: damage takes precedence over entries left unchanged."""
    if counts.damaged:
        return INTEGRITY
    return PARTLY_DONE if counts.differing or counts.failed else DONE
