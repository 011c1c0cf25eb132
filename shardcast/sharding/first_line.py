"""The first line of a manifest, from what a publisher says of its payload."""

from __future__ import annotations

import time

from shardcast.protocol.manifest import FolderFacts, Header, piece_size_for
from shardcast.protocol.wire import version_name
from shardcast.sharding.publication import PayloadDescription

_MAX_NAME = 255
"""Characters of a payload's name."""


def new_header(
    name: str,
    size: int | None,
    number: int,
    description: PayloadDescription,
    folder: FolderFacts | None = None,
) -> Header:
    """Return the first line of a manifest.

    Args:
        name: the payload's name, of which what no manifest can carry is replaced.
        size: its bytes; None for a stream.
        number: the version's.
        description: how the payload is cut.
        folder: the folder whose tar the payload is; None for others.
    """
    return Header(
        version=version_name(number),
        origin=description.origin,
        name=safe_name(name),
        size=size,
        shard_size=description.shard_size,
        piece_size=piece_size_for(description.shard_size),
        created=round(time.time(), 3),
        metadata=description.metadata,
        folder=folder,
    )


def safe_name(name: str, max_length: int = _MAX_NAME) -> str:
    """Return a file's name as a manifest can carry it."""
    printable = "".join(char if char.isprintable() and char not in "/\\" else "_" for char in name)
    return printable.encode("utf-8", "replace").decode()[:max_length]
