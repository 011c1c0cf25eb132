"""What old nodes left in a data directory gets its manifests."""

from __future__ import annotations

import asyncio
import logging

from shardcast.distribution import Listing
from shardcast.errors import LocalDiskError, ShardcastError
from shardcast.sharding import Cancelled, survey
from shardcast.store.versions import VersionFolders

log = logging.getLogger(__name__)


async def adopt(folders: VersionFolders, listings: list[Listing]) -> None:
    """Read the shards of each of these versions, and keep its manifest if the whole digest is right; a
    version that is not what its digest says goes."""
    for listing in listings:
        stopped = False
        try:
            spans = folders.spans(listing)
            digests = {"sha256"} if len(spans) == 0 or len(spans[0].path.name) < len("shard_00001.bin") else {
                "sha256", "blake3"
            }  # fmt: skip
            if not spans:
                raise LocalDiskError(f"{listing.version} has no shards")
            try:
                manifest = await asyncio.to_thread(survey, listing.version, spans, digests, lambda: stopped)
            finally:
                stopped = True
            if listing.digest in manifest.digests.values():
                await folders.surveyed(listing, manifest)
                log.info("%s, which an older shardcast left, has its manifest now", listing.version)
                continue
            log.error("%s is not what its digest says, and is not offered any more", listing.version)
        except Cancelled:
            continue
        except ShardcastError as error:
            log.error("%s can't be taken over: %s", listing.version, error)
        await folders.surveyed(listing, None)
