"""What a data directory holds when its node starts: which of its versions are still whole."""

from __future__ import annotations

from shardcast.digest import sha256_of
from shardcast.distribution import Listing, parse
from shardcast.errors import LocalDiskError
from shardcast.manifest import Manifest
from shardcast.manifest_reading import ManifestError
from shardcast.manifest_reading import parse as parse_manifest
from shardcast.store.data_dir import DataDir
from shardcast.store.live import LiveManifest
from shardcast.store.verified import Verified, looks_of
from shardcast.store.version_place import VersionPlace


def listed(data_dir: DataDir) -> tuple[Listing, ...]:
    """The versions of its distribution list.

    Raises:
        LocalDiskError: that is no distribution list.
        OSError: it can't be read.
    """
    try:
        found = parse(data_dir.distribution.read_bytes() if data_dir.distribution.exists() else b"")
    except ValueError as error:
        raise LocalDiskError(f"{data_dir.distribution} is {error}") from None
    # Nobody else writes it now, so a last line without newline is all that will come.
    return found.settled(found).listings


def check(place: VersionPlace, listing: Listing) -> Manifest | None:
    """Return the manifest of a listed version whose shards are all here; None where it has none.

    Raises:
        LocalDiskError, ManifestError: a shard is missing, or something here was changed.
        OSError: a file can't be read.
    """
    manifest = (
        parse_manifest(place.manifest.read_bytes(), listing.version) if place.manifest.exists() else None
    )
    if manifest and listing.digest not in manifest.digests.values():
        raise ManifestError("its manifest has another digest")
    looks = place.looks
    if looks:
        if manifest is None or looks_of(place.payload) != looks:
            raise LocalDiskError("its file was changed after it was published without a copy")
        return manifest
    count = len(manifest.shards) if manifest else listing.shards
    for shard in range(1, (1 if count is None else count) + 1):
        path = place.shard(shard)
        if not path.is_file():
            raise LocalDiskError(f"{path.name} is missing")
        if manifest and path.stat().st_size != manifest.shards[shard - 1].size:
            raise LocalDiskError(f"{path.name} has {path.stat().st_size} bytes")
    for shard, (sha256, looks) in Verified(place.verified).read().items():
        path = place.shard(shard)
        if path.exists() and looks_of(path) != looks and sha256_of(path) != sha256:
            raise LocalDiskError(f"{path.name} was changed since it was verified")
    return manifest


def lines_of(place: VersionPlace, version: str) -> LiveManifest:
    """Return the manifest of a version that was open, as far as its lines are whole.

    Raises:
        ManifestError: they are no manifest's, or not even a first line is whole.
        OSError: it can't be read.
    """
    raw = place.manifest.read_bytes()
    live = LiveManifest(version)
    live.add(raw[: raw.rfind(b"\n") + 1])
    if not live.begun:
        raise ManifestError("its first line is not whole")
    return live
