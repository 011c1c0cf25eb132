"""``shardcast broadcast``."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from shardcast.cli import options
from shardcast.cli.progress import Display, progress
from shardcast.errors import DataDirInUse, LocalDiskError, NodeFailed
from shardcast.sharding import check_payload
from shardcast.sizes import format_count

_LOOK_AGAIN = 0.1
"""Seconds between two looks at whether the data directory is free."""
_ORIGIN_STARTS = 10.0
"""Seconds that an origin has from taking its directory to opening its socket."""


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
    help="Serve the file itself, linked or cloned, instead of a copy; write no more to it.",
)
@options.json_option
@options.logging_options
def broadcast(path: Path, data_dir: Path, shard_size: int | None, link: bool, as_json: bool) -> None:
    """Publish PATH as the next version, and print the version.

    The origin that runs on the data directory does it; where none runs, it is published into the
    directory, for an origin or any static web server to serve.
    """
    options.start_logging()
    path = path.absolute()
    check_payload(path)
    with progress(options.is_quiet()) as display:
        version = _publish(path, data_dir, shard_size, not link, display)
    click.echo(json.dumps({"version": version, "path": str(path)}) if as_json else version)


def _publish(path: Path, data_dir: Path, shard_size: int | None, copy: bool, display: Display) -> str:
    from shardcast.peer.control import NoOrigin, publish

    if data_dir.exists() and not data_dir.is_dir():
        raise LocalDiskError(f"the data directory {data_dir} is not a directory")
    since, told = time.monotonic(), False
    while True:
        version = ""
        try:
            for said in publish(data_dir, path, shard_size, copy=copy):
                version = str(said.get("version", version))
                _show(display, version, path, said.get("progress"))
            return version
        except NoOrigin:
            pass
        try:
            return _publish_here(path, data_dir, shard_size, copy, display)
        except DataDirInUse as error:
            if error.role == "broadcast":  # it ends, so wait for our turn
                if not told:
                    display.note("waiting for another broadcast into this directory")
                told = True
            elif error.role != "origin":
                raise
            elif time.monotonic() - since > _ORIGIN_STARTS:
                raise NodeFailed(f"{error}, and it does not answer") from error
        time.sleep(_LOOK_AGAIN)


def _publish_here(path: Path, data_dir: Path, shard_size: int | None, copy: bool, display: Display) -> str:
    import asyncio

    from shardcast.nodes.lifetime import run
    from shardcast.nodes.origin import publishing

    async def publish() -> str:
        async with publishing(data_dir) as publisher:
            under_way = await publisher.publish(path, shard_size, copy=copy)
            result = asyncio.ensure_future(under_way.result())
            while not result.done():
                _show(display, under_way.version, path, under_way.progress())
                await asyncio.wait([result], timeout=0.2)
            await result
            _show(display, under_way.version, path, under_way.progress())
            return under_way.version

    return run(publish())


def _show(display: Display, version: str, path: Path, state: Mapping[str, Any] | None) -> None:
    if state:
        waits = state["size"] is None
        display.show(
            f"{version} {path.name}",
            state["done"],
            state["size"],
            "waiting for an earlier broadcast" if waits else format_count(state["shards"], "shard"),
        )
