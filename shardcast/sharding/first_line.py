"""The first line of a manifest, from the publisher's description of the payload."""

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
        name: the payload's name; characters not allowed in a manifest are replaced.
        size: bytes of the payload; None for a stream.
        number: the version's number.
        description: how the payload is cut.
        folder: the folder in the payload, if the payload is a folder's tar; else None.
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
    """Return a file's name, with ``_`` for characters not allowed in a manifest, cut to ``max_length``."""
    printable = "".join(char if char.isprintable() and char not in "/\\" else "_" for char in name)
    return printable.encode("utf-8", "replace").decode()[:max_length]
