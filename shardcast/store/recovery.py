"""What a data directory holds when its node starts: which of its versions are still whole."""

from __future__ import annotations

from collections.abc import Callable

from shardcast.errors import LocalDiskError
from shardcast.file_identity import FileIdentity
from shardcast.filesystem import replace
from shardcast.protocol.distribution import Listing, parse
from shardcast.protocol.manifest import Manifest
from shardcast.protocol.manifest_reader import ManifestError
from shardcast.protocol.manifest_reader import parse as parse_manifest
from shardcast.store.data_dir import DataDir
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.verified import VerificationRecord, identity_if_right, recorded_identity
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
    """Return the manifest of a listed version whose shards are all here; None where it has none. What looks
    otherwise than it did when it was verified is hashed; if it is right, its looks are remembered.

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
        unchanged = recorded_identity(place.payload) == looks
        if manifest is None or not (unchanged or recall_payload(place, manifest)):
            raise LocalDiskError("its file was changed after it was published without a copy")
        return manifest
    count = len(manifest.shards) if manifest else listing.shards
    for shard in range(1, (1 if count is None else count) + 1):
        path = place.shard(shard)
        if not path.is_file():
            raise LocalDiskError(f"{path.name} is missing")
        if manifest and path.stat().st_size != manifest.shards[shard - 1].size:
            raise LocalDiskError(f"{path.name} has {path.stat().st_size} bytes")
    record = VerificationRecord(place.verified)
    verified = record.read()
    for shard, (sha256, looks) in list(verified.items()):
        path = place.shard(shard)
        if not path.exists() or recorded_identity(path) == looks:
            continue
        now = identity_if_right(path, [(0, path.stat().st_size, sha256)])
        if now is None:
            raise LocalDiskError(f"{path.name} was changed since it was verified")
        verified[shard] = sha256, now
    if verified != record.read():
        record.write(verified)
    return manifest


def recall_payload(
    place: VersionPlace, manifest: Manifest, stop: Callable[[], bool] = lambda: False
) -> FileIdentity | None:
    """Hash a payload that was published without a copy and looks otherwise than it did; return its looks,
    remembered, if it is right, else None. Blocks on the disk.

    Raises:
        OSError: it can't be read.
    """
    try:
        if place.payload.stat().st_size != manifest.size:
            return None
        spans = ((shard.offset, shard.size, shard.sha256) for shard in manifest.shards)
        looks = identity_if_right(place.payload, spans, stop)
    except FileNotFoundError:
        return None
    if looks:
        replace(place.linked, looks.text.encode())
    return looks


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
