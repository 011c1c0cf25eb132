"""Waits of an origin for the nodes below: until it may end, or until so many of them have a version."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from shardcast.errors import VersionNotOffered
from shardcast.policy.finishing import ReportedNode, max_wait, reason_to_wait
from shardcast.protocol.wire import version_number
from shardcast.server.downstream import Downstream
from shardcast.store.versions import VersionFolders

log = logging.getLogger(__name__)


class ShutdownWait:
    """The wait of an ending origin for nodes still without the newest version."""

    def __init__(
        self,
        folders: VersionFolders,
        below: Downstream,
        wait: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the wait.

        Args:
            folders: the versions of the origin.
            below: the nodes below the origin.
            wait: seconds to stay at least; 0 to end at once; None for as long as is useful.
            clock: returns seconds.
        """
        self._folders = folders
        self._below = below
        self._wait = wait
        self._clock = clock
        self._started = clock()
        self._sent = folders.holds.sent_in_all()
        self._read_at = self._started - folders.holds.seconds_since_read()
        self._logged = False

    def reason(self) -> str | None:
        """Return in words the reason for the origin to wait; None when the origin may end.

        After the maximum wait also None, with a warning.
        """
        now, newest = self._clock(), self._newest()
        sent = self._folders.holds.sent_in_all()
        if sent != self._sent:
            self._sent, self._read_at = sent, now
        waited = now - self._started
        reason = reason_to_wait(
            newest,
            self._nodes(newest),
            feeds=self._folders.events.open_feeds,
            read_age=now - self._read_at,
            waited=waited,
            wait=self._wait,
        )
        longest = max_wait(self._wait)
        if reason and waited >= longest:
            log.warning("the origin ends after %g s all the same; it waited for %s", longest, reason)
            return None
        if reason and not self._logged:
            log.info("before it ends, the origin waits %g s at most for %s", longest, reason)
            self._logged = True
        return reason

    def _newest(self) -> str | None:
        return self._folders.listings[-1].version if self._folders.listings else None

    def _nodes(self, newest: str | None) -> list[ReportedNode]:
        """Return the nodes below as ``policy.finishing`` sees them."""
        # Reports of 0.4.0 name no origin; a version with this number is taken for ours.
        origins = (None, self._folders.data_dir.origin_id)
        return [
            ReportedNode(
                node.name or node.node, age, node.hops, node.origin in origins and newest in node.has
            )
            for age, node in self._below.with_ages()
        ]


class CopiesWait:
    """The wait for so many copies of a version below an origin."""

    def __init__(self, folders: VersionFolders, below: Downstream, version: str, copies: int) -> None:
        """Start the wait.

        Args:
            folders: the versions of the origin.
            below: the nodes below the origin.
            version: the version's name.
            copies: nodes to wait for.
        """
        self._folders = folders
        self._below = below
        self._version = version
        self._copies = copies
        self._changes = -1
        self._count = 0

    def count(self) -> int:
        """Return how many nodes have the version whole and verified.

        Raises:
            VersionNotOffered: the origin does not have the version (any more).
        """
        if (version_number(self._version) or 0) not in self._folders.complete_numbers:
            raise VersionNotOffered(
                f"the origin of {self._folders.data_dir.root} does not have {self._version} (any more); "
                f"{self._count} of {self._copies} nodes had it. Publish it again, or pin the next one in time"
            )
        if self._changes != self._below.changes:
            self._changes = self._below.changes
            self._count = self._below.copies(self._version, self._folders.data_dir.origin_id)
        return self._count
