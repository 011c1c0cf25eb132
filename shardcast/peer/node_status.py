"""What a node says of itself, as typed calls: ``/ready`` and ``/status``."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass

from shardcast.constants import HTTP_TIMEOUT
from shardcast.errors import BadAnswer
from shardcast.peer.pace import read_paced
from shardcast.peer.requests import Answer
from shardcast.peer.session import Session, answer
from shardcast.plain_text import one_line
from shardcast.protocol.node_status import MAX_STATUS, NodeStatus, StatusError, parse_status
from shardcast.protocol.wire import NODE_ID_HEADER, READY_PATH, STATUS_PATH

_MAX_REASON = 1000
"""Bytes of the text that says why a node is not ready."""


@dataclass(frozen=True)
class StatusClient:
    """The state of one server.

    Attributes:
        session: sends the requests.
        server: the URL of the server.
        timeout: seconds without progress.
    """

    session: Session
    server: str
    timeout: float = HTTP_TIMEOUT

    async def missing(self) -> str | None:
        """Return in words what the node lacks; None when it has caught up.

        Raises:
            ServerLacks: the server is no node with this route (old and static ones).
            PeerError: the server can't be asked.
        """
        head, body = await self._fetch(READY_PATH, _MAX_REASON, 200, 503)
        if head.status == 200:
            return None
        if not head.headers.get(NODE_ID_HEADER, ""):
            head.check_status(200)  # a gateway's answer
        return one_line(body.decode(errors="replace").strip().removeprefix("503: "), _MAX_REASON)

    async def status(self) -> NodeStatus:
        """Return the state of the node.

        Raises:
            ServerLacks: the server is no node with this route.
            AccessDenied: the server wants a token, or another one.
            PeerError: the server can't be asked, or what it sends is no status.
        """
        _, body = await self._fetch(STATUS_PATH, MAX_STATUS, 200)
        try:
            return parse_status(body)
        except StatusError as error:
            raise BadAnswer(self.server, f"GET {STATUS_PATH}: {error}") from None

    async def _fetch(self, path: str, max_bytes: int, *accepted: int) -> tuple[Answer, bytes]:
        """Return the head and the body of an answer with an accepted status.

        Raises:
            PeerError: the server can't be asked, or answers with another status, or more than ``max_bytes``.
        """
        async with answer(self.session, self.server, path, silence=self.timeout) as response:
            what = f"GET {path}"
            head = Answer(self.server, what, response.status, response.headers, response.reason)
            head.check_status(*accepted)
            raw = bytearray()
            async with aclosing(read_paced(response, self.server, what, self.timeout)) as chunks:
                async for chunk in chunks:
                    raw += chunk
                    if len(raw) > max_bytes:
                        raise BadAnswer(self.server, f"{what}: the answer is longer than {max_bytes} bytes")
        return head, bytes(raw)
