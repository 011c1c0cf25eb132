"""Withdrawal of a version in a data directory without a running origin."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from shardcast.disk_errors import disk_errors
from shardcast.errors import UsageError, VersionNotOffered
from shardcast.nodes.open_data_dir import open_data_dir
from shardcast.nodes.output_records import read_bounded
from shardcast.protocol.distribution import Withdrawal
from shardcast.protocol.lines import MAX_LINE
from shardcast.protocol.manifest_reader import ManifestReader
from shardcast.protocol.wire import version_number
from shardcast.store.data_dir import DataDir
from shardcast.store.recovery import read_list

_ROLE = "withdraw"


async def withdraw_in(data_dir: Path, version: str, reason: str) -> Withdrawal:
    """Withdraw a version published into a data directory; the next origin there announces the withdrawal.

    Raises:
        UsageError: the version was published elsewhere: this is a middle's directory.
        VersionNotOffered: the version is not there.
        DataDirInUse: another process holds the directory.
        LocalDiskError: the directory can't be used.
    """
    # Before opening: opening a middle's directory as an origin's would discard the middle's landings.
    await asyncio.to_thread(_check_own, data_dir, version)
    async with open_data_dir(data_dir, _ROLE) as folders:
        return await folders.withdraw_own(version, reason)


def _check_own(data_dir: Path, version: str) -> None:
    """Check that a version is in a data directory, and was published by the origin there.

    Raises:
        VersionNotOffered: the version is not complete there.
        UsageError: another origin published the version.
        DataDirInUse: another process holds the directory.
        LocalDiskError: the directory can't be read.
    """
    with contextlib.closing(DataDir(data_dir, _ROLE)) as held:
        with disk_errors("could not read", held.distribution):
            versions = [listing.version for listing in read_list(held)]
        if version not in versions:
            found = ", ".join(versions) or "nothing"
            raise VersionNotOffered(f"{version} is not complete in {held.root}, which holds {found}")
        manifest = held.manifest(version_number(version) or 0)
        reader = ManifestReader(version)
        try:
            first_line = read_bounded(manifest, MAX_LINE).partition(b"\n")[0]
            reader.feed(first_line + b"\n")
        except (OSError, ValueError):  # 0.1.0 wrote no manifest; a broken one is logged when it is loaded
            return
        origin = reader.header.origin if reader.header else None
        if origin not in (None, held.origin_id):
            raise UsageError(
                f"{version} in {held.root} was published elsewhere: only the origin of {version} withdraws "
                "it; name its data directory"
            )
