"""The next ranges of a version, asked from a server that hands them out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from shardcast.errors import BadAnswer, UsageError
from shardcast.fair_limit import Share
from shardcast.peer.bulk import NotPlain
from shardcast.peer.download_limit import shard_turn
from shardcast.peer.failures import status_error
from shardcast.peer.pace import read_paced
from shardcast.peer.proxies import proxy_of
from shardcast.peer.quick_connection import QuickHead
from shardcast.peer.quick_exchange import QuickConnections, SmallRequest
from shardcast.peer.requests import Answer
from shardcast.peer.session import Session, answer
from shardcast.protocol.next_range import (
    MAX_ACROSS_RUNS,
    MAX_WAIT_MS,
    NextRangeError,
    NextRequest,
    NotNow,
    RangeHead,
    encode_request,
    parse_claims,
    parse_not_now,
    parse_range_head,
    reportable,
)
from shardcast.protocol.piece_numbers import PieceNumbers
from shardcast.protocol.wire import next_path

_UNSUPPORTED = frozenset({404, 405, 410, 501})
"""Statuses for an unknown path, from servers without ranges to hand out."""
_MAX_UNPLACED = 64
"""Maximum lost ranges to remember of shards not yet known."""
_UNSUPPORTED_SECONDS = 60.0
"""Seconds until such a server may be asked again: another program may answer there by then."""

FindBuffer = Callable[[RangeHead], memoryview | None]
"""A function that returns a buffer of exactly the length of a range; None to decline the range."""


@dataclass(frozen=True, slots=True)
class ReceivedRange:
    """A received range.

    Attributes:
        head: place of the bytes in the version. They are in the caller's buffer, and not verified.
    """

    head: RangeHead


@dataclass(frozen=True, slots=True)
class DeclinedRange:
    """A range declined by the caller; the server hands it out again."""

    head: RangeHead


@dataclass(frozen=True, slots=True)
class NoRange:
    """An answer without bytes.

    Attributes:
        reason: why; None for a server that hands out no ranges at all.
        seconds: to wait until the next request.
        claims: mask of the pieces to ask from neighbours in other sites.
    """

    reason: NotNow | None
    seconds: float
    claims: int = 0


class RangeServer:
    """A server that may hand out ranges, over connections kept for all versions."""

    def __init__(self, server: str, session: Session, timeout: float) -> None:
        """Prepare to ask.

        Args:
            server: URL of the server.
            session: session of the node.
            timeout: seconds for the head of an answer, and for 64 KiB of a body.
        """
        self.server = server
        self.session = session
        self.timeout = timeout
        self.quick = QuickConnections(server, session, timeout)
        self.is_plain = proxy_of(server) is None

    def wait_ms(self, seconds: float) -> int:
        """Return the milliseconds for which a request may be kept, at most so many seconds.

        0 with a download limit, where an answer without bytes takes the place of another.
        """
        if self.session.downloads is not None:
            return 0
        return min(int(1000 * min(seconds, self.timeout / 4)), MAX_WAIT_MS)

    def ranges(self, version: str, node: str, numbers: PieceNumbers, *, proof: str = "") -> NextRanges:
        """Return the next ranges of a version for a node.

        Args:
            version: the version.
            node: the id of the node's run.
            numbers: numbers of the version's pieces; they may grow.
            proof: shows the id to be the node's own, at servers with its announcement; empty without one.
        """
        return NextRanges(self, version, node, numbers, proof=proof)


class NextRanges:
    """The next ranges of one version from one server, and the facts told to this server."""

    def __init__(
        self, server: RangeServer, version: str, node: str, numbers: PieceNumbers, *, proof: str = ""
    ) -> None:
        self._server = server
        self._path = next_path(version)
        self._node = node
        self._proof = proof
        self._numbers = numbers
        self._told = 0
        self._lost = 0
        self._unplaced: deque[RangeHead] = deque(maxlen=_MAX_UNPLACED)

    def report_lost(self, mask: int) -> None:
        """Tell the server, by the next request, of handed-out pieces that came wrong, or not at all."""
        self._lost |= mask

    async def ask(
        self,
        held: int,
        find_buffer: FindBuffer,
        *,
        asked: int = 0,
        offered: bool = False,
        max_pieces: int = 1,
        site: str | None = None,
        across: int | None = None,
        wait: float = 0.0,
    ) -> ReceivedRange | DeclinedRange | NoRange:
        """Ask for the next range, and receive its bytes.

        Several requests may be under way at the same time. One that fails or is cancelled after its head came
        counts as lost.

        Args:
            held: the local pieces.
            find_buffer: returns the place for the bytes.
            asked: the pieces asked from others.
            offered: whether a neighbour offers a missing piece.
            max_pieces: maximum pieces in the answer.
            site: the node's site; None to have the server guess one.
            across: the pieces on offer only in other sites; None for a node without knowledge of borders.
            wait: seconds for which the server may keep the request until there is something to hand out.

        Raises:
            AccessDenied: the server wants a token, or another one.
            ServerUnreachable, ServerStalled, ServerBusy, BadAnswer: as their names say.
            TlsFailure, CannotAsk: as their names say.
            UsageError: the server is not https, and TLS is required.
        """
        self._place_lost()
        for _ in range(2):
            new, lost = reportable(held & ~self._told), reportable(self._lost)
            told = self._told | new
            request = NextRequest(
                node=self._node,
                has=new,
                count=told.bit_count(),
                asked=reportable(asked),
                lost=lost,
                offered=offered,
                max_pieces=max_pieces,
                site=site,
                across=None if across is None else reportable(across, MAX_ACROSS_RUNS),
                proof=self._proof,
                wait_ms=self._server.wait_ms(wait),
            )
            received = _Receiving(find_buffer)
            try:
                head = await self._exchange(
                    SmallRequest("POST", self._path, encode_request(request)), received
                )
            except BaseException:
                if received.head:
                    self.lose(received.head)
                raise
            if head.status == 409:
                self._told = 0
                continue
            if head.status in (204, 206, 503):
                self._told |= new
                self._lost &= ~lost
            return self._read(head, received)
        raise BadAnswer(self._server.server, f"POST {self._path}: it asks for all pieces again and again")

    async def _exchange(self, request: SmallRequest, received: _Receiving) -> Answer:
        """Send a request, and return the head of the answer once the bytes are in their buffer."""
        server = self._server
        if server.session.downloads is None:
            return await self._exchange_in_turn(request, received, None)
        async with shard_turn(server.session.downloads, server.server) as share:
            return await self._exchange_in_turn(request, received, share)

    async def _exchange_in_turn(
        self, request: SmallRequest, received: _Receiving, share: Share | None
    ) -> Answer:
        """Exchange as ``_exchange`` does, with a share of the download limit."""
        server, name = self._server, request.name
        if not server.is_plain:
            return await self._exchange_by_aiohttp(request, received, share)

        def place(head: QuickHead) -> memoryview | None:
            return received.place(Answer(server.server, name, head.status, head, head.reason))

        try:
            head = await server.quick.ask(request, place)
        except NotPlain:
            server.is_plain = False
            what = f"{name}: the answer has no length; the next one is read in another way"
            raise BadAnswer(server.server, what) from None
        if share and received.buffer:
            await share.take_all(len(received.buffer))
        return Answer(server.server, name, head.status, head, head.reason)

    async def _exchange_by_aiohttp(
        self, request: SmallRequest, received: _Receiving, share: Share | None
    ) -> Answer:
        """Send a request through a proxy, or to a server whose answers are not plain."""
        server, headers = self._server, {"Content-Type": request.content_type}
        async with answer(
            server.session, server.server, request.path, request.method,
            headers=headers, silence=server.timeout, body=request.body,
        ) as response:  # fmt: skip
            head = Answer(server.server, request.name, response.status, response.headers, response.reason)
            buffer, filled = received.place(head), 0
            if buffer is None:
                response.close()
                return head
            chunks = read_paced(response, server.server, request.name, server.timeout, share=share)
            async with aclosing(chunks) as paced:
                async for chunk in paced:
                    if filled + len(chunk) > len(buffer):
                        raise BadAnswer(server.server, f"{request.name}: it sends more than it said")
                    buffer[filled : filled + len(chunk)] = chunk
                    filled += len(chunk)
            if filled < len(buffer):
                missing = len(buffer) - filled
                raise BadAnswer(server.server, f"{request.name}: it ended {missing} bytes too early")
            return head

    def _read(self, head: Answer, received: _Receiving) -> ReceivedRange | DeclinedRange | NoRange:
        """Return the meaning of an answer.

        Raises:
            PeerError: the answer is not one of this protocol.
        """
        if head.status == 206 and received.head:
            if received.buffer is not None:
                return ReceivedRange(received.head)
            self.lose(received.head)
            return DeclinedRange(received.head)
        reason, seconds = parse_not_now(head.headers)
        if reason is NotNow.CLAIMS and head.status == 204:
            try:
                return NoRange(reason, seconds, parse_claims(head.headers))
            except NextRangeError as error:
                raise BadAnswer(head.server, f"{head.request}: {error}") from None
        if reason is not None and head.status in (204, 404, 503):
            return NoRange(reason, seconds)
        if head.status in _UNSUPPORTED:
            return NoRange(None, _UNSUPPORTED_SECONDS)
        raise status_error(head.server, head.request, head.status, head.headers, reason=head.reason)

    def lose(self, head: RangeHead) -> None:
        """Tell the server, by the next request, of a handed-out range that did not come."""
        self._unplaced.append(head)
        self._place_lost()

    def _place_lost(self) -> None:
        """Add the pieces of lost ranges to the next report, as far as their shards are known by now."""
        for head in list(self._unplaced):
            if head.shard <= self._numbers.shard_count:
                self._lost |= self._numbers.whole_within(head.shard, head.start, head.end)
                self._unplaced.remove(head)


class _Receiving:
    """The range of an answer, and the place for its bytes.

    Attributes:
        head: the range; None until the head of the answer came, and for an answer without bytes.
        buffer: place for the bytes; None for unwanted ones.
    """

    __slots__ = ("_find_buffer", "buffer", "head")

    def __init__(self, find_buffer: FindBuffer) -> None:
        self._find_buffer = find_buffer
        self.head: RangeHead | None = None
        self.buffer: memoryview | None = None

    def place(self, answer: Answer) -> memoryview | None:
        """Return where the body of an answer goes; None for a body to drop.

        Raises:
            PeerError: the head names no range, or the body is compressed.
            UsageError: the caller's buffer has another length than the range.
        """
        if answer.status != 206:
            return None
        answer.check_status(206)
        try:
            self.head = parse_range_head(answer.headers)
        except NextRangeError as error:
            raise BadAnswer(answer.server, f"{answer.request}: {error}") from None
        buffer = self._find_buffer(self.head)
        if buffer is not None and len(buffer) != self.head.end - self.head.start:
            raise UsageError(f"a buffer of {len(buffer)} bytes for another range")
        self.buffer = buffer
        return buffer
