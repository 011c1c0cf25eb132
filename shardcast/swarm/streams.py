"""The streams of a node to its neighbours: opened and accepted ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakSet

from shardcast.access.proofs import End
from shardcast.access.tickets import Ticket, TicketVersion
from shardcast.fair_limit import FairLimit, Share
from shardcast.peer.upgrade import open_upgraded
from shardcast.protocol.piece_numbers import MAX_PIECES
from shardcast.protocol.swarm_members import NamedMember
from shardcast.protocol.wire import SWARM_PATH, SWARM_PROTOCOL
from shardcast.swarm.greeting import GREETING_SECONDS, Greeting, StreamRefused, SwarmPass
from shardcast.swarm.stream import SILENCE_SECONDS, SwarmStream
from shardcast.swarm.stream_link import PieceExchange, StreamLink


@dataclass(frozen=True, slots=True)
class Participation:
    """A node's part in the swarm of one version.

    Attributes:
        swarm_pass: the node's credentials towards its neighbours.
        exchange: exchange of the version's pieces.
        piece_size: bytes of a piece.
        max_pieces: number of pieces of the version, or the maximum for an open one.
        admits: whether a member may become a neighbour: the node has not enough, and the member is neither a
            neighbour yet nor banned.
        is_near: whether a member is in the same site.
    """

    swarm_pass: SwarmPass
    exchange: PieceExchange
    piece_size: int
    max_pieces: int = MAX_PIECES
    admits: Callable[[Ticket], bool] = lambda ticket: True
    is_near: Callable[[Ticket], bool] = lambda ticket: False


class SwarmStreams:
    """The streams of a node, for all its shared versions."""

    def __init__(
        self,
        find: Callable[[TicketVersion], Participation | None],
        *,
        uploads: FairLimit | None = None,
        downloads: FairLimit | None = None,
        silence: float = SILENCE_SECONDS,
    ) -> None:
        """Have no stream yet.

        Args:
            find: returns the node's part in the swarm of a version; None for none.
            uploads: limit of sent bytes of pieces; None without one.
            downloads: the same of received ones.
            silence: seconds without a byte until a stream ends.
        """
        self._find = find
        self._uploads, self._downloads = uploads, downloads
        self._silence = silence
        self._open: set[SwarmStream] = set()
        self._ended = WeakSet[SwarmStream]()

    async def open(self, member: NamedMember, part: Participation) -> StreamLink:
        """Connect to a member, and return the link once both ends know each other.

        Raises:
            PeerError: there is no connection, or no stream over it.
            StreamRefused: the member refuses, or another one answers.
            OSError: there are too many open files.
        """
        certificate = bytes.fromhex(member.certificate) if member.certificate else None
        place = member.place
        upgraded = await open_upgraded(
            place.host, place.port, SWARM_PATH, SWARM_PROTOCOL, certificate=certificate
        )
        links: list[StreamLink] = []

        def meet(stream: SwarmStream, ticket: Ticket, _: SwarmPass) -> None:
            if (ticket.node, ticket.key) != (member.node, member.key):
                raise StreamRefused("another member than the one that was announced answers there")
            links.append(_link(stream, ticket, part))

        greeting = Greeting(End.OPENER, lambda version: part.swarm_pass, meet)
        stream = self._attach(greeting, upgraded.transport, upgraded.early)
        greeting.open(stream, part.swarm_pass.version, member.key, upgraded.certificate)
        await self._greet(greeting, stream)
        return links[0]

    async def accept(self, transport: asyncio.Transport) -> None:
        """Take a connection opened by a neighbour, and return at the end of its stream.

        Raises:
            OSError: there are too many open files.
        """
        parts: dict[int, Participation] = {}

        def find(version: TicketVersion) -> SwarmPass | None:
            part = self._find(version)
            if part is not None:
                parts[id(part.swarm_pass)] = part
            return part.swarm_pass if part else None

        def meet(stream: SwarmStream, ticket: Ticket, swarm_pass: SwarmPass) -> None:
            _link(stream, ticket, parts[id(swarm_pass)])

        greeting = Greeting(End.ACCEPTOR, find, meet)
        stream = self._attach(greeting, transport, b"")
        greeting.begin(stream)
        try:
            await self._greet(greeting, stream)
        except StreamRefused:
            return
        await stream.wait_ended()

    def close(self, reason: str) -> None:
        """End all streams; ``reason`` is told to the neighbours."""
        for stream in list(self._open):
            stream.close(reason)

    def end(self) -> None:
        """Drop the rest of closed streams, before the end of this node's loop."""
        for stream in list(self._ended):
            stream.drop()

    def _note_end(self, stream: SwarmStream) -> None:
        self._open.discard(stream)
        self._ended.add(stream)

    def _attach(self, greeting: Greeting, transport: asyncio.Transport, early: bytes) -> SwarmStream:
        """Begin a stream on a connection.

        Raises:
            OSError: there are too many open files. The connection is dropped.
        """
        peer = transport.get_extra_info("peername")
        address = peer[0] if isinstance(peer, tuple) else None

        def share(limit: FairLimit | None) -> Share | None:
            return limit.open(address) if limit else None

        stream = SwarmStream(
            greeting,
            uploads=share(self._uploads),
            downloads=share(self._downloads),
            silence=self._silence,
            ended=self._note_end,
        )
        stream.attach(transport, early)
        self._open.add(stream)
        return stream

    async def _greet(self, greeting: Greeting, stream: SwarmStream) -> None:
        """Wait until both ends know each other.

        Raises:
            StreamRefused: they don't, or not in time.
        """
        try:
            async with asyncio.timeout(GREETING_SECONDS):
                await greeting.met
        except TimeoutError:
            stream.close(f"no greeting within {GREETING_SECONDS:g} s")
            raise StreamRefused(f"no greeting within {GREETING_SECONDS:g} s") from None
        except asyncio.CancelledError:
            stream.close("this node gave the stream up")
            raise


def _link(stream: SwarmStream, ticket: Ticket, part: Participation) -> StreamLink:
    """Return the link over a stream whose ends know each other.

    Raises:
        StreamRefused: this node does not want the neighbour.
    """
    if not part.admits(ticket):
        raise StreamRefused("this node has enough neighbours, or that one already")
    stream.reader.take_pieces_of(part.piece_size)
    stream.reader.max_pieces = part.max_pieces
    link = StreamLink(stream, part.exchange, ticket, part.swarm_pass, near=part.is_near(ticket))
    part.exchange.add_link(link)
    return link
