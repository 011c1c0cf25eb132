"""The pins of a data directory: files to keep a version until unpinned. All of this blocks."""

from __future__ import annotations

from shardcast.directories import sync_folder
from shardcast.disk_errors import disk_errors
from shardcast.errors import VersionNotOffered
from shardcast.filesystem import replace
from shardcast.protocol.wire import version_name, version_number
from shardcast.store.data_dir import DataDir
from shardcast.store.recovery import read_list


def pinned(data_dir: DataDir) -> set[int]:
    """Return the numbers of the pinned versions.

    Raises:
        LocalDiskError: the folder of pins can't be read.
    """
    with disk_errors("could not read", data_dir.pinned):
        return {version_number(entry.name) or 0 for entry in data_dir.pinned.iterdir()} - {0}


def pin(data_dir: DataDir, version: str) -> int:
    """Pin a version, durably, and return its number.

    Raises:
        VersionNotOffered: the version is not here, or not complete.
        LocalDiskError: the pin could not be written.
    """
    with disk_errors("could not read", data_dir.distribution):
        here = {listing.version: listing.number for listing in read_list(data_dir)}
    if version not in here:
        names = ", ".join(here) or "nothing"
        raise VersionNotOffered(f"{version} is not complete in {data_dir.root}, which holds {names}")
    replace(data_dir.pinned / version, b"")
    return here[version]


def unpin(data_dir: DataDir, version: str) -> int:
    """Unpin a version, durably, and return its number.

    Raises:
        VersionNotOffered: the version is not pinned.
        LocalDiskError: the pin could not be removed.
    """
    number = version_number(version) or 0
    known = pinned(data_dir)
    if number not in known:
        names = ", ".join(map(version_name, sorted(known))) or "nothing"
        raise VersionNotOffered(f"{version} is not pinned in {data_dir.root}; pinned there: {names}")
    with disk_errors("could not unpin", data_dir.pinned / version):
        (data_dir.pinned / version).unlink(missing_ok=True)
        sync_folder(data_dir.pinned)
    return number
