"""Import of versions that older nodes left in a data directory without manifests."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence

from shardcast.errors import LocalDiskError, ShardcastError
from shardcast.protocol.distribution import Listing
from shardcast.protocol.manifest import Manifest
from shardcast.protocol.wire import shard_name
from shardcast.sharding.payload_hasher import hash_payload
from shardcast.store.versions import VersionFolders

log = logging.getLogger(__name__)


async def import_legacy_versions(folders: VersionFolders, listings: Sequence[Listing]) -> None:
    """Read the shards of each of these versions, and keep its manifest if the whole digest is right.

    A version whose bytes don't have its digest is dropped.
    """
    stop = threading.Event()
    try:
        for listing in listings:
            try:
                await folders.keep_survey(listing, await _survey(folders, listing, stop))
            except LocalDiskError as error:
                log.error("%s has no manifest yet: %s", listing.version, error)
    finally:
        stop.set()  # the thread that hashes goes on when this is cancelled


async def _survey(folders: VersionFolders, listing: Listing, stop: threading.Event) -> Manifest | None:
    """Return the manifest of a version, made from its shards; None when these are not the version's."""
    spans = folders.spans(listing)
    try:
        if not spans:
            raise LocalDiskError("it has no shards")
        # Names with five digits are 0.3.x's, which lists BLAKE3.
        digests = {"sha256"} if spans[0].path.name == shard_name(1) else {"sha256", "blake3"}
        manifest = await asyncio.to_thread(hash_payload, listing.version, spans, digests, stop.is_set)
        if listing.digest not in manifest.digests.values():
            raise LocalDiskError("it is not what its digest says")
    except ShardcastError as error:
        log.error("%s, which an older shardcast left, is not offered any more: %s", listing.version, error)
        return None
    log.info("%s, which an older shardcast left, has its manifest now", listing.version)
    return manifest
