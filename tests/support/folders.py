"""A data directory over restarts of its node, in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from shardcast.protocol.feed import Event
from shardcast.protocol.manifest import Manifest
from shardcast.store.data_dir import DataDir
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.open_version import OpenVersion
from shardcast.store.versions import VersionFolders
from tests.support import payloads


class Clock:
    """A clock that a test sets, in seconds."""

    now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class StoredNode:
    """Data directory of a node that can start again.

    Attributes:
        root: the folder.
        clock: the clock of the version folders.
        warnings: warnings of the last start.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = Clock()
        self.warnings: list[str] = []
        self._held: DataDir | None = None

    def start(
        self,
        role: str = "middle",
        keep: int = 15,
        max_bytes: int | None = None,
        after_step: Callable[[str], None] | None = None,
    ) -> VersionFolders:
        """Start, after the end of an earlier start, and return the version folders."""
        self.stop()
        self._held = DataDir(self.root, role)
        folders = VersionFolders(self._held, keep, self.clock, max_bytes)
        if after_step:
            folders.after_step = after_step
        self.warnings = folders.load(resume=role == "middle")
        return folders

    def stop(self) -> None:
        """Release the data directory."""
        if self._held:
            self._held.close()
            self._held = None

    @property
    def listed(self) -> list[str]:
        """Versions in ``distribution.txt``."""
        return [line.partition(":")[0] for line in (self.root / "distribution.txt").read_text().splitlines()]


async def receive_shards(
    opened: OpenVersion, manifest: Manifest, data: bytes, shards: int | None = None
) -> int:
    """Land the missing bytes of the first ``shards``, as a transfer does, and return their number."""
    fetched = 0
    for shard in manifest.shards[:shards]:
        landing = await opened.landing(shard)
        try:
            for start, end in landing.missing():
                await landing.land(start, data[shard.offset + start : shard.offset + end])
                fetched += end - start
            await opened.commit_shard(landing)
        finally:
            landing.close()
    return fetched


async def receive_version(
    folders: VersionFolders,
    data: bytes,
    version: str,
    origin: str | None = payloads.ORIGIN,
    *,
    shard_size: int = payloads.SHARD,
) -> int:
    """Receive a whole version, and return how many of its bytes were missing."""
    manifest = payloads.manifest(data, version, shard_size, origin=origin)
    opened = folders.opened(int(version[1:]))
    if opened is None or opened.live.raw != manifest.raw:
        opened = await folders.begin_version(int(version[1:]), LiveManifest.of(manifest))
    fetched = await receive_shards(opened, manifest, data)
    await opened.complete(manifest)
    return fetched


def events_since(folders: VersionFolders, since: int) -> list[str]:
    """Return the events since a number as the feed sends them: ``complete v1``."""
    return list(map(_words, folders.events.events_after(since) or []))


def snapshot(folders: VersionFolders) -> list[str]:
    """Return the events that the feed sends to a new reader."""
    return list(map(_words, folders.versions_now()))


def _words(event: Event) -> str:
    """Return an event as two words."""
    return f"{event.kind} {event.version}"
