"""The servers of a client, followed for one question or one download."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

from shardcast.constants import CHECK_INTERVAL, STALL_WHEN_OTHERS_CAN
from shardcast.errors import AccessDenied
from shardcast.nodes.download import Downloads
from shardcast.nodes.tagged import find_tagged
from shardcast.policy.standing import Standing
from shardcast.protocol.tags import is_tag
from shardcast.upstream.follow import Following
from shardcast.upstream.lists import LATEST, FoundVersion, find_version, wait_for_news, wait_for_version

log = logging.getLogger(__name__)

OFFLINE_PATIENCE = 2.0
"""Seconds within which a server must answer before a version that is here is given instead."""


@dataclass(frozen=True, slots=True)
class AskedServers:
    """The servers of a client, asked for their versions.

    Attributes:
        downloads: the client's downloads, with its servers, limits and waits.
        origin_id: the only line of versions to accept; None for any.
    """

    downloads: Downloads
    origin_id: str | None

    @asynccontextmanager
    async def looking(
        self, wait: float = 0.0, *, bounded: bool = False
    ) -> AsyncIterator[tuple[Following, Standing]]:
        """Yield the servers, followed for one question, and the beliefs after their answers.

        Args:
            wait: seconds to wait for a server, where longer than ``unreachable_at_start``.
            bounded: whether to wait for ``wait`` seconds only, also for one that takes connections and does
                not answer; 2 at least.

        Raises:
            NoServerReachable: no server answered.
            AccessDenied: a server refused, and no other listed its versions.
            TransferFailed: servers answered, but none with its versions.
        """
        following = Following(
            list(self.downloads.peers.values()),
            CHECK_INTERVAL,
            accepted=self.origin_id,
            first_line=STALL_WHEN_OTHERS_CAN,
        )
        async with following:
            with self.downloads.waits.watching(lambda: following.wait):
                if bounded:
                    standing = await _news_within(following, max(wait, OFFLINE_PATIENCE))
                else:
                    patience = max(wait, self.downloads.limits.unreachable_at_start)
                    standing = await wait_for_news(following, patience)
            for follower in following.followers:
                if not follower.versions_known:
                    log.warning("not used: %s", follower.failure or f"{follower.peer.url}: no answer yet")
                if isinstance(follower.failure, AccessDenied):
                    await following.remove_server(follower.peer.url)  # it would refuse again
            yield following, standing

    async def wait_for(self, version: str, following: Following, wait: float) -> FoundVersion:
        """Return a version as soon as a server has it.

        Args:
            version: a name, "latest" or a tag.
            following: the servers.
            wait: seconds to wait for the version.

        Raises:
            VersionNotOffered, VersionWithdrawn: no server has the version, or the publisher took it back.
        """
        servers = ", ".join(self.downloads.peers)
        what = f"{version if version != LATEST else 'a version'} to be on offer at {servers}"
        waits = self.downloads.waits
        with waits.waiting(lambda: what), waits.watching(lambda: following.wait):
            return await wait_for_version(following, partial(self.find, version), wait)

    async def find(self, version: str, standing: Standing) -> FoundVersion:
        """Return the version meant by a name or a tag.

        Raises:
            VersionNotOffered, VersionWithdrawn: no server has the version, or the publisher took it back.
        """
        if is_tag(version):
            servers = ", ".join(standing.group.servers)
            with self.downloads.waits.waiting(lambda: f"manifests from {servers}"):
                version = await find_tagged(standing, self.downloads.peers, version)
        return find_version(standing, version)


async def _news_within(following: Following, seconds: float) -> Standing:
    """Return the beliefs after the answers of so many seconds.

    Raises:
        NoServerReachable: no server answered.
        AccessDenied: a server refused, and no other listed its versions.
        TransferFailed: servers answered, but none with its versions.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(None if math.isinf(seconds) else seconds):
            return await wait_for_news(following, seconds)
    return following.standing_or_error()
