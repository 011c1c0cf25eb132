"""Versions as a client sees them: on offer, and here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardcast.folders.contents import ContainedFile, contained_files
from shardcast.plain_text import one_line
from shardcast.protocol.distribution import Listing
from shardcast.protocol.manifest import Header, Manifest
from shardcast.protocol.wire import version_number
from shardcast.sizes import format_size
from shardcast.transfer.limits import NeighbourProgress

NEIGHBOURS = "neighbours"
"""Key in ``Release.received`` for the other clients, the partners of a sharing client in exchanges."""
_LONGEST_ORIGIN = 64
"""Characters of an origin id shown to people."""
_LONGEST_NAME = 60
"""Characters of a payload's name in an ``Offered`` as text."""
_LONGEST_PATH = 200
"""Characters of the path in a ``Release`` as text."""


@dataclass(frozen=True, slots=True, repr=False)
class Offered:
    """A version offered by the servers.

    Attributes:
        listing: the version's line in the distribution list.
        header: of the manifest; None where no server has a manifest.
        size: bytes of the payload; None where no server tells.
    """

    listing: Listing
    header: Header | None
    size: int | None = None

    def __repr__(self) -> str:
        """Return one short line: a header has up to 16 KiB of metadata."""
        name = f" {one_line(self.header.name, _LONGEST_NAME)}" if self.header else ""
        size = "" if self.size is None else f", {format_size(self.size)}"
        return f"<Offered {self.listing.version}{name}{size}>"

    @property
    def tags(self) -> tuple[str, ...]:
        """The version's tags; empty where no server tells them."""
        return self.header.tags if self.header else ()


@dataclass(frozen=True, slots=True, repr=False)
class Release:
    """A downloaded and verified version.

    Attributes:
        version: the version's name.
        path: the file or folder.
        manifest: of the payload.
        seconds: duration of the download.
        received: bytes received from each server, by URL; for a sharing client also the bytes from all
            neighbours in the swarm together, as ``neighbours``.
        new_line: whether the version is the first of another line than the one announced before in this
            folder: the number says nothing about the versions followed before.
        neighbours: number of neighbours at the end, and bytes received from and sent to them; None for a
            client without sharing.
        offline: whether no server answered, and the version is one that was here and verified before.
    """

    version: str
    path: Path
    manifest: Manifest
    seconds: float
    received: dict[str, int]
    new_line: bool = False
    neighbours: NeighbourProgress | None = None
    offline: bool = False

    def __repr__(self) -> str:
        """Return one short line: a manifest has up to a million shards."""
        path = one_line(str(self.path), _LONGEST_PATH)
        return f"<Release {self.version} at {path}, {format_size(self.manifest.size)}>"

    @property
    def origin(self) -> str | None:
        """The origin id of the version's line; None for versions of nodes without an id."""
        return self.manifest.header.origin

    @property
    def digest(self) -> str:
        """The payload's digest, as shown in the distribution list: BLAKE3 if the origin lists BLAKE3."""
        return payload_digest(self.manifest)

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags given by the publisher."""
        return self.manifest.header.tags

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The JSON object given by the publisher, with the tags as ``tags``."""
        return self.manifest.header.metadata

    @property
    def files(self) -> tuple[ContainedFile, ...]:
        """The entries of a folder, in the order of their paths; empty for a file."""
        return tuple(contained_files(self.manifest))

    @property
    def number(self) -> int:
        """3 for ``v3``."""
        return version_number(self.version) or 0


def payload_digest(manifest: Manifest) -> str:
    """Return the digest of a payload, as shown in the distribution list: BLAKE3 if listed so."""
    return manifest.digests.get("blake3") or manifest.digests["sha256"]


def origin_name(origin: str | None) -> str:
    """Return an origin id for people and hooks; "none" for versions of nodes without an id.

    Only printable characters are passed on, since any server can make up an id.
    """
    return one_line(origin or "none", _LONGEST_ORIGIN)
