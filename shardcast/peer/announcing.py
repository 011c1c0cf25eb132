"""Announcements of a swarm's members at a server, as typed calls."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass

import aiohttp

from shardcast.constants import HTTP_TIMEOUT
from shardcast.errors import BadAnswer, ServerLacks
from shardcast.peer.pace import read_paced
from shardcast.peer.requests import Answer
from shardcast.peer.session import Session, answer
from shardcast.protocol.announcement_answers import MAX_ANSWER, AnnouncementAnswer
from shardcast.protocol.announcements import Announcement
from shardcast.protocol.wire import swarm_path

_NO_ROUTE = frozenset({404, 405, 501})
"""Statuses of servers without swarms, or without this version."""


@dataclass(frozen=True)
class SwarmClient:
    """The swarm of one server's versions.

    Attributes:
        session: sends the requests.
        server: the URL of the server.
        timeout: seconds without progress.
    """

    session: Session
    server: str
    timeout: float = HTTP_TIMEOUT

    async def announce(self, version: str, announcement: Announcement) -> AnnouncementAnswer:
        """Announce this node as a member of a version.

        Raises:
            ServerLacks: the server knows no swarm (old and static servers), or does not have the version.
            AccessDenied: the server wants a token, or another one.
            PeerError: the server can't be asked, or has another version under this name.
        """
        path = swarm_path(version)
        async with self._sent(path, announcement) as response:
            head = Answer(self.server, f"POST {path}", response.status, response.headers, response.reason)
            if response.status in _NO_ROUTE:
                raise ServerLacks(self.server, f"POST {path}: there is no swarm ({response.status})")
            head.check_status(200)
            raw = bytearray()
            async with aclosing(read_paced(response, self.server, f"POST {path}", self.timeout)) as chunks:
                async for chunk in chunks:
                    raw += chunk
                    if len(raw) > MAX_ANSWER:
                        raise BadAnswer(self.server, f"POST {path}: the answer is too long")
            return AnnouncementAnswer.parse(bytes(raw))  # a ValueError leaves as BadAnswer

    async def leave(self, version: str, announcement: Announcement) -> None:
        """Announce this node's departure from a version's swarm.

        Raises:
            PeerError: the server can't be asked, or refuses.
        """
        path = swarm_path(version)
        async with self._sent(path, announcement) as response:
            Answer(self.server, f"POST {path}", response.status, response.headers).check_status(204)

    def _sent(
        self, path: str, announcement: Announcement
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Return the request of an announcement; entered, the answer."""
        headers = {"Content-Type": "application/json"}
        return answer(
            self.session,
            self.server,
            path,
            "POST",
            headers=headers,
            silence=self.timeout,
            body=announcement.encode(),
        )
