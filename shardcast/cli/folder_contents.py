"""Printing of a folder's entries, and of the differences between a copy on the disk and its version."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from shardcast.cli.streams import print_answer
from shardcast.cli.times import shown_time
from shardcast.errors import IntegrityError, LocalDiskError, UsageError
from shardcast.folders.contents import ContainedFile, contained_files, folder_layout
from shardcast.folders.kept import kept_manifest, kept_selection
from shardcast.folders.verification import Difference, FolderVerification
from shardcast.nodes.output_records import read_bounded
from shardcast.plain_text import one_line
from shardcast.protocol.manifest import Manifest
from shardcast.protocol.manifest_reader import MAX_MANIFEST, ManifestError, parse
from shardcast.sizes import format_count, format_size

_LONGEST_PATH = 8192
"""Maximum characters shown of a path, or of a link's target."""
_TYPES = {"file": "-", "link": "h", "symlink": "l", "folder": "d"}


def show_contents(manifest: Manifest, as_json: bool) -> None:
    """Print a line for each entry of a folder: mode, size, time, path; or all as JSON.

    Raises:
        UsageError: the version is a file.
        IntegrityError: the manifest's list is wrong.
    """
    if manifest.header.folder is None:
        raise UsageError(f"{manifest.version} is a file, {manifest.header.name!r}, not a folder")
    try:
        entries = list(contained_files(manifest))
    except ManifestError as error:
        raise IntegrityError(f"{manifest.version}: its list of files is wrong: {error}") from None
    if as_json:
        print_answer(json.dumps([asdict(entry) for entry in entries], indent=2))
    elif entries:
        print_answer("\n".join(_lines(entries)))


def verify_output(folder: Path, as_json: bool) -> None:
    """Compare a downloaded folder with its version, and print the differences.

    Raises:
        UsageError: there is no manifest beside the folder.
        IntegrityError: there are differences.
        LocalDiskError: the folder or its manifest can't be read.
    """
    manifest = _read_kept(folder)
    try:
        layout = folder_layout(manifest)
    except ManifestError as error:
        raise LocalDiskError(f"{kept_manifest(folder)}: {error}; download the version again") from None
    if layout is None:
        raise UsageError(f"{folder}: {manifest.version} is a file; its digest is in the list of versions")
    selection = kept_selection(folder, manifest, layout.table)
    differences = list(FolderVerification(folder, layout, manifest, selection).run())
    if as_json:
        print_answer(json.dumps({"version": manifest.version, "differences": list(map(asdict, differences))}))
    elif differences:
        print_answer("\n".join(map(_line, differences)))
    if differences:
        count = format_count(len(differences), "difference")
        raise IntegrityError(f"{folder} is not {manifest.version} as it was published: {count}")
    if not as_json:
        here = filter(selection.has_bytes_of, range(len(layout.table)))
        what = manifest.version if selection.is_all else f"a part of {manifest.version}"
        size = format_size(sum(map(layout.table.size, here)))
        click.echo(f"{folder} is {what} as it was published: {size} in its files", err=True)


def _read_kept(folder: Path) -> Manifest:
    """Return the manifest beside a downloaded folder.

    Raises:
        UsageError: there is none.
        LocalDiskError: the manifest can't be read, or is damaged.
    """
    if not folder.is_dir():
        raise UsageError(f"--verify {folder}: there is no such folder")
    path = kept_manifest(folder)
    try:
        return parse(read_bounded(path, MAX_MANIFEST))
    except FileNotFoundError:
        raise UsageError(
            f"--verify {folder}: its version is unknown: {path.name} is not beside it; "
            "download the folder again"
        ) from None
    except OSError as error:
        raise LocalDiskError(f"could not read {path}: {error.strerror}") from error
    except ManifestError as error:
        raise LocalDiskError(f"{path} is damaged: {error}; download the version again") from None


def _lines(entries: list[ContainedFile]) -> Iterator[str]:
    """Yield a line for each entry, as ``ls -l`` has them."""
    width = max(len(str(entry.size)) for entry in entries)
    for entry in entries:
        mode = _TYPES[entry.kind] + stat.filemode(entry.mode)[1:]
        at = "-" if entry.kind == "folder" else shown_time(entry.mtime)
        arrow = {"symlink": " -> ", "link": " link to "}.get(entry.kind, "")
        path = one_line(entry.path + arrow + (entry.link or ""), _LONGEST_PATH)
        yield f"{mode} {entry.size:>{width}} {at:<16} {path}"


def _line(difference: Difference) -> str:
    return one_line(f"{difference.path}: {difference.what}", _LONGEST_PATH)
