"""Who refers to the blobs of a store: named sources of digests.

A source that can't be read to its end, or understood, is an error: what it would have named would look as if
nobody referred to it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardcast.blobs.digest_lists import AS_TEXT, bounded_lines, read_digests
from shardcast.blobs.directory.layout import OWN, Folder, make_own
from shardcast.constants import DISTRIBUTION_FILE, MANIFEST_FILE
from shardcast.digest import is_digest
from shardcast.errors import LocalDiskError, UsageError
from shardcast.filesystem import disk_errors, sync_folder
from shardcast.protocol.distribution import parse
from shardcast.protocol.manifest_reader import Aborted, ManifestError, ManifestReader
from shardcast.protocol.wire import version_name, version_number
from shardcast.store.data_dir import own_folder


@dataclass(frozen=True, slots=True)
class Root:
    """One source.

    Attributes:
        name: what it is, and where.
        algorithm: of the digests that it names; None where it can name any.
        read: gives them.
    """

    name: str
    algorithm: str | None
    read: Callable[[], Iterable[str]]


def pins(folder: Folder) -> Root:
    """The blobs that are pinned in their directory."""
    return Root("pins", None, lambda: _pinned(folder))


def snapshot(file: Path, algorithm: str | None = None) -> Root:
    """A file with digests, one a line, as ``read_digests`` takes them."""

    def read() -> Iterator[str]:
        with disk_errors("could not read", file), file.open(**AS_TEXT) as lines:
            yield from read_digests(lines, str(file), algorithm)

    return Root(f"snapshot {file.resolve()}", None, lambda: _as_disk_errors(read()))


def registry_references(file: Path) -> Root:
    """A file of what ``put_hash`` returned, one JSON object a line."""
    return Root(f"registry-references {file.resolve()}", "sha256", lambda: _as_disk_errors(_referenced(file)))


def data_dir(root: Path) -> Root:
    """The shards and payloads of a data directory's versions, complete and open ones, whether or not a node
    works on it."""
    return Root(f"data-dir {root.resolve()}", "sha256", lambda: _of_versions(root))


def read_all(roots: Iterable[Root], algorithm: str) -> set[bytes]:
    """The digests, as bytes, that any of these names.

    Raises:
        UsageError: one names digests of another algorithm than the store's.
        LocalDiskError: one can't be read.
    """
    found: set[bytes] = set()
    for root in roots:
        if root.algorithm not in (None, algorithm):
            raise UsageError(f"{root.name} names {root.algorithm}, and this store is of {algorithm}")
        found.update(map(bytes.fromhex, root.read()))
    return found


def pin(folder: Folder, digest: str) -> None:
    """Keep a blob, durably, until it is unpinned, also one that isn't here yet.

    Raises:
        LocalDiskError: it can't be written down.
    """
    place = _pins(folder)
    with disk_errors("could not pin in", place):
        make_own(place)
        with contextlib.suppress(FileExistsError):
            (place / digest).touch(exist_ok=False)
        sync_folder(place)


def unpin(folder: Folder, digest: str) -> bool:
    """Let a blob go its way again; whether it was pinned.

    Raises:
        LocalDiskError: it can't be written down.
    """
    name = _pins(folder) / digest
    with disk_errors("could not unpin", name):
        if not name.exists():
            return False
        name.unlink(missing_ok=True)
        sync_folder(name.parent)
    return True


def _pins(folder: Folder) -> Path:
    return Path(folder.root) / OWN / "pinned"


def _pinned(folder: Folder) -> Iterator[str]:
    place = _pins(folder)
    with disk_errors("could not read", place):
        try:
            names = [entry.name for entry in place.iterdir()]
        except FileNotFoundError:  # nothing was ever pinned; whatever else is wrong ends the run
            return
    yield from filter(is_digest, names)


def _as_disk_errors(digests: Iterator[str]) -> Iterator[str]:
    try:
        yield from digests
    except UsageError as error:
        raise LocalDiskError(str(error)) from error


def _referenced(file: Path) -> Iterator[str]:
    with disk_errors("could not read", file), file.open("rb") as lines:
        for number, line in enumerate(bounded_lines(lines, str(file)), 1):
            if not line.strip():
                continue
            try:
                values: Any = json.loads(line)
            except (ValueError, RecursionError):
                raise LocalDiskError(f"{file}, line {number}: that is no JSON") from None
            if values is None:
                continue
            digest = str(values.get("sha256")) if isinstance(values, dict) else ""
            if not is_digest(digest):
                raise LocalDiskError(
                    f"{file}, line {number}: it names no sha256; an MD5 can't tell which blob is meant"
                )
            yield digest


def _of_versions(root: Path) -> Iterator[str]:
    with disk_errors("could not read", root):
        if not own_folder(root).is_dir() and not (root / DISTRIBUTION_FILE).is_file():
            raise LocalDiskError(f"{root} is no data directory")
        # A version may leave its place or come back meanwhile, when the node changes over to another line.
        yield from _of_other_lines(root)
        listed = _listed(root)
        numbers = {version_number(entry.name) or 0 for entry in root.iterdir()} - {0}
        for number in sorted(numbers | listed):
            yield from _of_version(root, number, number in listed)
        yield from _of_other_lines(root)


def _of_other_lines(root: Path) -> Iterator[str]:
    """The digests of versions that were put aside, and may come back."""
    for line in _names_in(own_folder(root) / "lines"):
        for version in _names_in(line):
            number = version_number(version.name.partition("-")[0])
            if number:
                yield from _of_manifest(version / MANIFEST_FILE, root, number, listed=False)


def _names_in(folder: Path) -> list[Path]:
    """What is in a folder; nothing where there is none. (``glob`` passes over what can't be read.)

    Raises:
        OSError: it can't be read.
    """
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _of_version(root: Path, number: int, listed: bool) -> Iterator[str]:
    yield from _of_manifest(root / version_name(number) / MANIFEST_FILE, root, number, listed)


def _of_manifest(file: Path, root: Path, number: int, listed: bool) -> Iterator[str]:
    try:
        raw = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if listed and number in _listed(root):  # it wasn't retired meanwhile
            raise LocalDiskError(
                f"{file} isn't there, so that nobody knows the version's shards; run a node on {root} once"
            ) from None
        return  # it has gone, or nothing is known of it yet
    reader = ManifestReader(version_name(number))
    try:
        reader.feed(raw[: raw.rfind(b"\n") + 1])  # an open version's last line is still being written
    except Aborted:
        pass
    except ManifestError as error:
        raise LocalDiskError(f"{file}: {error}") from error
    if listed and reader.digests is None:
        raise LocalDiskError(f"{file} ends without its closing line, and the version is complete")
    for shard in reader.shards:
        if shard.sha256 is None:
            raise LocalDiskError(f"{file} doesn't tell the SHA-256 of shard {shard.number}")
        yield shard.sha256
    if reader.digests and "sha256" in reader.digests:
        yield reader.digests["sha256"]


def _listed(root: Path) -> set[int]:
    """The numbers of the versions that are offered."""
    try:
        raw = (root / DISTRIBUTION_FILE).read_bytes()
    except FileNotFoundError:
        return set()
    try:
        found = parse(raw)
    except ValueError as error:
        raise LocalDiskError(f"{root / DISTRIBUTION_FILE} is {error}") from None
    return {one.number for one in found.settled(found).listings}
