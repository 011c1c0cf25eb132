"""What a node says of its versions in ``/status``."""

from __future__ import annotations

from typing import Any

from shardcast.store.versions import VersionFolders
from shardcast.wire import version_name


def describe_versions(folders: VersionFolders) -> list[dict[str, Any]]:
    """Every version that is here, oldest first."""
    listings = {one.version: one for one in folders.listings}
    versions = []
    for number in sorted(folders.complete_numbers | folders.open_numbers):
        version = version_name(number)
        manifest, listing = folders.manifest_of(version), listings.get(version)
        versions.append(
            {
                "version": version,
                "state": "complete" if listing else "open",
                "digest": listing.digest if listing else None,
                "name": manifest.header.name if manifest else None,
                "size": manifest.size if manifest else None,
                "shards": len(manifest.shards) if manifest else listing.shards if listing else None,
                "shards_here": folders.had(version),
            }
        )
    return versions
