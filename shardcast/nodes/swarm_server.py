"""The swarm of an origin or a middle: the tracker of a data directory's versions."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from shardcast.access.server_key import load_key_seed
from shardcast.access.signing import is_available
from shardcast.access.tickets import TicketVersion
from shardcast.addresses import Network
from shardcast.concurrency import in_thread
from shardcast.protocol.wire import version_name, version_number
from shardcast.server.swarm_relay import version_key
from shardcast.server.swarm_tracker import SwarmTracker
from shardcast.store.versions import VersionFolders

log = logging.getLogger(__name__)


@asynccontextmanager
async def running_tracker(
    folders: VersionFolders, networks: Sequence[Network]
) -> AsyncIterator[SwarmTracker | None]:
    """Yield the tracker of version folders; None where the library for keys is missing.

    Args:
        folders: the versions.
        networks: where members can advertise addresses.
    """
    if not is_available():
        log.info("clients can't share versions of this node: shardcast[swarm] is not installed")
        yield None
        return
    tracker = SwarmTracker(await in_thread(load_key_seed, folders.data_dir.swarm_key), networks=networks)
    async with tracker.running():
        yield tracker


def versions_to_share(folders: VersionFolders, tracker: SwarmTracker) -> list[TicketVersion]:
    """Return the versions whose swarms a middle joins: the newest, arriving ones, and those with members."""
    numbers = {number for number, _ in tracker.table.versions()} | folders.open_numbers
    newest = max(folders.complete_numbers, default=None)
    names = (version_name(number) for number in (numbers if newest is None else numbers | {newest}))
    return [version for name in names if (version := find_version(folders, name))]


def count_members(folders: VersionFolders, tracker: SwarmTracker, name: str) -> int:
    """Return how many members the swarm of a version has, as far as this node knows."""
    version = find_version(folders, name)
    return len(tracker.table.of(version_key(version)).by_key) if version else 0


def find_version(folders: VersionFolders, name: str) -> TicketVersion | None:
    """Return the identity of a version in version folders; None for a missing one.

    An open version whose shards can't be verified one by one has no swarm.
    """
    number, complete, live = version_number(name), folders.manifest_of(name), folders.live(name)
    if number is None or not folders.held:
        return None
    manifest = complete or (live.manifest if live else None)
    if manifest:
        return TicketVersion(number, manifest.header.origin, manifest.digests.get("sha256"))
    if live and live.has_header and live.header.origin:
        return TicketVersion(number, live.header.origin)
    return None
