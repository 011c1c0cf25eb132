"""The server behind a remote store: its address, its node id, and its errors of status 500 and above."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import aiohttp

from shardcast.errors import BadAnswer, PeerError, ServerUnreachable, TlsFailure
from shardcast.peer.failures import refused_error
from shardcast.peer.pace import Upload
from shardcast.peer.session import Session, answer
from shardcast.protocol.wire import NODE_ID_HEADER


class Unavailable(BadAnswer):
    """An answer of status 500 and above, without meaning for the blob."""


@dataclass
class Endpoint:
    """A server, in the view of all requests of one remote store.

    Attributes:
        url: base URL.
        session: sends the requests.
        timeout: seconds without progress.
        node_id: id of a shardcast node; None for others, or before the first answer.
    """

    url: str
    session: Session
    timeout: float
    node_id: str | None = None

    def request(
        self,
        path: str,
        method: str = "GET",
        *,
        headers: dict[str, str] | None = None,
        silence: float | None = None,
        body: bytes | Upload | None = None,
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Send a request and return its answer; ``silence`` replaces ``timeout`` (seconds).

        Raises:
            PeerError: as ``peer.session.answer`` does, on entering and while the body is read.
        """
        return answer(
            self.session, self.url, path, method, headers=headers, silence=silence or self.timeout, body=body
        )

    def record(self, response: aiohttp.ClientResponse) -> None:
        """Set ``node_id`` to the id in an answer; to None where there is none."""
        self.node_id = response.headers.get(NODE_ID_HEADER)

    def unavailable(self, what: str, response: aiohttp.ClientResponse) -> PeerError:
        """Return the error of an answer of status 500 and above to the request ``what``.

        An ``Unavailable``, unless the status says that a gateway did not reach the server.
        """
        error = refused_error(self.url, what, response.status, response.headers, reason=response.reason)
        if isinstance(error, (ServerUnreachable, TlsFailure)):
            return error
        return Unavailable(self.url, error.what)
