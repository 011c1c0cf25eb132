"""Import of versions without manifests, left in a data directory by older nodes."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence

from shardcast.errors import LocalDiskError, ShardcastError
from shardcast.log_fields import about
from shardcast.protocol.distribution import Listing
from shardcast.protocol.manifest import Manifest
from shardcast.protocol.wire import shard_name
from shardcast.sharding.payload_hasher import hash_payload
from shardcast.store.versions import VersionFolders

log = logging.getLogger(__name__)


async def import_legacy_versions(folders: VersionFolders, listings: Sequence[Listing]) -> None:
    """Make manifests of versions from their shards; keep each manifest if the whole digest is right.

    A version whose bytes don't have its digest is dropped.
    """
    stop = threading.Event()
    try:
        for listing in listings:
            try:
                await folders.keep_survey(listing, await _survey(folders, listing, stop))
            except LocalDiskError as error:
                log.error(
                    "%s has no manifest yet: %s", listing.version, error, extra=about(version=listing.version)
                )
    finally:
        stop.set()  # the thread that hashes goes on when this is cancelled


async def _survey(folders: VersionFolders, listing: Listing, stop: threading.Event) -> Manifest | None:
    """Return the manifest of a version, made from its shards; None if the shards do not match the version."""
    spans = folders.spans(listing)
    try:
        if not spans:
            raise LocalDiskError("it has no shards")
        # Only 0.3.x has shard names with five digits, and its list shows BLAKE3.
        digests = {"sha256"} if spans[0].path.name == shard_name(1) else {"sha256", "blake3"}
        manifest = await asyncio.to_thread(hash_payload, listing.version, spans, digests, stop.is_set)
        if listing.digest not in manifest.digests.values():
            raise LocalDiskError("its bytes have another digest")
    except ShardcastError as error:
        log.error(
            "%s, which an older shardcast left, is not offered any more: %s",
            listing.version,
            error,
            extra=about(version=listing.version),
        )
        return None
    log.info(
        "%s, which an older shardcast left, has its manifest now",
        listing.version,
        extra=about(version=listing.version),
    )
    return manifest
