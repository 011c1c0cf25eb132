"""The door on an origin's Unix socket through which its versions are withdrawn.

``POST /withdraw`` with ``{"version": "v7", "reason": "loss was NaN"}`` is answered with
``{"done": {"version": "v7", "digest": …, "reason": …}}`` or ``{"error": …}``.
"""

from __future__ import annotations

from typing import Protocol

from aiohttp import web

from shardcast.distribution import Withdrawal, is_version
from shardcast.errors import ShardcastError, UsageError, to_wire
from shardcast.feed import check_reason
from shardcast.wire import NDJSON, WITHDRAW_PATH


class Withdrawing(Protocol):
    """The versions of an origin."""

    async def withdraw_own(self, version: str, reason: str) -> Withdrawal: ...


def add_withdraw(app: web.Application, versions: Withdrawing) -> None:
    """Withdraw some of ``versions``."""

    async def withdraw(request: web.Request) -> web.Response:
        try:
            asked = await request.json()
            version, reason = str(asked["version"]), str(asked.get("reason", ""))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise web.HTTPBadRequest(text=f"400: {error}\n") from None
        try:
            if not is_version(version):
                raise UsageError(f"{version[:80]!r} is not a version; write v1, v2, …")
            done = await versions.withdraw_own(version, check_reason(reason))
        except ShardcastError as error:
            return web.json_response({"error": to_wire(error)}, content_type=NDJSON)
        said = {"version": done.version, "digest": done.digest, "reason": done.reason}
        return web.json_response({"done": said}, content_type=NDJSON)

    app.router.add_post(WITHDRAW_PATH, withdraw)
