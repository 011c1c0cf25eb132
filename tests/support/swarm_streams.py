"""Nodes of a swarm that have streams and no policy, and neighbours whose every byte a test chooses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from shardcast.access.proofs import End, ProofContext, new_challenge, prove
from shardcast.access.server_access import ServerAccess
from shardcast.access.signing import SigningKey
from shardcast.access.tickets import TicketVersion, check_ticket, sign_ticket
from shardcast.concurrency import cancel
from shardcast.fair_limit import FairLimit
from shardcast.protocol.swarm_frames import Control, ProofFrame, encode
from shardcast.protocol.swarm_hello import HelloFrame
from shardcast.protocol.swarm_members import NamedMember, Place
from shardcast.protocol.swarm_reader import FrameReader, Piece
from shardcast.protocol.wire import SWARM_PATH, SWARM_PROTOCOL
from shardcast.server.application import application, serve
from shardcast.server.routes.swarm_stream import add_swarm_stream_routes
from shardcast.swarm.greeting import SwarmPass
from shardcast.swarm.links import GivenPiece, Link
from shardcast.swarm.stream import SILENCE_SECONDS
from shardcast.swarm.streams import Participation, SwarmStreams

PIECE = 256 << 10
VERSION = TicketVersion(7, "e1d4", 64 * "a")


class Vouching:
    """A server that vouches for members, and those who know its key.

    Attributes:
        key: its key.
        time: the time of its clock.
    """

    def __init__(self) -> None:
        self.key = SigningKey.generate()
        self.time = time.time()

    def public_key(self, signer: str) -> bytes | None:
        """Return its key, where it signed."""
        return self.key.public if signer == self.key.id else None

    def now(self, signer: str) -> float:
        """Return the time."""
        return self.time

    def ticket(self, node: str, key: SigningKey, seconds: float = 300) -> str:
        """Return a ticket of a member."""
        return sign_ticket(VERSION, node, key.public, expires=self.time + seconds, signer=self.key)


class ScriptedExchange:
    """What a node's links say, and a node that gives what is in its file.

    Attributes:
        links: the neighbours.
        offered_pieces: what the neighbours offer, as a set.
        pieces: the pieces that came, by number.
        refusals: the pieces that were refused, and whether they can't be had.
        progress: how often bytes of a piece came.
        on_want: called for each want; returns whether to give the piece.
        hold: while it is clear, a piece that came is still worked on.
    """

    def __init__(self, file: Path) -> None:
        self.links: list[Link] = []
        self.ended: list[Link] = []
        self.offered_pieces = 0
        self.asked: set[int] = set()
        self.pieces: dict[int, bytes] = {}
        self.refusals: list[tuple[int, bool]] = []
        self.failures: list[OSError] = []
        self.progress: list[int] = []
        self.on_want: Callable[[Link, int], bool] = lambda link, number: True
        self.hold = asyncio.Event()
        self.hold.set()
        self.length = PIECE
        self._file = file.open("rb", buffering=0)
        self._gifts: dict[int, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()

    def ask(self, link: Link, *numbers: int) -> None:
        """Ask for pieces."""
        for number in numbers:
            self.asked.add(number)
            link.want(number)

    async def until(self, holds: Callable[[], bool], seconds: float = 10) -> None:
        """Wait until something that a link says makes this true."""
        async with asyncio.timeout(seconds):
            while not holds():
                self._changed.clear()
                await self._changed.wait()

    def add_link(self, link: Link) -> None:
        """Take a neighbour."""
        self.links.append(link)
        self._changed.set()

    def remove_link(self, link: Link) -> None:
        """Lose a neighbour."""
        self.ended.append(link)
        self.links.remove(link)
        self._changed.set()

    def offered(self, link: Link, gained: int, lost: int) -> None:
        """Note what is offered."""
        self.offered_pieces = (self.offered_pieces | gained) & ~lost
        self._changed.set()

    def wanted(self, link: Link, number: int) -> None:
        """Give a piece, or not."""
        if self.on_want(link, number):
            self._gifts[number] = asyncio.ensure_future(self._give(link, number))
        self._changed.set()

    async def _give(self, link: Link, number: int) -> None:
        """Give a piece."""
        try:
            await link.give(number, GivenPiece(self._file, number * PIECE, self.length))
        except OSError as error:
            self.failures.append(error)
            self._changed.set()

    def unwanted(self, link: Link, number: int) -> None:
        """Give a piece no more."""
        if number in self._gifts:
            self._gifts[number].cancel()
        self._changed.set()

    def refused(self, link: Link, number: int, *, absent: bool) -> None:
        """Note a refusal."""
        self.asked.discard(number)
        self.refusals.append((number, absent))
        self._changed.set()

    def progressed(self, link: Link, number: int) -> None:
        """Note bytes of a piece."""
        self.progress.append(number)
        self._changed.set()

    def expects(self, link: Link, number: int) -> int | None:
        """Return the length of a piece that was asked for."""
        return self.length if number in self.asked else None

    async def came(self, link: Link, number: int, data: memoryview) -> None:
        """Keep a piece."""
        await self.hold.wait()
        self.asked.discard(number)
        self.pieces[number] = bytes(data)
        self._changed.set()

    async def close(self) -> None:
        """End the gifts."""
        await cancel(self._gifts.values())
        self._file.close()


class StreamNode:
    """A node with an exchange and streams, and its member's name.

    Attributes:
        exchange: of the version.
        streams: of the node.
        member: how a server would name it.
        part: its part in the swarm.
    """

    def __init__(
        self,
        name: str,
        vouching: Vouching,
        file: Path,
        *,
        uploads: FairLimit | None = None,
        silence: float = SILENCE_SECONDS,
    ) -> None:
        self.name, self.vouching = name, vouching
        self.key = SigningKey.generate()
        self.ticket = vouching.ticket(name, self.key)
        self.exchange = ScriptedExchange(file)
        self.member = NamedMember(name, self.key.public, Place("127.0.0.1", 1))
        self.part = self.participation()
        self.streams = SwarmStreams(self.find, uploads=uploads, silence=silence)

    def participation(self, certificate: bytes = b"") -> Participation:
        """Return its part in the swarm."""
        swarm_pass = SwarmPass(
            VERSION, self.name, lambda *_: self.ticket, self.key, self.vouching, lambda: certificate
        )
        return Participation(swarm_pass, self.exchange, PIECE, 1000)

    def find(self, version: TicketVersion) -> Participation | None:
        """Return its part in the swarm of a version."""
        return self.part if version.is_same(VERSION) else None

    @property
    def link(self) -> Link:
        """Its only link."""
        (link,) = self.exchange.links
        return link

    @asynccontextmanager
    async def serving(
        self, access: ServerAccess | None = None, certificate: str | None = None
    ) -> AsyncIterator[str]:
        """Accept streams inside the block, and yield the URL."""
        app = application(
            "0a" * 16, lambda app: add_swarm_stream_routes(app, self.streams.accept), access=access
        )
        async with serve(app, "127.0.0.1", 0) as url:
            place = Place("127.0.0.1", int(url.rpartition(":")[2]))
            self.member = NamedMember(self.name, self.key.public, place, None, certificate)
            if certificate:
                self.part = self.participation(bytes.fromhex(certificate))
            try:
                yield url
            finally:
                self.streams.close("the test is over")
                await self.exchange.close()


class RawNeighbour:
    """A neighbour whose every byte a test chooses, with a ticket.

    Attributes:
        writer: the way out.
    """

    def __init__(self, node: StreamNode, name: str = "raw") -> None:
        self._node = node
        self.name = name
        self.key = SigningKey.generate()
        self.ticket = node.vouching.ticket(name, self.key)
        self.lengths: dict[int, int] = {}
        self._reader = FrameReader(lambda request: self.lengths.get(request, 0), PIECE)

    async def connect(self) -> None:
        """Connect, and switch to the stream."""
        place = self._node.member.place
        self._in, self.writer = await asyncio.open_connection(place.host, place.port)
        lines = (f"GET {SWARM_PATH} HTTP/1.1", "Host: x", "Connection: Upgrade", f"Upgrade: {SWARM_PROTOCOL}")
        self.writer.write("\r\n".join((*lines, "", "")).encode())
        assert b" 101 " in await self._in.readuntil(b"\r\n\r\n")

    async def greet(self, *, prover: SigningKey | None = None) -> None:
        """Greet, and prove the ticket with a key: its own where none is given."""
        challenge = new_challenge()
        self.send(
            HelloFrame(VERSION.number, VERSION.origin, VERSION.digest, self.name, self.ticket, challenge)
        )
        hello = await self.receive()
        assert isinstance(hello, HelloFrame)
        assert isinstance(await self.receive(), ProofFrame)
        ticket = check_ticket(hello.ticket, VERSION, self._node.vouching)
        context = ProofContext(self.key.public, ticket.key, challenge, hello.challenge)
        self.send(ProofFrame(prove(context, End.OPENER, prover or self.key)))

    def send(self, *frames: Control) -> None:
        """Send frames."""
        self.writer.write(b"".join(map(encode, frames)))

    async def receive(self) -> Control | bytes | None:
        """Return the next frame or piece; None at the end of the connection."""
        async with asyncio.timeout(10):
            while (frame := self._reader.next_frame()) is None:
                buffer = self._reader.get_buffer()
                try:
                    data = await self._in.read(len(buffer))
                except ConnectionError:
                    return None
                if not data:
                    return None
                buffer[: len(data)] = data
                self._reader.received(len(data))
            return bytes(frame.data) if isinstance(frame, Piece) else frame

    def drop(self, request: int) -> None:
        """Forget the bytes of a request that was refused."""
        self._reader.drop(request)

    async def receive_last(self) -> Control | bytes | None:
        """Return the last frame before the connection ends."""
        last = None
        while (frame := await self.receive()) is not None:
            last = frame
        return last

    async def close(self) -> None:
        """End the connection."""
        self.writer.transport.abort()
