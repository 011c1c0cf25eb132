"""``shardcast store ls``, ``stat``, ``put``, ``get``, ``has``: the blobs of a directory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import IO

import click

from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.directory.quarantine import Quarantine
from shardcast.blobs.directory.stat import BlobDescription, describe
from shardcast.cli import options
from shardcast.cli.blobs.options import (
    SETTINGS,
    Digest,
    directory_argument,
    directory_option,
    from_file_option,
    open_store,
    read_digest_arguments,
)
from shardcast.cli.exit_codes import DONE, NOT_OFFERED
from shardcast.cli.pipes import open_input, read_some, write_all
from shardcast.cli.progress import Display, progress_display
from shardcast.cli.streams import answer_descriptor, input_descriptor, print_answer
from shardcast.cli.times import shown_time
from shardcast.digest import new_hasher
from shardcast.disk_errors import disk_errors
from shardcast.errors import BlobCorrupt, BlobMissing
from shardcast.filesystem import atomic_file
from shardcast.open_files import close
from shardcast.store.interfaces import BlobReader
from shardcast.store.output_part import clear_killed, resolve_output

_CHUNK = 1 << 20


@click.command(context_settings=SETTINGS, short_help="List the blobs in DIRECTORY.")
@directory_argument
@click.option("--long", "-l", is_flag=True, help="With size, time and forms.")
@click.option("--quarantined", is_flag=True, help="List the blobs set aside instead, and why.")
@options.json_option
@options.logging_options
def ls(directory: Path, long: bool, quarantined: bool, as_json: bool) -> None:
    """List the blobs in DIRECTORY, in no order; as JSON, one object a line."""
    options.start_logging()
    store = open_store(directory)
    if quarantined:
        for entry in Quarantine(store.folder).entries():
            line = f"{entry.digest}  {_when(entry.since)}  {entry.reason}"
            print_answer(json.dumps(asdict(entry)) if as_json else line)
        return
    for lines in _listed(store, long, as_json):
        if lines:
            print_answer("\n".join(lines))


def _listed(store: BlobDirectory, long: bool, as_json: bool) -> Iterator[list[str]]:
    """Yield the lines of a listing, some at a time.

    Raises:
        LocalDiskError: the directory can't be listed.
    """
    with disk_errors("could not list", Path(store.folder.root)):
        for digests in store.folder.entries():
            if long or as_json:
                described = (describe(store.folder, digest) for digest in digests)
                yield [_as_json(blob) if as_json else _line(blob) for blob in described if blob]
            else:
                yield digests


@click.command(context_settings=SETTINGS)
@click.argument("digest", type=Digest())
@directory_option
@options.json_option
@options.logging_options
def stat(digest: str, directory: Path, as_json: bool) -> None:
    """Describe the blob DIGEST. The bytes are not read."""
    options.start_logging()
    store = open_store(directory)
    with disk_errors("could not look at", directory):
        found = describe(store.folder, digest)
    if found is None:
        raise BlobMissing(f"{digest} is not in {directory}")
    if as_json:
        print_answer(_as_json(found))
        return
    for name, value in asdict(found).items():
        shown = _when(value) if name == "modified" else " ".join(value) if name == "forms" else value
        print_answer(f"{name + ':':<10} {'unknown' if shown is None else shown}")


@click.command(context_settings=SETTINGS)
@click.argument("digests", nargs=-1, type=Digest())
@directory_option
@from_file_option
@options.json_option
@options.logging_options
def has(digests: tuple[str, ...], directory: Path, from_file: IO[str] | None, as_json: bool) -> int:
    """Print whether each of DIGESTS is here. The exit code is 3 if one is missing."""
    options.start_logging()
    store = open_store(directory)
    asked = read_digest_arguments(digests, from_file)
    present = store.lookup.present(asked)
    if as_json:
        print_answer(json.dumps(dict(zip(asked, present, strict=True))))
    else:
        flags = zip(asked, present, strict=True)
        lines = [f"{digest}  {'here' if has_it else 'missing'}" for digest, has_it in flags]
        print_answer("\n".join(lines))
    return DONE if all(present) else NOT_OFFERED


@click.command(context_settings=SETTINGS)
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, allow_dash=True)
)
@directory_option
@click.option("--algorithm", help="The digest of a new store: sha256 (the default) or sha3-256.")
@click.option("--layout", help="The layout of a new directory: prefix (the default) or flat.")
@options.json_option
@options.logging_options
def put(
    files: tuple[str, ...], directory: Path, *, algorithm: str | None, layout: str | None, as_json: bool
) -> None:
    """Put FILES, and print their digests, one a line; - is stdin. A missing directory is made."""
    options.start_logging()
    from shardcast.nodes.runtime import run

    store = open_store(directory, True, algorithm, layout, make=True)

    async def work(display: Display) -> None:
        """Put the files one after the other, and print their digests."""
        try:
            done = 0
            for name in files:
                digest, size = await _put(store, name, display, done)
                done += size
                stored = {"file": name, "digest": digest, "size": size}
                display.erase()
                click.echo(json.dumps(stored) if as_json else digest)
        finally:
            await store.close()

    with progress_display(options.is_quiet()) as display:
        run(work(display))


async def _put(store: BlobDirectory, name: str, display: Display, before: int) -> tuple[str, int]:
    """Put a file, and return the file's digest and size.

    Raises:
        LocalDiskError: the file can't be read, or the blob can't be kept.
    """
    size = 0
    with ExitStack() as stack:
        with disk_errors("could not read", Path(name)):
            file = input_descriptor() if name == "-" else open_input(name)
        if name != "-":
            stack.callback(close, file)
        async with store.put() as writer:
            while True:
                with disk_errors("could not read", Path(name)):
                    data = await read_some(file, _CHUNK)
                if not data:
                    return await writer.commit(), size
                await writer.write(data)
                size += len(data)
                display.show("put", before + size, None, name)


@click.command(context_settings=SETTINGS)
@click.argument("digest", type=Digest())
@directory_option
@options.option(
    "--output",
    "-o",
    env="STORE_OUTPUT",
    type=options.NamedPath(path_type=Path, dir_okay=False),
    help="The output file, named only when complete and verified; by default stdout.",
)
@options.logging_options
def get(digest: str, directory: Path, output: Path | None) -> None:
    """Get the blob DIGEST, verified."""
    options.start_logging()
    from shardcast.nodes.runtime import run

    store = open_store(directory)
    with progress_display(options.is_quiet()) as display:
        run(_get(store, digest, output, display))


async def _get(store: BlobDirectory, digest: str, output: Path | None, display: Display) -> None:
    """Write a blob to stdout, or to a file named only when complete and verified.

    Raises:
        BlobMissing: the blob isn't here.
        BlobCorrupt: the blob's files are wrong, or changed while being read.
        LocalDiskError: the blob can't be read, or the file not be written.
    """
    async with store.open(digest) as reader:
        if output is None or str(output) == "-":
            await _write(reader, answer_descriptor(), store.algorithm, digest, display=display)
            return
        with disk_errors("could not write", output):
            target = resolve_output(output)
            with atomic_file(target) as descriptor:
                await _write(reader, descriptor, store.algorithm, digest, display=display)
            clear_killed(target)


async def _write(
    reader: BlobReader, descriptor: int, algorithm: str, digest: str, *, display: Display
) -> None:
    """Write a blob to a descriptor, and show the progress.

    Raises:
        BlobCorrupt: the blob changed after the verification.
    """
    hasher, done = new_hasher(algorithm), 0
    while data := await reader.read(_CHUNK):
        hasher.update(data)
        await write_all(descriptor, data)
        done += len(data)
        display.show(digest[:12], done, reader.size, "")
    if hasher.hexdigest() != digest:
        raise BlobCorrupt(f"{digest} changed while it was read; get it again")


def _line(blob: BlobDescription) -> str:
    """Return a blob's line in a long listing."""
    size = "-" if blob.size is None else str(blob.size)
    return f"{blob.digest}  {size:>14}  {_when(blob.modified)}  {','.join(blob.forms)}"


def _as_json(blob: BlobDescription) -> str:
    """Return a blob's description as JSON."""
    return json.dumps(asdict(blob))


def _when(seconds: float) -> str:
    """Return a time as the local date and time."""
    return shown_time(seconds, with_seconds=True)
