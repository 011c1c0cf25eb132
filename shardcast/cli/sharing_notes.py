"""Messages of a sharing client to people: sources of a version, and bytes given to neighbours."""

from __future__ import annotations

from urllib.parse import urlsplit

from shardcast.nodes.release import NEIGHBOURS, Release
from shardcast.sizes import format_size


def describe_sources(release: Release) -> str:
    """Return in words where a version came from."""
    if not release.received:
        return f"{release.version}: all of it was here"
    total = sum(release.received.values()) or 1
    parts = [
        f"{format_size(size)} ({size / total:.0%}) from "
        f"{'neighbours' if source == NEIGHBOURS else urlsplit(source).netloc}"
        for source, size in release.received.items()
    ]
    return f"{release.version}: {', '.join(parts)}"


def describe_given(given: int) -> str:
    """Return in words how many bytes went to neighbours."""
    return f"{format_size(given)} given to neighbours"
