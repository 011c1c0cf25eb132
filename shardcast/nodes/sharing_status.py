"""The description of sharing in a node's ``/status``, and in a client's reports to its servers."""

from __future__ import annotations

import time
from typing import Any

from shardcast.nodes.release import NEIGHBOURS
from shardcast.nodes.shared_version import SharedVersion
from shardcast.nodes.sharing import Sharing
from shardcast.nodes.status import software_name
from shardcast.protocol.report import Node, newest_reportable
from shardcast.upstream.announcer import Membership


def describe_sharing(sharing: Sharing) -> list[dict[str, Any]]:
    """Return a description of each version shared now, the one shared longest first."""
    return [_describe(shared, membership) for shared, membership in sharing.shared]


def _describe(shared: SharedVersion, membership: Membership) -> dict[str, Any]:
    neighbours = shared.progress()
    return {
        "version": shared.version,
        "size": shared.size,
        "here": shared.here,
        "complete": shared.is_complete,
        "members": membership.members,
        "neighbours": neighbours.count,
        "received": {**shared.received(), NEIGHBOURS: neighbours.received},
        "given": neighbours.given,
        "across": neighbours.across,
        "reachable": membership.reachable,
        "site": membership.site,
    }


class SharingStatus:
    """The state of a sharing client, for ``/status`` and ``/ready`` at the client's listener."""

    def __init__(self, sharing: Sharing) -> None:
        """Describe the activity of ``sharing``, from now on."""
        self._sharing = sharing
        self._begun = time.monotonic()

    def as_dict(self) -> dict[str, Any]:
        """Return the state."""
        return {
            "role": "client",
            "node": self._sharing.identity.node,
            "software": software_name(),
            "seconds_up": round(time.monotonic() - self._begun, 1),
            "given": self._sharing.given,
            "sharing": describe_sharing(self._sharing),
        }

    def missing(self) -> str | None:
        """Return in words the versions not complete yet; None when all are."""
        coming = [shared.version for shared, _ in self._sharing.shared if not shared.is_complete]
        return f"{', '.join(coming)} not complete yet" if coming else None


def describe_client(sharing: Sharing, node: str, name: str) -> Node:
    """Return the description of a client without followed versions, for reports: its shared versions.

    Args:
        sharing: the shared versions.
        node: the client's id.
        name: the client's name for people.
    """
    shared = [version for version, _ in sharing.shared]
    has = newest_reportable([one.version for one in shared if one.is_complete])
    coming = {one.version: one.here for one in shared if not one.is_complete}
    origin = next((one.origin for one in shared), None)
    return Node(node, "client", name, has, coming, origin=origin)
