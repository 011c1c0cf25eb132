"""Options and arguments of the store commands: the store, and the blobs."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import click

from shardcast.blobs.digest_lists import OPEN_ARGUMENTS, parse_digest, read_digests
from shardcast.blobs.directory.algorithm_record import check_algorithm
from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.directory.layout import LAYOUTS
from shardcast.cli import options
from shardcast.directories import make_folder
from shardcast.disk_errors import disk_errors
from shardcast.errors import UsageError

SETTINGS = {"help_option_names": ["-h", "--help"]}

_DIRECTORY: dict[str, Any] = {
    "type": options.NamedPath(path_type=Path),
    "envvar": ["SHARDCAST_STORE_DIRECTORY", "HASHSERVER_DIRECTORY"],
    "required": True,
}
directory_argument = click.argument("directory", **_DIRECTORY)
directory_option = click.option(
    "--directory", "-d", show_envvar=True, help="The store's directory.", **_DIRECTORY
)


class Digest(click.ParamType[str]):
    """The type of an argument for a blob's digest."""

    name = "digest"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return a digest in lower case; anything else fails the command."""
        try:
            return parse_digest(str(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)


from_file_option = options.option(
    "--from-file",
    env="STORE_FROM_FILE",
    type=click.File("r", lazy=False, **OPEN_ARGUMENTS),
    help="A file with digests, one a line, as sha256sum prints them, also with --tag; - is stdin.",
)


def read_digest_arguments(arguments: tuple[str, ...], file: IO[str] | None) -> list[str]:
    """Return the blobs named on the command line.

    Raises:
        UsageError: there are none, or a digest is malformed.
    """
    digests = [*arguments, *(read_digests(file, file.name) if file else ())]
    if not digests:
        raise UsageError("name the blobs: their digests, or --from-file with a file of them")
    return digests


def open_store(
    directory: Path,
    writable: bool = False,
    algorithm: str | None = None,
    layout: str | None = None,
    *,
    make: bool = False,
) -> BlobDirectory:
    """Open a directory of blobs; with ``make``, create a missing one after the options were checked.

    Raises:
        UsageError: there is no such directory, algorithm or layout.
        WrongStore: the directory's blobs are of another digest.
        LocalDiskError: the directory can't be used.
    """
    if layout is not None and layout not in LAYOUTS:
        raise UsageError(f"the layout must be {' or '.join(LAYOUTS)}, not {layout!r}")
    check_algorithm(algorithm)
    if make and not directory.exists():
        with disk_errors("could not make", directory):
            make_folder(directory)
    return BlobDirectory(directory, algorithm, layout, writable=writable)
