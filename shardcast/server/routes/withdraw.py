"""``POST /withdraw`` on an origin's Unix socket.

``{"version": "v7", "reason": "loss was NaN"}`` is answered with ``{"done": {"version": "v7", "digest": …,
"reason": …}}`` or ``{"error": …}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from aiohttp import web

from shardcast.errors import UsageError
from shardcast.protocol.distribution import Withdrawal, is_version
from shardcast.protocol.feed import check_reason
from shardcast.protocol.wire import WITHDRAW_PATH
from shardcast.server.bodies import malformed
from shardcast.server.callers import add_change_route, read_request


class Withdrawing(Protocol):
    """The versions of an origin."""

    async def withdraw_own(self, version: str, reason: str) -> Withdrawal:
        """Withdraw a version.

        Raises:
            ShardcastError: the version is not there, or the withdrawal can't be written down.
        """


def add_withdraw_routes(app: web.Application, versions: Withdrawing) -> None:
    """Withdraw ``versions`` on request."""

    async def withdraw(request: web.Request) -> web.StreamResponse:
        try:
            caller, values = await read_request(request)
            version, reason = str(values["version"]), str(values.get("reason", ""))
        except (ValueError, KeyError) as error:
            raise malformed(error) from None

        async def work() -> Mapping[str, Any]:
            if not is_version(version):
                raise UsageError(f"{version[:80]!r} is not a version; write v1, v2, …")
            done = await versions.withdraw_own(version, check_reason(reason))
            return {"done": {"version": done.version, "digest": done.digest, "reason": done.reason}}

        return await caller.make_change(work)

    add_change_route(app, WITHDRAW_PATH, withdraw)
