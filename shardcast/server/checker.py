"""A server's checks of members' addresses, within their limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from shardcast.concurrency import cancel
from shardcast.policy.swarm.check_limits import CheckLimits, CheckTarget, is_check_due
from shardcast.policy.swarm.member_table import MemberTable
from shardcast.policy.swarm.members import Entry
from shardcast.protocol.swarm_members import Place
from shardcast.server.check_back import CHECK_SECONDS, gives_nonce

_MAX_CHECKS = 64
"""Maximum simultaneous checks; a waiting member is checked at one of its next announcements."""


class Checker:
    """The checks of the members of a server.

    A member learns of a success at once, and of a failure after ``CHECK_SECONDS``, whatever failed: so a
    check tells nobody whether a port is open, closed or filtered.
    """

    def __init__(self, table: MemberTable, clock: Callable[[], float]) -> None:
        """Record the results of checks in ``table``; ``clock`` gives seconds."""
        self._table = table
        self._clock = clock
        self._limits = CheckLimits()
        self._checks: dict[Entry, asyncio.Task[None]] = {}

    def consider(self, entry: Entry) -> None:
        """Check a member after its announcement, if due and within the limits."""
        now, facts = self._clock(), entry.facts
        if entry in self._checks or len(self._checks) >= _MAX_CHECKS or facts.nonce is None:
            return
        if facts.host is None or not is_check_due(entry, now):
            return
        target = CheckTarget(entry.teller.owner, facts.host)
        if self._limits.allows(target, now, relayed=bool(entry.teller.server)):
            entry.checked_at = now
            self._checks[entry] = asyncio.ensure_future(self._check(entry))

    async def stop(self) -> None:
        """End all checks."""
        await cancel(list(self._checks.values()))

    async def _check(self, entry: Entry) -> None:
        """Check a member, and record the outcome."""
        facts, started = entry.facts, asyncio.get_running_loop().time()
        assert facts.host and facts.nonce
        try:
            reached = await gives_nonce(Place(facts.host, facts.port), facts.nonce, facts.certificate)
            if not reached:
                await asyncio.sleep(started + CHECK_SECONDS - asyncio.get_running_loop().time())
            self._table.checked(entry, facts, reached)
        finally:
            del self._checks[entry]
