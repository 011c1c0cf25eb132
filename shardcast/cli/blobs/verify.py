"""``shardcast store verify``: compare the blobs of a directory with their names."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import AsyncExitStack, aclosing
from dataclasses import asdict
from pathlib import Path

import click

from shardcast.access.client_access import ClientAccess
from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.directory.layout import Folder
from shardcast.blobs.directory.quarantine import Quarantine
from shardcast.blobs.directory.stat import forms_of
from shardcast.blobs.maintenance.scrub import Outcome, RateLimiter, Scrub, ScrubFinding
from shardcast.cli import options
from shardcast.cli.access_options import ClientAccessOptions, client_access_options
from shardcast.cli.blobs.options import SETTINGS, directory_argument, open_store
from shardcast.cli.exit_codes import DONE, INTEGRITY, LOCAL_DISK
from shardcast.cli.progress import Display, progress_display
from shardcast.concurrency import background_task
from shardcast.sizes import format_count, format_size

_FRAME = 0.1
"""Seconds between two updates of the progress."""


@click.command(
    context_settings=SETTINGS, short_help="Read every blob in DIRECTORY, and see whether it is right."
)
@directory_argument
@options.option(
    "--repair-from",
    env="STORE_REPAIR_FROM",
    type=options.ServerList(),
    multiple=True,
    help="Servers to fetch damaged blobs from: hash servers, archives, nodes. Several, or comma-separated.",
)
@options.option(
    "--rate", env="STORE_RATE", type=options.Size(), help="Maximum bytes to read in a second: 100MB."
)
@options.option(
    "--quarantine/--no-quarantine",
    env="STORE_QUARANTINE",
    default=True,
    help="Set aside damaged blobs without a repair, or leave them in place.",
)
@client_access_options
@options.json_option
@options.logging_options
def verify(
    directory: Path,
    *,
    repair_from: tuple[list[str], ...],
    rate: int | None,
    quarantine: bool,
    client_access: ClientAccessOptions,
    as_json: bool,
) -> int:
    """Read every blob in DIRECTORY, and compare its digest with its name.

    Damaged blobs are printed, each with the action taken; blobs set aside by earlier runs are reported again
    until a good copy is here. The exit code is 5 if a blob is left unrepaired, else 6 if a file can't be
    read. The command can run beside servers on the directory, and be interrupted at any time.
    """
    options.start_logging()
    from shardcast.nodes.runtime import run

    store = open_store(directory)
    servers = [server for group in repair_from for server in group]
    with progress_display(options.is_quiet()) as display:
        scrub, outcomes = run(
            _verify(
                store,
                servers,
                access=client_access.load(),
                rate=rate,
                quarantine=quarantine,
                as_json=as_json,
                display=display,
            )
        )
    bad = sum(outcomes.values())
    if as_json:
        counts = {name.replace(" ", "_"): outcomes[name] for name in Outcome}
        click.echo(
            json.dumps({"files": scrub.blobs, "bytes": scrub.bytes, "unknown": scrub.unknown, **counts})
        )
    if not options.is_quiet():
        what = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items())) or "all right"
        click.echo(f"{format_count(scrub.blobs, 'file')}, {format_size(scrub.bytes)}: {what}", err=True)
    if scrub.unknown:
        click.echo(
            f"{format_count(scrub.unknown, 'file')} of zstd not looked at: install shardcast[store]",
            err=True,
        )
    if outcomes[Outcome.SET_ASIDE] or outcomes[Outcome.LEFT]:
        return INTEGRITY
    return LOCAL_DISK if bad > outcomes[Outcome.REPAIRED] or scrub.unknown else DONE


async def _verify(
    store: BlobDirectory,
    servers: list[str],
    *,
    access: ClientAccess,
    rate: int | None,
    quarantine: bool,
    as_json: bool,
    display: Display,
) -> tuple[Scrub, Counter[str]]:
    """Verify the blobs, print each wrong one, and return the counts.

    Raises:
        LocalDiskError: the directory can't be listed.
    """
    from shardcast.blobs.copy import open_repair

    outcomes: Counter[str] = Counter()
    opened: list[BlobDirectory] = []

    def target() -> BlobDirectory:
        """Open the store for writing, once a repaired blob has to be put."""
        if not opened:  # a scrub that repairs nothing must not write here
            folder = store.folder
            opened.append(BlobDirectory(folder.root, store.algorithm, folder.layout, writable=True))
            stack.push_async_callback(opened[0].close)
        return opened[0]

    async with AsyncExitStack() as stack:
        repair = await stack.enter_async_context(open_repair(servers, store.algorithm, target, access))
        aside = Quarantine(store.folder) if quarantine else None
        scrub = Scrub(store.folder, store.algorithm, quarantine=aside, repair=repair, pace=RateLimiter(rate))
        await stack.enter_async_context(background_task(_show(scrub, display)))
        found = await stack.enter_async_context(aclosing(scrub.run()))
        async for wrong in found:
            outcomes[wrong.outcome] += 1
            display.erase()
            click.echo(json.dumps(asdict(wrong)) if as_json else _line(wrong))
    return scrub, outcomes


def _line(found: ScrubFinding) -> str:
    """Return a line about a wrong blob."""
    return f"{found.digest}  {found.outcome}: {found.reason}{f' ({found.detail})' if found.detail else ''}"


async def _show(scrub: Scrub, display: Display) -> None:
    """Show the progress of a scrub, until cancelled."""
    counting = asyncio.ensure_future(_total(scrub))
    try:
        while True:
            size = counting.result() if counting.done() else None
            display.show("verify", scrub.bytes, size, format_count(scrub.blobs, "file"))
            await asyncio.sleep(_FRAME)
    finally:
        counting.cancel()


async def _total(scrub: Scrub) -> int:
    """Return the bytes of all files of a scrub."""
    size, batches = 0, scrub.folder.entries()
    while (digests := await asyncio.to_thread(next, batches, None)) is not None:
        size += await asyncio.to_thread(_size, scrub.folder, digests)
    return size


def _size(folder: Folder, digests: list[str]) -> int:
    """Return the bytes of all files of some blobs."""
    return sum(form.stat_result.st_size for digest in digests for form in forms_of(folder, digest))
