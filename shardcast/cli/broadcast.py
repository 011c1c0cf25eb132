"""``shardcast broadcast``: publish a file, a folder or stdin, through the origin or without one."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from shardcast.addresses import server_url
from shardcast.cli import options
from shardcast.cli.access_options import ClientAccessOptions, client_access_options
from shardcast.cli.broadcast_payload import Payload, Streamed
from shardcast.cli.label_options import LabelOptions, label_options
from shardcast.cli.limit_options import push_limit_option
from shardcast.cli.progress import Display, progress_display
from shardcast.errors import CopiesMissing, DataDirInUse, LocalDiskError, NodeFailed, NoNode, UsageError
from shardcast.fair_limit import FairLimit
from shardcast.sizes import format_count
from shardcast.store.data_dir import DataDir
from shardcast.store.data_dir_layout import own_folder

if TYPE_CHECKING:
    from shardcast.cli.broadcast_to import RemoteOrigin, SentPath

_SHOW_INTERVAL = 0.2
"""Seconds between two updates of the progress, where this process publishes itself."""
_POLL_INTERVAL = 0.1
"""Seconds between two attempts to reach the origin or to take the data directory."""
_ORIGIN_START_TIMEOUT = 10.0
"""Seconds for an origin's socket to answer, after the origin has locked its directory."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("path", type=click.Path(path_type=Path, readable=False))
@options.data_dir_option("./data")
@options.option(
    "--shard-size",
    type=options.Size(),
    help="Bytes in a shard: 50MB, 48MiB, 50000000; by default the origin's.",
)
@options.option(
    "--link",
    is_flag=True,
    help="Serve the file itself, linked or cloned, instead of a copy; never write to the file again. "
    "In a folder, this applies to files of 1 MiB and more.",
)
@options.option(
    "--exclude",
    multiple=True,
    metavar="PATTERN",
    help="Leave out matching paths of a folder: '*.tmp', 'logs/', '/a/**/b'; may be given again. The "
    "file .shardcastignore in the folder has more patterns, one a line.",
)
@options.option(
    "--no-mtimes",
    is_flag=True,
    help="Publish no times of a folder's files, so that the same files give the same digest.",
)
@options.option(
    "--checksum",
    is_flag=True,
    help="Read all files of a folder, also those with the size and times of the last version.",
)
@options.option("--name", default="stdin", help="The name of the payload, if PATH is -.")
@options.option(
    "--copies",
    type=click.IntRange(1),
    help="Wait until so many nodes below the origin have the whole version, verified.",
)
@options.option(
    "--timeout",
    type=options.Duration(),
    help="With --copies: fail after this time: 90s, 10m, 1h. By default wait without limit.",
)
@options.option(
    "--to", metavar="URL", help="Send PATH to the origin at this address, started with --publish."
)
@options.option(
    "--live",
    is_flag=True,
    help="With --to: publish the first shards while the rest is still being sent.",
)
@label_options
@push_limit_option
@options.json_option
@client_access_options
@options.logging_options
@click.pass_context
def broadcast(
    ctx: click.Context,
    *,
    path: Path,
    data_dir: Path,
    shard_size: int | None,
    link: bool,
    exclude: tuple[str, ...],
    no_mtimes: bool,
    checksum: bool,
    name: str,
    copies: int | None,
    timeout: float | None,
    to: str | None,
    live: bool,
    labels: LabelOptions,
    upload_limit: int | None,
    as_json: bool,
    client_access: ClientAccessOptions,
) -> None:
    """Publish PATH as the next version, and print the version.

    PATH is a file or a folder; clients without support for folders receive a tar. Of a folder, everything is
    published except for --exclude: names, permission bits, times in seconds, links inside the folder.

    With - as PATH, stdin is published, and the first shards go out while the rest is still coming.

    A running origin on the data directory publishes. Without one, the command publishes into the directory
    itself, for an origin or any static web server to serve. With --copies the command waits for the nodes
    below the origin: middles, and following clients. Nodes of 0.4.0 and 0.1.0 do not count.

    With --to the payload is sent to an origin elsewhere. The version appears there after the last byte, if
    the digest is right. Sending goes on after a broken connection; for a file or folder also by repeating the
    same command.
    """
    options.start_logging()
    streamed = str(path) == "-"
    if streamed and link:
        raise click.UsageError("--link needs a file, and - is none")
    for given, option in ((exclude, "--exclude"), (no_mtimes, "--no-mtimes"), (checksum, "--checksum")):
        if given and streamed:
            raise click.UsageError(f"{option} needs a folder, and - is none")
    if checksum and to is not None:
        raise click.UsageError("--checksum needs a folder that is published on this machine")
    if timeout is not None and copies is None:
        raise click.UsageError("--timeout goes with --copies")
    if upload_limit and to is None:
        raise click.UsageError("--upload-limit goes with --to; readers are limited at the origin")
    if live and to is None:
        raise click.UsageError("--live goes with --to; where the origin runs here, - is live")
    metadata = labels.load()
    if to is not None:
        named = ctx.get_parameter_source("data_dir") is ParameterSource.COMMANDLINE
        for given, option in ((link, "--link"), (copies is not None, "--copies"), (named, "--data-dir")):
            if given:
                raise click.UsageError(f"{option} does not go with --to")
        access, uploads = client_access.load(), FairLimit.of(upload_limit)
        from shardcast.cli.broadcast_to import RemoteOrigin, SentPath

        origin = RemoteOrigin(server_url(to), shard_size, live, access, uploads, metadata or {})
        sent = None if streamed else SentPath(path, exclude, not no_mtimes)
        _send(sent, name, origin, as_json=as_json)
        return
    payload = (
        Streamed(name, shard_size, metadata)
        if streamed
        else Payload(path.absolute(), shard_size, not link, exclude, not no_mtimes, checksum, metadata)
    )
    result: dict[str, Any] = {"path": None if streamed else str(path.absolute())}
    wanted = None if copies is None else CopiesWanted(copies, timeout, since=time.monotonic())
    missing = None
    with progress_display(options.is_quiet()) as display:
        version = _publish(payload, data_dir, display, directly=wanted is None)
        display.pause()
        if not as_json:
            click.echo(version)  # before the wait, which may fail: the version is published in any case
        if wanted is not None:
            result["copies"], missing = _wait_for_copies(version, data_dir, wanted, display)
    if as_json:
        click.echo(json.dumps({"version": version, **result}))
    if missing:
        raise missing


def _send(sent: SentPath | None, name: str, origin: RemoteOrigin, *, as_json: bool) -> None:
    """Send a file or folder, or stdin without one, to an origin elsewhere, and print the version.

    Raises:
        ShardcastError: sending failed, or the origin refused.
    """
    from shardcast.cli.broadcast_to import send_path, send_stdin

    origin.access.check_server(origin.url)
    where = str(sent.path.absolute()) if sent else None

    def answer(version: str) -> None:
        display.pause()
        click.echo(json.dumps({"version": version, "path": where}) if as_json else version)

    with progress_display(options.is_quiet()) as display:
        send = partial(send_stdin, name) if sent is None else partial(send_path, sent)
        send(origin, display, answer)


@dataclass(frozen=True)
class CopiesWanted:
    """Number of nodes to wait for, and the time limit.

    Attributes:
        count: nodes below the origin.
        timeout: seconds after ``since``; None for no limit.
        since: start of the command, by ``time.monotonic``.
    """

    count: int
    timeout: float | None
    since: float


def _publish(payload: Payload | Streamed, data_dir: Path, display: Display, directly: bool) -> str:
    """Publish through the origin, or without a running one ``directly`` into the directory.

    Returns:
        The name of the version.

    Raises:
        UsageError: no origin runs there, and not ``directly``.
        DataDirInUse: another node holds the directory.
        NodeFailed: an origin holds the directory, and does not answer.
        LocalDiskError: the path is no directory.
        ShardcastError: publishing failed.
    """
    if data_dir.exists() and not data_dir.is_dir():
        raise LocalDiskError(f"the data directory {data_dir} is not a directory")
    started, noted = time.monotonic(), False
    while True:
        version = ""
        try:
            for message in payload.publish_through_origin(data_dir):
                version = str(message.get("version", version))
                _show(display, version, payload, message.get("progress"))
            return version
        except NoNode:
            pass
        try:
            if not directly:
                _check_free(data_dir)
                raise UsageError(
                    f"--copies needs an origin that serves the version, and none runs on {data_dir}; "
                    f"start one: {_origin_command(data_dir)}"
                )
            version = _publish_here(payload, data_dir, display)
            display.note(
                f"no origin runs on {data_dir}, so {version} is published but not served; start one: "
                f"{_origin_command(data_dir)}"
            )
            return version
        except DataDirInUse as error:
            if error.role in ("broadcast", "pin"):  # a command that ends by itself
                if not noted:
                    what = "another broadcast" if error.role == "broadcast" else "`shardcast pin` or `unpin`"
                    display.note(f"waiting for {what} in {data_dir}")
                noted = True
            elif error.role != "origin":
                raise
            elif time.monotonic() - started > _ORIGIN_START_TIMEOUT:
                raise NodeFailed(f"{error}, and it does not answer") from error
        time.sleep(_POLL_INTERVAL)


def _check_free(data_dir: Path) -> None:
    """Check that no process holds the data directory.

    Raises:
        DataDirInUse: a process holds the directory; for instance a starting origin.
    """
    if own_folder(data_dir).is_dir():
        DataDir(data_dir, "broadcast").close()


def _origin_command(data_dir: Path) -> str:
    """Return the shell command for an origin on the data directory."""
    return f"shardcast-origin --data-dir {shlex.quote(str(data_dir))}"


def _wait_for_copies(
    version: str, data_dir: Path, wanted: CopiesWanted, display: Display
) -> tuple[int, CopiesMissing | None]:
    """Wait for the copies, show their changing number, and return the last one.

    Returns:
        The number of nodes with the version, and the error if they are too few in time.
    """
    from shardcast.control.waiting import wait_for_copies

    shown, have = -1, 0
    try:
        counts = wait_for_copies(data_dir, version, wanted.count, timeout=wanted.timeout, since=wanted.since)
        for have in counts:
            if have != shown:
                shown = have
                display.note(f"{version}: {have} of {wanted.count} copies")
    except CopiesMissing as error:
        return error.have, error
    return have, None


def _publish_here(payload: Payload | Streamed, data_dir: Path, display: Display) -> str:
    """Publish into the directory from this process, and return the version's name.

    Raises:
        DataDirInUse: another process holds the directory.
        ShardcastError: publishing failed.
    """
    import asyncio

    from shardcast.nodes.origin import publishing
    from shardcast.nodes.runtime import run

    async def publish() -> str:
        async with publishing(data_dir) as publisher:
            pending = await payload.publish_with(publisher)
            result = asyncio.ensure_future(pending.result())
            while not result.done():
                _show(display, pending.version, payload, pending.progress())
                await asyncio.wait([result], timeout=_SHOW_INTERVAL)
            await result
            _show(display, pending.version, payload, pending.progress())
            return pending.version

    return run(publish())


def _show(
    display: Display, version: str, payload: Payload | Streamed, state: Mapping[str, Any] | None
) -> None:
    """Show the progress of a broadcast; ``state`` has ``done`` and ``size`` in bytes, and ``shards``."""
    if state:
        # A file's size is known as soon as the origin begins, a stream's only at the end.
        waits = state["size"] is None and not isinstance(payload, Streamed)
        shards = "" if state["shards"] is None else format_count(state["shards"], "shard")
        detail = "waiting for an earlier broadcast" if waits else shards
        display.show(f"{version} {payload.name}", state["done"], state["size"], detail)
