"""Requests for ranges of shards, and the checks of their answers, for both ways of receiving bytes."""

from __future__ import annotations

from dataclasses import dataclass

from shardcast.errors import BadAnswer
from shardcast.peer.failures import Headers, status_error
from shardcast.protocol.manifest import Shard
from shardcast.protocol.wire import ACCEPT_HEADER, LANDING, STATE_HEADER, WHOLE, etag, parse_content_range


@dataclass
class RangeRequest:
    """A range of a shard, asked from one server.

    The receiving thread writes ``received``, ``writing`` and ``still_landing``, the event loop writes
    ``end``, which only falls. Each reads the other's as a plain value, possibly a moment old.

    Attributes:
        start: offset of the first byte in the shard, at a piece's start.
        end: offset after the last byte; falls when another connection takes the rest over.
        received: bytes received so far.
        writing: whether the receiver waits for this machine: for bytes to be verified and written, or for its
            turn under the download limit.
        still_landing: whether the shard is still landing at the server.
    """

    start: int
    end: int
    received: int = 0
    writing: bool = False
    still_landing: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """The head of an answer.

    Attributes:
        server: the URL of the server.
        request: such as ``GET /v1/shard_001.bin``.
        status: such as 200.
        headers: of the answer.
        reason: the phrase beside the status.
    """

    server: str
    request: str
    status: int
    headers: Headers
    reason: str | None = None

    def check_status(self, *accepted: int) -> None:
        """Check for an ``accepted`` status, and a body without encoding.

        Raises:
            PeerError: another status, as `failures.status_error` reads it.
            BadAnswer: an unrequested encoding.
        """
        if self.status not in accepted:
            raise status_error(self.server, self.request, self.status, self.headers, reason=self.reason)
        if self.headers.get("Content-Encoding", "identity") != "identity":
            raise BadAnswer(self.server, f"{self.request}: the answer is compressed")

    @property
    def length(self) -> int | None:
        """Bytes of the body; None where the answer doesn't tell."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None

    def check_body(self, shard: Shard, request: RangeRequest) -> int:
        """Check the head, and return the number of bytes of the body before the first requested one.

        Sets ``request.still_landing``.

        Raises:
            PeerError: another status, as `failures.status_error` reads it.
            BadAnswer: the answer is not the range of this shard.
        """
        self.check_status(200, 206)
        request.still_landing = self.headers.get(STATE_HEADER, WHOLE) == LANDING
        start, end = 0, shard.size
        if self.status == 206:
            content_range = self.headers.get("Content-Range", "nothing")
            span = parse_content_range(content_range)
            if span is None or span[0] > request.start or span[1] < request.end:
                asked = f"bytes {request.start}-{request.end - 1}"
                raise BadAnswer(
                    self.server, f"{self.request}: {asked} were asked for, and it says {content_range}"
                )
            start, end = span
        if self.length not in (None, end - start):
            page = ", a web page" if self.headers.get("Content-Type", "").startswith("text/html") else ""
            raise BadAnswer(
                self.server, f"{self.request}: it sends {self.length} bytes instead of {end - start}{page}"
            )
        return request.start - start


def request_headers(shard: Shard, request: RangeRequest, is_shardcast: bool) -> dict[str, str]:
    """Return the headers of a request for a range of a shard.

    Only shardcast nodes are asked to match the digest: other servers have entity tags of their own.
    """
    headers = {"Accept-Encoding": "identity"}
    if shard.sha256 and is_shardcast:
        headers |= {"If-Match": etag(shard.sha256), ACCEPT_HEADER: LANDING}
    if (request.start, request.end) != (0, shard.size):
        headers["Range"] = f"bytes={request.start}-{request.end - 1}"
    return headers
