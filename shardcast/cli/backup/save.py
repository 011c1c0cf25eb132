"""``shardcast backup backup``: a snapshot of a folder."""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shardcast.cli import options
from shardcast.cli.backup.client_options import SETTINGS, SaveOptions, dir_option, save_options
from shardcast.cli.exit_codes import COPIES_MISSING
from shardcast.errors import ShardcastError, UsageError

if TYPE_CHECKING:
    from shardcast.backup.client.saving import BackupResult
    from shardcast.cli.progress import Display

_KEPT = "The server keeps what was sent; the next backup goes on."
_MAX_TAG = 200
"""Characters of a tag."""
_NEW_OBJECTS = 20_000
"""New objects between two searches of Python for unused cycles. A backup makes no cycles, and with the usual
search at each 700 objects, saving small files takes 7 % longer."""


@click.command(context_settings=SETTINGS)
@dir_option
@save_options
@click.option("--tag", "tags", multiple=True, help="A word for the snapshot. Can be repeated.")
@click.option(
    "--checksum", is_flag=True, help="Read every file, also where size, times and inode are as before."
)
@click.option("--stdin", "from_stdin", is_flag=True, help="Save stdin as one file, instead of the folder.")
@click.option("--stdin-name", default="stdin", show_default=True, help="The name of that file.")
@click.option("--before", metavar="COMMAND", help="Run this first (sh -c); if it fails, nothing is saved.")
@click.option(
    "--after",
    metavar="COMMAND",
    help="Run this at the end, also after a failure: SHARDCAST_BACKUP_SNAPSHOT is then empty.",
)
@options.json_option
@options.logging_options
def backup(
    *,
    folder: Path,
    save: SaveOptions,
    tags: tuple[str, ...],
    checksum: bool,
    from_stdin: bool,
    stdin_name: str,
    before: str | None,
    after: str | None,
    as_json: bool,
) -> None:
    """Save a folder at the server of its registration, or of a folder above; print the snapshot's id.

    Bytes already at the server are not sent again. Unreadable files are listed on stderr and in the snapshot;
    the exit code is then 7.
    """
    options.start_logging()
    from shardcast.cli.backup.backup_progress import summary
    from shardcast.cli.progress import progress_display

    for tag in tags:
        if not 1 <= len(tag) <= _MAX_TAG:
            raise UsageError(f"a tag has 1 to {_MAX_TAG} characters")
    with hooks(before, after) as report, progress_display(options.is_quiet()) as display:
        result = _save(folder, save, tags, checksum, stdin_name if from_stdin else None, display)
        report["SHARDCAST_BACKUP_SNAPSHOT"] = result.snapshot
    if as_json:
        click.echo(json.dumps(as_fields(result)))
    else:
        click.echo(result.snapshot)
    display.note(summary(result))
    if result.problems:
        click.get_current_context().exit(COPIES_MISSING)


def _save(
    folder: Path,
    save: SaveOptions,
    tags: tuple[str, ...],
    checksum: bool,
    stdin_name: str | None,
    display: Display,
) -> BackupResult:
    """Save a folder, or stdin if given a name, and show the progress."""
    from shardcast.backup.client.cache_file import cache_path
    from shardcast.backup.client.registration import folder_path, registered
    from shardcast.backup.client.remote import BackupServer
    from shardcast.backup.client.saving import BackupOrder, FolderBackup
    from shardcast.backup.client.stream_saving import StreamBackup
    from shardcast.cli.backup.backup_progress import shown_progress
    from shardcast.cli.progress import interruptible

    path = folder_path(folder)
    found = registered(path)
    order = BackupOrder(
        folder=path,
        rules=save.load(),
        host=socket.gethostname(),
        user=user_name(),
        cache=cache_path(found.url, found.client, path),
        tags=tags,
        command=save.record() | ({"stdin": stdin_name} if stdin_name else {}),
        checksum=checksum,
    )

    def tell(below: bytes, words: str) -> None:
        text = f"{os.fsdecode(path.rstrip(b'/') + b'/' + below)!r}: {words}"
        if options.is_quiet():
            click.echo(text, err=True)
        else:
            display.note(text)

    gc.set_threshold(_NEW_OBJECTS)
    server = BackupServer(found.url, found.key, tls=found.tls)
    backup: FolderBackup | StreamBackup = FolderBackup(server, order, tell)
    if stdin_name is not None:
        backup = StreamBackup(server, order, stdin_name, lambda count: os.read(sys.stdin.fileno(), count))
    try:
        with interruptible(_KEPT), shown_progress(display, backup.progress):
            return backup.run()
    finally:
        server.close()


def user_name() -> str:
    """Return the name of this user, or the number of one without a name."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


@contextmanager
def hooks(before: str | None, after: str | None) -> Iterator[dict[str, str]]:
    """Run the hooks around the block.

    Yields:
        Variables of the second hook, to be changed.

    Raises:
        ShardcastError: a hook failed. The second one's failure does not hide an error of the block.
    """
    from shardcast.cli.backup.hooks import run_hook

    if before:
        run_hook(before, {})
    variables = {"SHARDCAST_BACKUP_SNAPSHOT": ""}
    try:
        yield variables
    except BaseException:
        if after:
            try:
                run_hook(after, variables)
            except ShardcastError as error:
                click.echo(f"error: {error}", err=True)
        raise
    if after:
        run_hook(after, variables)


def as_fields(result: BackupResult) -> dict[str, object]:
    """Return a result in the form of the JSON output."""
    return {
        "snapshot": result.snapshot,
        "files": result.sums.files,
        "folders": result.sums.folders,
        "bytes": result.sums.bytes,
        "read_bytes": result.read_bytes,
        "sent_bytes": result.sent_bytes,
        "problems": result.problems,
        "left_out": result.left_out,
        "sockets": result.sockets,
        "seconds": round(result.seconds, 3),
    }
