"""The scopes of requests: the permissions of a token."""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    """A permission required by a route and granted by a token."""

    READ = "read"
    """Versions, manifests, feeds, leases, and shards by digest."""
    REPORT = "report"
    """Reports of the nodes below."""
    PUBLISH = "publish"
    """New versions from elsewhere."""
    STATUS = "status"
    """``/status`` and whatever else shows the state of a node."""
    STORE_READ = "store-read"
    """Blobs of a hash server or an archive."""
    STORE_WRITE = "store-write"
    """New blobs in a hash server."""
    ARCHIVE_PUSH = "archive-push"
    """Pushes into an archive."""
