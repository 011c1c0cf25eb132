"""``shardcast broadcast``."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shardcast.cli import options
from shardcast.cli.progress import Display, progress
from shardcast.cli.streams import input_descriptor
from shardcast.errors import CopiesMissing, DataDirInUse, LocalDiskError, NodeFailed, NoNode, UsageError
from shardcast.sharding.publishing import check_payload
from shardcast.sizes import format_count
from shardcast.store.data_dir import DataDir, own_folder

if TYPE_CHECKING:
    from shardcast.nodes.publisher import PendingBroadcast, Publisher

_CHUNK = 1 << 20
"""Bytes read from stdin at a time."""
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
@options.option("--name", default="stdin", help="What the file is called, where PATH is -.")
@options.option(
    "--copies",
    type=click.IntRange(1),
    help="Wait until so many nodes below the origin have the version whole and verified.",
)
@options.option(
    "--timeout",
    type=options.Duration(),
    help="Fail when they don't in time: 90s, 10m, 1h. Without it, wait for as long as it takes.",
)
@options.json_option
@options.logging_options
def broadcast(
    *,
    path: Path,
    data_dir: Path,
    shard_size: int | None,
    link: bool,
    name: str,
    copies: int | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Publish PATH as the next version, and print the version. For - it is what comes from stdin, whose
    shards go out while the rest is still coming.

    The origin that runs on the data directory does it; where none runs, it is published into the
    directory, for an origin or any static web server to serve. With --copies the command waits for the
    nodes below the origin: middles, and clients that follow. Nodes of 0.4.0 and 0.1.0 do not count.
    """
    options.start_logging()
    streamed = str(path) == "-"
    if streamed and link:
        raise click.UsageError("--link needs a file, and - is none")
    if timeout is not None and copies is None:
        raise click.UsageError("--timeout goes with --copies")
    payload = Streamed(name, shard_size) if streamed else Payload(path.absolute(), shard_size, not link)
    told: dict[str, Any] = {"path": None if streamed else str(path.absolute())}
    wanted = None if copies is None else CopiesWanted(copies, timeout, since=time.monotonic())
    missing = None
    with progress(options.is_quiet()) as display:
        version = _publish(payload, data_dir, display, directly=wanted is None)
        if not as_json:
            click.echo(version)  # before the wait, which may fail: the version is published in any case
        if wanted is not None:
            told["copies"], missing = _wait_for_copies(version, data_dir, wanted, display)
    if as_json:
        click.echo(json.dumps({"version": version, **told}))
    if missing:
        raise missing


@dataclass(frozen=True)
class CopiesWanted:
    """Number of nodes that shall have the version, and the time that they have for it.

    Attributes:
        count: nodes below the origin.
        timeout: seconds after ``since``; None for as long as it takes.
        since: when the command began, by ``time.monotonic``.
    """

    count: int
    timeout: float | None
    since: float


@dataclass(frozen=True)
class Payload:
    """A file to publish."""

    path: Path
    shard_size: int | None
    copy: bool

    def __post_init__(self) -> None:
        check_payload(self.path)

    @property
    def name(self) -> str:
        return self.path.name

    def through(self, data_dir: Path) -> Iterator[Mapping[str, Any]]:
        """Hand it to the origin; yields what that says."""
        from shardcast.control.client import publish

        return publish(data_dir, self.path, self.shard_size, copy=self.copy)

    async def by(self, publisher: Publisher) -> PendingBroadcast:
        return await publisher.publish(self.path, self.shard_size, copy=self.copy)


@dataclass(frozen=True)
class Streamed:
    """What comes from stdin."""

    name: str
    shard_size: int | None

    def through(self, data_dir: Path) -> Iterator[Mapping[str, Any]]:
        """Hand it to the origin; yields how far it is."""
        from shardcast.control.writer import BroadcastWriter

        with BroadcastWriter(data_dir, self.name, self.shard_size) as writer:
            yield {"version": writer.version}
            while chunk := os.read(input_descriptor(), _CHUNK):
                writer.write(chunk)
                writer.flush()
                yield {"progress": {"size": 0, "done": writer.tell(), "shards": 0}}

    async def by(self, publisher: Publisher) -> PendingBroadcast:
        source = os.fdopen(os.dup(input_descriptor()), "rb", buffering=0)
        return await publisher.publish_stream(source, self.name, self.shard_size)


def _publish(payload: Payload | Streamed, data_dir: Path, display: Display, directly: bool) -> str:
    """Publish through the origin, or, where none runs, ``directly`` into the directory.

    Raises:
        UsageError: no origin runs there, and not ``directly``.
        DataDirInUse: another node has the directory.
        NodeFailed: an origin has it, and does not answer.
        ShardcastError: publishing failed.
    """
    if data_dir.exists() and not data_dir.is_dir():
        raise LocalDiskError(f"the data directory {data_dir} is not a directory")
    since, told = time.monotonic(), False
    while True:
        version = ""
        try:
            for said in payload.through(data_dir):
                version = str(said.get("version", version))
                _show(display, version, payload.name, said.get("progress"))
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
            if error.role in ("broadcast", "pin"):  # it ends, so wait for our turn
                if not told:
                    display.note("waiting for another broadcast into this directory")
                told = True
            elif error.role != "origin":
                raise
            elif time.monotonic() - since > _ORIGIN_STARTS:
                raise NodeFailed(f"{error}, and it does not answer") from error
        time.sleep(_LOOK_AGAIN)


def _check_free(data_dir: Path) -> None:
    """
    Raises:
        DataDirInUse: a process has the directory, an origin that starts, for instance.
    """
    if own_folder(data_dir).is_dir():
        DataDir(data_dir, "broadcast").close()


def _origin_command(data_dir: Path) -> str:
    return f"shardcast-origin --data-dir {shlex.quote(str(data_dir))}"


def _wait_for_copies(
    version: str, data_dir: Path, wanted: CopiesWanted, display: Display
) -> tuple[int, CopiesMissing | None]:
    """Wait for the copies, show their number as it changes, and return it.

    Returns:
        The number of nodes that have the version, and the error where they are too few in time.
    """
    from shardcast.control.waiting import wait_for_copies

    shown, have = -1, 0
    try:
        for have in wait_for_copies(data_dir, version, wanted.count, wanted.timeout, wanted.since):
            if have != shown:
                shown = have
                display.note(f"{version}: {have} of {wanted.count} copies")
    except CopiesMissing as error:
        return error.have, error
    return have, None


def _publish_here(payload: Payload | Streamed, data_dir: Path, display: Display) -> str:
    import asyncio

    from shardcast.nodes.origin import publishing
    from shardcast.nodes.runtime import run

    async def publish() -> str:
        async with publishing(data_dir) as publisher:
            under_way = await payload.by(publisher)
            result = asyncio.ensure_future(under_way.result())
            while not result.done():
                _show(display, under_way.version, payload.name, under_way.progress())
                await asyncio.wait([result], timeout=0.2)
            await result
            _show(display, under_way.version, payload.name, under_way.progress())
            return under_way.version

    return run(publish())


def _show(display: Display, version: str, name: str, state: Mapping[str, Any] | None) -> None:
    if state:
        waits = state["size"] is None
        display.show(
            f"{version} {name}",
            state["done"],
            state["size"],
            "waiting for an earlier broadcast" if waits else format_count(state["shards"], "shard"),
        )
