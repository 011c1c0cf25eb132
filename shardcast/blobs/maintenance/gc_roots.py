"""Roots of garbage collection: named sources of the digests of blobs in use.

A source not read to its end, or not understood, is an error: its blobs would count as unreferenced.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardcast.blobs.digest_lists import OPEN_ARGUMENTS, bounded_lines, read_digests
from shardcast.blobs.directory.layout import OWN_FOLDER, Folder, make_own_folder
from shardcast.constants import DISTRIBUTION_FILE, MANIFEST_FILE
from shardcast.digest import is_digest
from shardcast.directories import sync_folder
from shardcast.disk_errors import disk_errors
from shardcast.errors import LocalDiskError, UsageError
from shardcast.json_text import parse_json
from shardcast.protocol.distribution import parse
from shardcast.protocol.manifest_reader import Aborted, ManifestError, ManifestReader
from shardcast.protocol.wire import version_name, version_number
from shardcast.store.data_dir_layout import own_folder


@dataclass(frozen=True, slots=True)
class Root:
    """A source of digests.

    Attributes:
        name: kind and place.
        algorithm: the algorithm of its digests; None for digests of any algorithm.
        read: returns its digests; raises LocalDiskError.
    """

    name: str
    algorithm: str | None
    read: Callable[[], Iterable[str]]


def pins(folder: Folder) -> Root:
    """Return the root of the blobs pinned in their directory."""
    return Root("pins", None, lambda: _pinned(folder))


def snapshot(file: Path, algorithm: str | None = None) -> Root:
    """Return the root of a file with digests, in the formats of ``read_digests``."""

    def read() -> Iterator[str]:
        with disk_errors("could not read", file), file.open(**OPEN_ARGUMENTS) as lines:
            yield from read_digests(lines, str(file), algorithm)

    return Root(f"snapshot {file.resolve()}", None, lambda: _as_disk_errors(read()))


def registry_references(file: Path) -> Root:
    """Return the root of a file with the results of ``put_hash``, one JSON object a line."""
    return Root(f"registry-references {file.resolve()}", "sha256", lambda: _as_disk_errors(_referenced(file)))


def data_dir(root: Path) -> Root:
    """Return the root of a data directory: the shards and payloads of its complete and open versions.

    A node may be at work on the directory, or not.
    """
    return Root(f"data-dir {root.resolve()}", "sha256", lambda: _of_versions(root))


def read_all(roots: Iterable[Root], algorithm: str) -> set[bytes]:
    """Return the digests of all roots, as bytes, for a store of this ``algorithm``.

    Raises:
        UsageError: a root names digests of another algorithm.
        LocalDiskError: a root can't be read.
    """
    found: set[bytes] = set()
    for root in roots:
        if root.algorithm not in (None, algorithm):
            raise UsageError(f"{root.name} has digests of {root.algorithm}, and this store uses {algorithm}")
        found.update(map(bytes.fromhex, root.read()))
    return found


def pin(folder: Folder, digest: str) -> None:
    """Pin a blob durably, to keep it from gc until unpinned; the blob need not be here yet.

    Raises:
        LocalDiskError: the pin can't be written.
    """
    place = _pins(folder)
    with disk_errors("could not pin in", place):
        make_own_folder(place)
        with contextlib.suppress(FileExistsError):
            (place / digest).touch(exist_ok=False)
        sync_folder(place)


def unpin(folder: Folder, digest: str) -> bool:
    """Remove a blob's pin durably, and return whether there was one.

    Raises:
        LocalDiskError: the pin can't be removed.
    """
    name = _pins(folder) / digest
    with disk_errors("could not unpin", name):
        if not name.exists():
            return False
        name.unlink(missing_ok=True)
        sync_folder(name.parent)
    return True


def _pins(folder: Folder) -> Path:
    """Return the folder of the pins: empty files named by digests."""
    return Path(folder.root) / OWN_FOLDER / "pinned"


def _pinned(folder: Folder) -> Iterator[str]:
    """Yield the pinned digests."""
    place = _pins(folder)
    with disk_errors("could not read", place):
        try:
            names = [entry.name for entry in place.iterdir()]
        except FileNotFoundError:  # no blob was ever pinned; every other error ends the run
            return
    yield from filter(is_digest, names)


def _as_disk_errors(digests: Iterator[str]) -> Iterator[str]:
    """Yield digests, and raise LocalDiskError instead of UsageError."""
    try:
        yield from digests
    except UsageError as error:
        raise LocalDiskError(str(error)) from error


def _referenced(file: Path) -> Iterator[str]:
    """Yield the SHA-256 of each result of ``put_hash`` in a file; a result of None names no blob."""
    with disk_errors("could not read", file), file.open("rb") as lines:
        for number, line in enumerate(bounded_lines(lines, str(file)), 1):
            if not line.strip():
                continue
            try:
                values: Any = parse_json(line)
            except ValueError:
                raise LocalDiskError(f"{file}, line {number}: no JSON") from None
            if values is None:
                continue
            digest = str(values.get("sha256")) if isinstance(values, dict) else ""
            if not is_digest(digest):
                raise LocalDiskError(f"{file}, line {number}: no sha256; an MD5 does not identify a blob")
            yield digest


def _of_versions(root: Path) -> Iterator[str]:
    """Yield the digests of a data directory's versions."""
    with disk_errors("could not read", root):
        if not own_folder(root).is_dir() and not (root / DISTRIBUTION_FILE).is_file():
            raise LocalDiskError(f"{root} is no data directory")
        # Other lines first and last: a version moves there, or back, when the node changes its line.
        yield from _of_other_lines(root)
        listed = _listed(root)
        numbers = {version_number(entry.name) or 0 for entry in root.iterdir()} - {0}
        for number in sorted(numbers | listed):
            yield from _of_version(root, number, number in listed)
        yield from _of_other_lines(root)


def _of_other_lines(root: Path) -> Iterator[str]:
    """Yield the digests of the versions of other lines, which may come back."""
    for line in _names_in(own_folder(root) / "lines"):
        for version in _names_in(line):
            number = version_number(version.name.partition("-")[0])
            if number:
                yield from _of_manifest(version / MANIFEST_FILE, root, number, listed=False)


def _names_in(folder: Path) -> list[Path]:
    """Return the paths in a folder; none where there is no folder.

    ``glob`` would pass over an unreadable folder.

    Raises:
        OSError: the folder can't be read.
    """
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _of_version(root: Path, number: int, listed: bool) -> Iterator[str]:
    """Yield the digests of a version of the current line."""
    yield from _of_manifest(root / version_name(number) / MANIFEST_FILE, root, number, listed)


def _of_manifest(file: Path, root: Path, number: int, listed: bool) -> Iterator[str]:
    """Yield the SHA-256 of a manifest's shards and payload; a ``listed`` version must have all of them.

    Raises:
        LocalDiskError: the manifest can't be understood, or lacks digests.
    """
    try:
        raw = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if listed and number in _listed(root):  # still: else it was retired meanwhile
            raise LocalDiskError(
                f"{file} is missing, so the version's shards are unknown; run a node on {root} once"
            ) from None
        return  # the version has gone, or has no manifest yet
    reader = ManifestReader(version_name(number))
    try:
        reader.feed(raw[: raw.rfind(b"\n") + 1])  # an open version's last line is still being written
    except Aborted:
        pass
    except ManifestError as error:
        raise LocalDiskError(f"{file}: {error}") from error
    if listed and reader.digests is None:
        raise LocalDiskError(f"{file} ends without its closing line although the version is complete")
    for shard in reader.shards:
        if shard.sha256 is None:
            raise LocalDiskError(f"{file} has no SHA-256 of shard {shard.number}")
        yield shard.sha256
    if reader.digests and "sha256" in reader.digests:
        yield reader.digests["sha256"]


def _listed(root: Path) -> set[int]:
    """Return the numbers of the versions in the distribution list."""
    try:
        raw = (root / DISTRIBUTION_FILE).read_bytes()
    except FileNotFoundError:
        return set()
    try:
        found = parse(raw)
    except ValueError as error:
        raise LocalDiskError(f"{root / DISTRIBUTION_FILE} is {error}") from None
    return {listing.number for listing in found.settle(found).listings}
