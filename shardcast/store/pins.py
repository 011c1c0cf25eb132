"""Versions that stay in a data directory until they are unpinned; blocks on the disk."""

from __future__ import annotations

from shardcast.errors import VersionNotOffered
from shardcast.filesystem import disk_errors, replace, sync_folder
from shardcast.protocol.wire import version_name, version_number
from shardcast.store.data_dir import DataDir
from shardcast.store.recovery import listed


def pinned(data_dir: DataDir) -> set[int]:
    """The numbers of those that are pinned.

    Raises:
        LocalDiskError: it can't be read.
    """
    with disk_errors("could not read", data_dir.pinned):
        return {version_number(entry.name) or 0 for entry in data_dir.pinned.iterdir()} - {0}


def pin(data_dir: DataDir, version: str) -> int:
    """Keep a version, durably; its number.

    Raises:
        VersionNotOffered: it is not here, or not complete.
        LocalDiskError: it could not be written down.
    """
    with disk_errors("could not read", data_dir.distribution):
        here = {one.version: one.number for one in listed(data_dir)}
    if version not in here:
        there = ", ".join(here) or "nothing"
        raise VersionNotOffered(f"{version} is not complete in {data_dir.root}, which holds {there}")
    replace(data_dir.pinned / version, b"")
    return here[version]


def unpin(data_dir: DataDir, version: str) -> int:
    """Let a version go its way again; its number.

    Raises:
        VersionNotOffered: it is not pinned.
        LocalDiskError: it could not be written down.
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
