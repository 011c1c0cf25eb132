"""The swarms of a node: one membership for each version to share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from shardcast.access.tickets import TicketVersion
from shardcast.concurrency import Notifier, cancel
from shardcast.peer.announcing import SwarmClient
from shardcast.policy.swarm.members import VersionKey
from shardcast.upstream.announcer import MemberIdentity, Membership, RelaysMembers

log = logging.getLogger(__name__)

_LOOK = 0.25
"""Seconds between two looks at the versions of the node."""
MAX_MEMBERSHIPS = 8
"""Maximum versions announced by a node at once, the newest ones."""


class Memberships:
    """A node's memberships; they begin and end with its versions.

    Attributes:
        me: this node.
        changed: notified when a membership begins or ends.
    """

    def __init__(
        self,
        me: MemberIdentity,
        servers: Sequence[SwarmClient],
        versions: Callable[[], Iterable[TicketVersion]],
        *,
        relay: RelaysMembers | None = None,
        is_asked: Callable[[str], bool] = lambda url: True,
    ) -> None:
        """Make an object without memberships.

        Args:
            me: this node.
            servers: where the node announces itself.
            versions: returns the versions to be a member of.
            relay: the node's own swarm, where the node is a server.
            is_asked: returns whether the node announces itself now at the server of a URL.
        """
        self.me = me
        self.changed = Notifier()
        self._servers = servers
        self._versions = versions
        self._relay = relay
        self._is_asked = is_asked
        self._open: dict[VersionKey, Membership] = {}
        self._poked = asyncio.Event()
        self._tasks: dict[VersionKey, asyncio.Task[None]] = {}

    @property
    def open(self) -> list[Membership]:
        """The running memberships."""
        return list(self._open.values())

    def look(self) -> None:
        """Look at the versions of the node now, before the next interval."""
        self._poked.set()

    def of(self, number: int) -> Membership | None:
        """Return the membership of the version with a number; None where there is none."""
        return next((open_ for open_ in self._open.values() if open_.version.number == number), None)

    async def run(self) -> None:
        """Begin and end memberships as versions come and go; for ever."""
        try:
            while True:
                self._poked.clear()
                await self._follow_versions()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK):
                        await self._poked.wait()
        finally:
            await cancel(list(self._tasks.values()))

    async def _follow_versions(self) -> None:
        """Begin and end memberships, to match the present versions."""
        newest = sorted(self._versions(), key=lambda version: version.number)[-MAX_MEMBERSHIPS:]
        wanted = {_key_of(version): version for version in newest}
        gone = [task for key, task in self._tasks.items() if key not in wanted or task.done()]
        await cancel(gone)
        for key, version in wanted.items():
            known = self._open.get(key)
            if key not in self._tasks:
                self._tasks[key] = asyncio.ensure_future(self._be_member(key, version))
            elif known and version.digest and known.version.digest is None:
                known.know_digest(version.digest)

    async def _be_member(self, key: VersionKey, version: TicketVersion) -> None:
        """Be a member of a version until this is cancelled."""
        membership = Membership(version, self.me, self._servers, relay=self._relay, is_asked=self._is_asked)
        try:
            async with membership:
                self._open[key] = membership
                self.changed.notify()
                await asyncio.Event().wait()
        finally:
            self._open.pop(key, None)
            self._tasks.pop(key, None)
            self.changed.notify()


def _key_of(version: TicketVersion) -> VersionKey:
    """Return a key of a version that stays the same when the version becomes complete."""
    return version.number, version.origin or version.digest
