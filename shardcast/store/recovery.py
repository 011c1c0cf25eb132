"""The checks of a data directory's contents at a start: the list, complete versions, open manifests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace as replace_fields

from shardcast.errors import LocalDiskError
from shardcast.file_identity import FileIdentity
from shardcast.filesystem import replace
from shardcast.protocol.distribution import Listing, parse
from shardcast.protocol.manifest import Manifest
from shardcast.protocol.manifest_reader import ManifestError
from shardcast.protocol.manifest_reader import parse as parse_manifest
from shardcast.store.data_dir import DataDir
from shardcast.store.linked_files import LinkedFile, LinkedFiles
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.verified import VerificationRecord, identity_if_right, recorded_identity
from shardcast.store.version_place import VersionPlace


def read_list(data_dir: DataDir) -> tuple[Listing, ...]:
    """Return the versions of a directory's distribution list; blocks on the disk.

    Raises:
        LocalDiskError: the file is no distribution list.
        OSError: the file can't be read.
    """
    try:
        found = parse(data_dir.distribution.read_bytes() if data_dir.distribution.exists() else b"")
    except ValueError as error:
        raise LocalDiskError(f"{data_dir.distribution} is {error}") from None
    # No process writes the file now, so a last line without newline will get no more bytes.
    return found.settle(found).listings


def check_version(place: VersionPlace, listing: Listing) -> Manifest | None:
    """Check for all shards of a listed version; blocks on the disk.

    A file with another identity than the verified one is hashed; if the bytes are right, the new identity is
    recorded.

    Returns:
        The manifest; None for a version without one.

    Raises:
        LocalDiskError: a shard is missing or was changed.
        ManifestError: the manifest is malformed, or of another payload.
        OSError: a file can't be read.
    """
    manifest = (
        parse_manifest(place.manifest.read_bytes(), listing.version) if place.manifest.exists() else None
    )
    if manifest and listing.digest not in manifest.digests.values():
        raise ManifestError("its manifest has another digest")
    linked = place.linked_files
    if linked:
        if manifest is None:
            raise LocalDiskError(f"{place.manifest.name} is missing")
        if (found := recall_linked(place, linked, manifest)) is None:
            raise LocalDiskError("its file was changed after it was published without a copy")
        linked = found
    count = len(manifest.shards) if manifest else listing.shards
    for shard in range(1, (1 if count is None else count) + 1):
        if manifest and linked.find(shard, manifest.shards):
            continue
        path = place.shard(shard)
        if not path.is_file():
            raise LocalDiskError(f"{path.name} is missing")
        if manifest and path.stat().st_size != manifest.shards[shard - 1].size:
            size = manifest.shards[shard - 1].size
            raise LocalDiskError(f"{path.name} has {path.stat().st_size} bytes, not {size}")
    record = VerificationRecord(place.verified)
    verified = record.read()
    for shard, (sha256, identity) in list(verified.items()):
        path = place.shard(shard)
        if not path.exists() or recorded_identity(path) == identity:
            continue
        now = identity_if_right(path, [(0, path.stat().st_size, sha256)])
        if now is None:
            raise LocalDiskError(f"{path.name} was changed since it was verified")
        verified[shard] = sha256, now
    if verified != record.read():
        record.write(verified)
    return manifest


def recall_linked(
    place: VersionPlace,
    linked: LinkedFiles,
    manifest: Manifest,
    stop: Callable[[], bool] = lambda: False,
) -> LinkedFiles | None:
    """Hash the files published without a copy whose identity has changed; blocks on the disk.

    Args:
        place: the place of the version.
        linked: the files.
        manifest: the version's manifest.
        stop: returns whether to end early.

    Returns:
        The files with their new identities, now recorded, if all bytes are right; else None.

    Raises:
        OSError: a file can't be read.
    """
    changed = linked.changed
    if not changed:
        return linked
    recalled = []
    for file in changed:
        identity = _recall(file, manifest, stop)
        if identity is None:
            return None
        recalled.append(replace_fields(file, identity=identity))
    linked = linked.replaced(recalled)
    replace(place.linked, linked.text.encode())
    return linked


def _recall(file: LinkedFile, manifest: Manifest, stop: Callable[[], bool]) -> FileIdentity | None:
    """Return the new identity of a file with right bytes; else None."""
    now = FileIdentity.at(file.path)
    if now is None or (file.identity.size >= 0 and now.size != file.identity.size):
        return None
    shards = replace_fields(file, identity=now).shards_in(manifest.shards)
    if shards is None:
        return None
    start = shards[0].offset
    spans = ((shard.offset - start, shard.size, shard.sha256) for shard in shards)
    try:
        return identity_if_right(file.path, spans, stop)
    except FileNotFoundError:
        return None


def read_open_manifest(place: VersionPlace, version: str) -> LiveManifest:
    """Return the manifest of a formerly open version, up to its last whole line; blocks on the disk.

    Raises:
        ManifestError: the lines are no manifest's, or even the first one is incomplete.
        OSError: the manifest can't be read.
    """
    raw = place.manifest.read_bytes()
    live = LiveManifest(version)
    live.add(raw[: raw.rfind(b"\n") + 1])
    if not live.has_header:
        raise ManifestError("its first line is incomplete")
    return live
