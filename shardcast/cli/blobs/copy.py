"""``shardcast store pull`` and ``push``: blobs between a directory and a server."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from shardcast.access.client_access import ClientAccess
from shardcast.cli import options
from shardcast.cli.access_options import ClientAccessOptions, client_access_options, push_access_options
from shardcast.cli.blobs.options import (
    SETTINGS,
    Digest,
    directory_option,
    from_file_option,
    open_store,
    read_digest_arguments,
)
from shardcast.cli.exit_codes import DONE, NOT_OFFERED
from shardcast.cli.limit_options import DownloadLimitOptions, download_limit_options, push_limit_option
from shardcast.cli.progress import Display, progress_display
from shardcast.concurrency import background_task
from shardcast.sizes import format_count, format_size

if TYPE_CHECKING:
    from shardcast.blobs.copy import CopyProgress
    from shardcast.fair_limit import FairLimit

_FRAME = 0.1
"""Seconds between two updates of the progress."""


@click.command(context_settings=SETTINGS, short_help="Get blobs from the server at URL.")
@click.argument("url")
@click.argument("digests", nargs=-1, type=Digest())
@directory_option
@from_file_option
@client_access_options
@download_limit_options
@options.json_option
@options.logging_options
def pull(
    url: str,
    digests: tuple[str, ...],
    *,
    directory: Path,
    from_file: IO[str] | None,
    client_access: ClientAccessOptions,
    download_limits: DownloadLimitOptions,
    as_json: bool,
) -> int:
    """Get blobs from the server at URL, a hash server, an archive or a node.

    Blobs already here are not fetched again, so a repeated command continues an interrupted one. The exit
    code is 3 if the server lacks a blob.
    """
    options.start_logging()
    job = _Job(
        directory,
        url,
        read_digest_arguments(digests, from_file),
        pulling=True,
        access=client_access.load(),
        downloads=download_limits.load(),
    )
    return _run(job, as_json)


@click.command(context_settings=SETTINGS)
@click.argument("url")
@click.argument("digests", nargs=-1, type=Digest())
@directory_option
@from_file_option
@push_access_options
@push_limit_option
@options.json_option
@options.logging_options
def push(
    url: str,
    digests: tuple[str, ...],
    *,
    directory: Path,
    from_file: IO[str] | None,
    client_access: ClientAccessOptions,
    upload_limit: int | None,
    as_json: bool,
) -> int:
    """Put blobs into the server at URL, a hash server or an archive.

    Blobs already at the server are not sent again. The exit code is 3 if a blob is missing here.
    """
    options.start_logging()
    from shardcast.fair_limit import FairLimit

    job = _Job(
        directory,
        url,
        read_digest_arguments(digests, from_file),
        pulling=False,
        access=client_access.load(),
        uploads=FairLimit.of(upload_limit),
    )
    return _run(job, as_json)


@dataclass(frozen=True)
class _Job:
    """Blobs to copy between a directory and a server.

    Attributes:
        directory: directory of the store.
        url: URL of the server.
        digests: of the blobs.
        pulling: whether the server is the source.
        access: to the server.
        downloads: limit of received bytes; None for no limit.
        uploads: limit of sent bytes; None for no limit.
    """

    directory: Path
    url: str
    digests: list[str]
    _: KW_ONLY
    pulling: bool
    access: ClientAccess
    downloads: FairLimit | None = None
    uploads: FairLimit | None = None


def _run(job: _Job, as_json: bool) -> int:
    """Copy blobs, print the outcome, and return the exit code.

    Raises:
        ShardcastError: the worst failure of a blob.
    """
    from shardcast.blobs.copy import CopyProgress, worst_error
    from shardcast.nodes.runtime import run

    state = CopyProgress()
    with progress_display(options.is_quiet()) as display:
        run(_copy(job, state, display))
    if as_json:
        failed = {digest: str(error) for digest, error in state.failed.items()}
        counts = {"copied": state.copied, "bytes": state.bytes, "there": state.present}
        click.echo(json.dumps({**counts, "missing": state.missing, "failed": failed}))
    else:
        for digest in state.missing:
            click.echo(f"{digest}  missing")
        for digest, error in state.failed.items():
            click.echo(f"{digest}  failed: {error}")
    if not options.is_quiet():
        what = (
            f"{format_count(state.copied, 'blob')}, {format_size(state.bytes)}, {state.present} there before"
        )
        click.echo(f"{'pulled' if job.pulling else 'pushed'} {what}", err=True)
    worst = worst_error(state)
    if worst is not None:
        raise worst
    return NOT_OFFERED if state.missing else DONE


async def _copy(job: _Job, state: CopyProgress, display: Display) -> None:
    """Copy blobs, and show the progress."""
    from shardcast.blobs.copy import copy, remote_store

    async with AsyncExitStack() as stack:
        store = open_store(job.directory, writable=job.pulling)
        stack.push_async_callback(store.close)
        server = await stack.enter_async_context(
            remote_store(
                job.url,
                store.algorithm,
                access=job.access,
                downloads=job.downloads,
                uploads=job.uploads,
            )
        )
        await stack.enter_async_context(background_task(_show(job, state, display)))
        if job.pulling:
            await copy(server, store, job.digests, state)
        else:
            await copy(store, server, job.digests, state)


async def _show(job: _Job, state: CopyProgress, display: Display) -> None:
    """Show the progress of a copy, until cancelled."""
    name, count = "pull" if job.pulling else "push", len(job.digests)
    while True:
        display.show(name, state.bytes, None, f"{state.seen} of {count} blobs")
        await asyncio.sleep(_FRAME)
