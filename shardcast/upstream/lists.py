"""The first news of a node's servers, and the version behind a reader's name for it."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from shardcast.constants import UNREACHABLE_AT_START
from shardcast.errors import (
    CannotAsk,
    NoServerReachable,
    ServerBusy,
    ServerUnreachable,
    TransferFailed,
    VersionNotOffered,
    VersionWithdrawn,
)
from shardcast.log_fields import about
from shardcast.policy.groups import ServerGroup
from shardcast.policy.standing import Standing
from shardcast.protocol.distribution import Listing
from shardcast.upstream.follow import Following

log = logging.getLogger(__name__)

LATEST = "latest"
"""Names the newest version on offer."""


@dataclass(frozen=True, slots=True)
class FoundVersion:
    """A requested version.

    Attributes:
        listing: the version.
        servers: the URLs of the servers with the complete version.
        origin: the origin id of its line; None where its servers name none.
    """

    listing: Listing
    servers: tuple[str, ...]
    origin: str | None


FindVersion = Callable[[Standing], Awaitable[FoundVersion]]
"""A function that returns a version, or raises ``VersionNotOffered``."""


async def wait_for_news(following: Following, patience: float = UNREACHABLE_AT_START) -> Standing:
    """Return the beliefs as soon as all servers answered, or 2 s after the first answer.

    While no server can be reached, or the reachable ones say "not now", wait for ``patience`` seconds.

    Raises:
        NoServerReachable: no server answered.
        AccessDenied: one refused, and no other has a list.
        TransferFailed: some did, but not with a list.
        LocalLimit: this machine can't ask.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience
    await following.wait_until_settled()
    if following.has_news:
        return following.standing_or_error()
    while not following.has_news:
        failures = [follower.failure for follower in following.followers if follower.failure]
        passing = (error for error in failures if isinstance(error, (ServerUnreachable, ServerBusy)))
        retry = any(not isinstance(error, CannotAsk) for error in passing)
        if not retry or loop.time() >= deadline:
            break
        try:
            async with asyncio.timeout_at(deadline):
                await following.wait_for_change(following.changes)
        except TimeoutError:
            break
    await following.wait_until_settled()
    return following.standing_or_error()


async def wait_for_version(following: Following, find: FindVersion, patience: float) -> FoundVersion:
    """Return a version as soon as a server has it.

    Args:
        following: the servers.
        find: finds the version in the news.
        patience: seconds to wait for it; also while no server answers.

    Raises:
        VersionWithdrawn: its publisher took it back.
        VersionNotOffered: no server has it, ``patience`` seconds on.
        AccessDenied: the servers refuse.
        NoServerReachable, TransferFailed: no server tells anything, ``patience`` seconds on.
        LocalLimit: this machine can't ask.
    """
    loop = asyncio.get_running_loop()
    deadline = None if math.isinf(patience) else loop.time() + patience
    while True:
        changes = following.changes
        try:
            return await find(following.standing_or_error())
        except VersionWithdrawn:
            raise
        except (VersionNotOffered, NoServerReachable, TransferFailed):
            if deadline is not None and loop.time() >= deadline:
                raise
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await following.wait_for_change(changes)


def find_version(standing: Standing, version: str) -> FoundVersion:
    """Return the version with this name, or the newest (``LATEST``), and its servers.

    A version only at servers of another line is taken, with a warning: the reader named it.

    Raises:
        VersionWithdrawn: its publisher took it back.
        VersionNotOffered: no server has it.
    """
    for other in standing.others:
        log.debug("%s", other.conflict(standing.group))
    having = standing.group.complete
    if version == LATEST:
        number = max((number for number in standing.listed if number in having), default=None)
        if number is None:
            raise VersionNotOffered(f"{_names(standing)}: no version is offered yet")
        return FoundVersion(standing.listed[number], having[number], standing.origin)
    number = int(version[1:])
    if number in standing.listed and number in having:
        return FoundVersion(standing.listed[number], having[number], standing.origin)
    if number in standing.withdrawals and number not in standing.listed:
        raise withdrawn_error(standing, number)
    for group in (standing.group, *standing.others):
        listing = group.find(version)
        if listing and number in group.complete:
            servers = group.complete[number]
            log.warning("%s is offered by %s only", version, ", ".join(servers), extra=about(version=version))
            return FoundVersion(listing, servers, group.origin)
    if number in standing.listed:
        raise VersionNotOffered(
            f"{version} is listed by {standing.speaker}, and no server has it yet; try again"
        )
    offered = ", ".join(listing.version for _, listing in sorted(standing.listed.items())) or "nothing yet"
    raise VersionNotOffered(f"{version} is not offered by {_names(standing)}; on offer: {offered}")


def withdrawn_error(standing: Standing, number: int) -> VersionWithdrawn:
    """Return the error of a withdrawn version: its reason, and the newest version instead."""
    withdrawal, newest = standing.withdrawals[number], standing.newest
    return VersionWithdrawn.of(withdrawal.version, withdrawal.reason, newest.version if newest else None)


def _names(standing: Standing) -> str:
    groups: tuple[ServerGroup, ...] = (standing.group, *standing.others)
    return ", ".join(server for group in groups for server in group.servers)
