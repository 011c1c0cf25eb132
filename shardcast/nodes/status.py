"""A node's state in ``/status``; docs/status.schema.json describes the format."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from shardcast.protocol.report import Node
from shardcast.protocol.wire import version_name
from shardcast.server.downstream import Downstream
from shardcast.store.versions import VersionFolders

if TYPE_CHECKING:  # an origin has neither
    from shardcast.transfer.workers import Transfer
    from shardcast.upstream.follower import Follower


class Status:
    """The state common to all serving nodes.

    Attributes:
        count_members: returns the members of a version's swarm, by the version's name.
    """

    def __init__(self, role: str, node_id: str, folders: VersionFolders, downstream: Downstream) -> None:
        self._begun = time.monotonic()
        self.count_members: Callable[[str], int] = lambda version: 0
        self._role = role
        self._node_id = node_id
        self._folders = folders
        self._below = downstream

    def as_dict(self, origin: str | None, distance: int | None) -> dict[str, Any]:
        """Return the state.

        Args:
            origin: the origin id of the line; None while unknown.
            distance: hops from the origin; None while unknown.
        """
        folders = self._folders
        return {
            "role": self._role,
            "node": self._node_id,
            "software": software_name(),
            "seconds_up": round(time.monotonic() - self._begun, 1),
            "origin": origin,
            "distance": distance,
            "disk": {
                "used": folders.quota.used,
                "max_bytes": folders.quota.max_bytes,
                "free": _free(folders.data_dir.root),
                "keep": folders.keep,
            },
            "versions": _versions(folders, self.count_members),
            "aside": _aside(folders),
            "below": _Rows(self._below.with_ages()),
        }


class _Rows(Sequence[dict[str, Any]]):
    """The nodes below, each described when sent: describing thousands at once takes long."""

    def __init__(self, nodes: Sequence[tuple[float, Node]]) -> None:
        self._nodes = nodes

    def __len__(self) -> int:
        return len(self._nodes)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self._describe(age, node) for age, node in self._nodes[index]]
        return self._describe(*self._nodes[index])

    @staticmethod
    def _describe(age: float, node: Node) -> dict[str, Any]:
        return node.as_dict() | {"age": round(age, 1)}


def _free(root: Path) -> int:
    """Return the bytes free for this node; 0 after a removal of the directory."""
    try:
        disk = os.statvfs(root)
    except OSError:
        return 0
    return disk.f_bavail * disk.f_frsize


def software_name() -> str:
    """Return the program's name and version."""
    return f"shardcast {installed('shardcast')}"


def _versions(folders: VersionFolders, count_members: Callable[[str], int]) -> list[dict[str, Any]]:
    """Return a description of each version here, oldest first."""
    listings = {listing.number: listing for listing in folders.listings}
    versions = []
    for number in sorted(folders.complete_numbers | folders.open_numbers):
        version = version_name(number)
        opened, listing, manifest = folders.opened(number), listings.get(number), folders.manifest_of(version)
        header = (
            manifest.header if manifest else opened.live.header if opened and opened.live.has_header else None
        )
        shards_here, bytes_here = folders.verified_counts(version)
        shards = len(manifest.shards) if manifest else listing.shards if listing else None
        versions.append(
            {
                "version": version,
                "state": "open" if opened else "complete",
                "digest": listing.digest if listing else None,
                "name": header.name if header else None,
                "created": header.created if header else None,
                "size": manifest.size if manifest else header.size if header else None,
                "shards": shards,
                "bytes_here": bytes_here,
                "shards_here": shards_here,
                "sent": folders.holds.sent(number),
                "handed_out": folders.holds.handed_out(number),
                "members": count_members(version),
                "rate": round(folders.holds.rate(number)),
                "held": [
                    {"kind": hold.kind, "by": hold.owner, "seconds": hold.seconds and round(hold.seconds, 1)}
                    for hold in folders.holds.holds_on(number)
                ],
            }
        )
    return versions


def _aside(folders: VersionFolders) -> list[dict[str, Any]]:
    """Return a description of each complete version of another line here, in the order of putting aside."""
    return [
        {
            "origin": version.origin,
            "version": version.complete.listing.version,
            "digest": version.complete.listing.digest,
            "size": version.complete.size,
            "pinned": version.pinned,
            "seconds": round(folders.aside.age(version), 1),
        }
        for version in folders.aside
        if version.finished
    ]


def describe_transfer(transfer: Transfer) -> dict[str, Any]:
    """Return a description of a transfer; rates in bytes a second."""
    progress = transfer.progress
    servers, neighbours = progress.servers, progress.neighbours
    return {
        "version": transfer.manifest.version,
        "size": progress.size,
        "done": progress.done,
        "rate": round(sum(server.rate for server in servers.values()) + neighbours.rate),
        "servers": {url: round(server.rate) for url, server in servers.items()},
        "neighbours": neighbours.count,
        "from_neighbours": neighbours.received,
    }


def describe_upstreams(followers: Iterable[Follower]) -> list[dict[str, Any]]:
    """Return a description of each followed server."""
    now = time.monotonic()
    return [
        {
            "url": follower.peer.url,
            "state": "lost" if follower.failure else "followed" if follower.hello else "asked",
            "failure": str(follower.failure) if follower.failure else None,
            "node": follower.hello.node if follower.hello else None,
            "distance": follower.hello.distance if follower.hello else None,
            "seconds_since_news": None
            if follower.last_news_at is None
            else round(now - follower.last_news_at, 1),
        }
        for follower in followers
    ]
