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
"""What ``Release.received`` calls the other clients that a sharing client exchanges pieces with."""
_LONGEST_ORIGIN = 64
"""Characters of an origin id that people are told."""
_LONGEST_NAME = 60
"""Characters of a payload's name in an ``Offered`` as text."""
_LONGEST_PATH = 200
"""Characters of the path in a ``Release`` as text."""


@dataclass(frozen=True, slots=True, repr=False)
class Offered:
    """A version that the servers offer.

    Attributes:
        listing: its line in the distribution list.
        header: of its manifest; None where no server has a manifest.
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
        """Its tags; empty where no server tells them."""
        return self.header.tags if self.header else ()


@dataclass(frozen=True, slots=True, repr=False)
class Release:
    """A version that was downloaded and verified.

    Attributes:
        version: its name.
        path: the file.
        manifest: of its payload.
        seconds: that the download took.
        received: bytes that came from each server, by its URL; of a client that shares also those that came
            from its neighbours in the swarm, all together, as ``neighbours``.
        new_line: whether it is the first of a line other than the one announced before in its folder: its
            number says nothing about the versions that were followed before.
        neighbours: how many neighbours there were at the end, and what they sent and got by then; None where
            the client does not share.
    """

    version: str
    path: Path
    manifest: Manifest
    seconds: float
    received: dict[str, int]
    new_line: bool = False
    neighbours: NeighbourProgress | None = None

    def __repr__(self) -> str:
        """Return one short line: a manifest has up to a million shards."""
        path = one_line(str(self.path), _LONGEST_PATH)
        return f"<Release {self.version} at {path}, {format_size(self.manifest.size)}>"

    @property
    def origin(self) -> str | None:
        """The origin id of its line; None for versions of nodes without an id."""
        return self.manifest.header.origin

    @property
    def digest(self) -> str:
        """The payload's digest, as the distribution list shows it: BLAKE3 where the origin lists that."""
        digests = self.manifest.digests
        return digests.get("blake3") or digests["sha256"]

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags that its publisher gave it."""
        return self.manifest.header.tags

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The JSON object that its publisher gave it, with the tags as ``tags``."""
        return self.manifest.header.metadata

    @property
    def files(self) -> tuple[ContainedFile, ...]:
        """The entries of a folder, in the order of their paths; empty for a version that is a file."""
        return tuple(contained_files(self.manifest))

    @property
    def number(self) -> int:
        """3 for ``v3``."""
        return version_number(self.version) or 0


def origin_name(origin: str | None) -> str:
    """Return an origin id as people and hooks are told it; "none" for versions of nodes without an id.

    Any server can make an id up, so only printable characters are passed on.
    """
    return one_line(origin or "none", _LONGEST_ORIGIN)
