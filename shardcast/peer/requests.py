"""Is an answer what was asked for? The same questions for both ways that bytes come."""

from __future__ import annotations

from dataclasses import dataclass

from shardcast.errors import BadAnswer
from shardcast.peer.failures import Headers, status_error
from shardcast.protocol.manifest import Shard
from shardcast.protocol.wire import ACCEPT, LANDING, STATE, WHOLE, etag, parse_content_range


@dataclass
class RangeRequest:
    """A range of a shard, asked from one server.

    The thread that receives it writes ``received``, ``landing`` and ``passed_on``, the event loop writes
    ``end``, which only falls. Each reads the other's as a plain value that may be a moment old.

    Attributes:
        start: its first byte in the shard, at a piece's start.
        end: the byte after its last; another connection may take the rest over, and then it falls.
        received: bytes of it that came so far.
        landing: whether it waits for bytes to be verified and written.
        passed_on: whether the server sends what is only just landing there.
    """

    start: int
    end: int
    received: int = 0
    landing: bool = False
    passed_on: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """The head of an answer.

    Attributes:
        server: who answers.
        request: what was asked, ``GET /v1/shard_001.bin``.
        status: such as 200.
        headers: of the answer.
        reason: the words beside the status.
    """

    server: str
    request: str
    status: int
    headers: Headers
    reason: str | None = None

    def check_status(self, *right: int) -> None:
        """
        Raises:
            PeerError: another status, as `failures.status_error` reads it.
            BadAnswer: an encoding that was not asked for.
        """
        if self.status not in right:
            raise status_error(self.server, self.request, self.status, self.headers, self.reason)
        if self.headers.get("Content-Encoding", "identity") != "identity":
            raise BadAnswer(self.server, f"{self.request}: the answer is compressed")

    @property
    def length(self) -> int | None:
        """Bytes of the body; None where the answer doesn't say."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None

    def check_body(self, shard: Shard, order: RangeRequest) -> int:
        """How many bytes of the body come before the order's first.

        Raises:
            ServerUnreachable, ServerLacks, BadAnswer: this is not that range of this shard.
        """
        self.check_status(200, 206)
        order.passed_on = self.headers.get(STATE, WHOLE) == LANDING
        start, end = 0, shard.size
        if self.status == 206:
            said = self.headers.get("Content-Range", "nothing")
            span = parse_content_range(said)
            if span is None or span[0] > order.start or span[1] < order.end:
                asked = f"bytes {order.start}-{order.end - 1}"
                raise BadAnswer(self.server, f"{self.request}: {asked} were asked for, and it says {said}")
            start, end = span
        if self.length not in (None, end - start):
            page = ", a web page" if self.headers.get("Content-Type", "").startswith("text/html") else ""
            raise BadAnswer(
                self.server, f"{self.request}: it sends {self.length} bytes instead of {end - start}{page}"
            )
        return order.start - start


def request_headers(shard: Shard, order: RangeRequest, is_shardcast: bool) -> dict[str, str]:
    """The headers that ask for a range of a shard. Servers that are not shardcast's have entity tags of
    their own, so that they aren't asked for ours."""
    headers = {"Accept-Encoding": "identity"}
    if shard.sha256 and is_shardcast:
        headers |= {"If-Match": etag(shard.sha256), ACCEPT: LANDING}
    if (order.start, order.end) != (0, shard.size):
        headers["Range"] = f"bytes={order.start}-{order.end - 1}"
    return headers
