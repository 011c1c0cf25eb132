"""``POST /<version>/swarm``: members announce themselves. ``GET /swarm/check``: they show their addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from aiohttp import web

from shardcast.access.nonces import Nonces
from shardcast.access.scopes import Scope
from shardcast.access.tickets import TicketVersion
from shardcast.protocol.announcement_answers import AnnouncementAnswer
from shardcast.protocol.announcements import MAX_ANNOUNCEMENT, Announcement
from shardcast.protocol.swarm_members import SwarmError
from shardcast.protocol.wire import CHECK_HEADER, SWARM_CHECK_PATH, VERSION_PATTERN, swarm_path
from shardcast.server.announcer_address import announcer_address
from shardcast.server.bodies import read_body
from shardcast.server.bounds import Address
from shardcast.server.guard import token_of
from shardcast.server.scoped_routes import add_route
from shardcast.server.swarm_tracker import SwarmConflict, SwarmTracker
from shardcast.server.turns import Turns

_SMALL = 4 << 10
"""Maximum bytes of an announcement taken at once; those of servers take turns."""

FindVersion = Callable[[str], TicketVersion | None]
"""A function to find the distinguishing facts of a local version by its name; None for a version not here."""


def add_swarm_routes(app: web.Application, tracker: SwarmTracker, find: FindVersion) -> None:
    """Take the announcements of members of versions.

    Args:
        app: the application.
        tracker: has the members.
        find: finds versions by their names.
    """
    turns = Turns()

    async def announce(request: web.Request) -> web.StreamResponse:
        name = request.match_info["version"]
        raw = await read_body(request, MAX_ANNOUNCEMENT)
        version = find(name)
        if version is None:
            raise web.HTTPNotFound(text=f"404: {name} is not here\n")
        await tracker.prepare()
        token = token_of(request)
        work = _take(tracker, version, raw, announcer_address(request), token.expires if token else None)
        try:
            *_, answer = list(work) if len(raw) <= _SMALL else await turns.run(work)
        except SwarmError as error:
            raise web.HTTPBadRequest(text=f"400: {error}\n") from None
        except SwarmConflict as error:
            raise web.HTTPConflict(text=f"409: {error}\n") from None
        if answer is None:
            return web.Response(status=204)
        headers = {"Cache-Control": "no-store"}
        return web.Response(body=answer.encode(), content_type="application/json", headers=headers)

    add_route(app, "POST", swarm_path(f"{{version:{VERSION_PATTERN}}}"), announce, scope=Scope.READ)


def _take(
    tracker: SwarmTracker, version: TicketVersion, raw: bytes, seen: Address | None, expires: float | None
) -> Iterator[AnnouncementAnswer | None]:
    """Take an announcement in slices of few milliseconds' work, and yield the answer last.

    Raises:
        SwarmError: the bytes are no announcement, or do not prove their key.
        SwarmConflict: they are of another version, by the id of another member, or by this node itself.
    """
    announcement = Announcement.parse(raw)
    yield None
    yield tracker.announce(version, announcement, seen, expires)


def add_check_route(app: web.Application, nonces: Nonces) -> None:
    """Answer the checks of servers with the nonces of this node's announcements.

    The route is open: only receivers of an announcement know the challenge of its nonce.
    """

    async def check(request: web.Request) -> web.StreamResponse:
        nonce = nonces.answer(request.headers.get(CHECK_HEADER, ""))
        if nonce is None:
            raise web.HTTPNotFound(text="404: no announcement has this challenge\n")
        return web.Response(text=nonce, headers={"Cache-Control": "no-store"})

    add_route(app, "GET", SWARM_CHECK_PATH, check, scope=None)
