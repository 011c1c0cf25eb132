"""Give or take pieces over the streams of a swarm, as nodes do.

``give FILE HOST``: listen, print the port, and give pieces of FILE to all members that connect.
``take PLACES STREAMS COUNT PIECES MANIFEST OUTPUT``: take COUNT pieces, one request out a stream, and print
the CPU seconds as JSON. With PIECES 0 the two ends tell each other of pieces instead, COUNT times in all,
each after the other. A place is ``HOST:PORT``.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from carrier_work import PIECE, Work

from shardcast.access.signing import SigningKey
from shardcast.access.tickets import TicketVersion, sign_ticket
from shardcast.protocol.swarm_members import NamedMember, Place
from shardcast.server.application import application, serve
from shardcast.server.routes.swarm_stream import add_swarm_stream_routes
from shardcast.swarm.greeting import SwarmPass
from shardcast.swarm.links import GivenPiece, Link
from shardcast.swarm.streams import Participation, SwarmStreams

VERSION = TicketVersion(1, "e1d4", 64 * "a")
VOUCHER, GIVER = SigningKey.from_seed(bytes(32)), SigningKey.from_seed(b"\1" * 32)
BATCH = sum(1 << 40 * number for number in range(5))
"""A batch of haves: five ranges of pieces."""


class Vouchers:
    """The one server that signed all tickets."""

    def public_key(self, signer: str) -> bytes | None:
        """Return its key."""
        return VOUCHER.public

    def now(self, signer: str) -> float:
        """Return the time."""
        return time.time()


class Exchange:
    """Gives all that is asked for, and does with what is said what a subclass does."""

    def __init__(self, file: Path | None = None) -> None:
        """Give pieces of a file."""
        self._file = file.open("rb", buffering=0) if file else None
        self._gifts: set[asyncio.Task[None]] = set()

    def add_link(self, link: Link) -> None:
        """Take a neighbour."""

    def remove_link(self, link: Link) -> None:
        """Lose a neighbour."""

    def offered(self, link: Link, gained: int, lost: int) -> None:
        """Tell something, too."""
        link.tell(BATCH, 0)

    def wanted(self, link: Link, number: int) -> None:
        """Give a piece."""
        assert self._file is not None
        gift = asyncio.ensure_future(link.give(number, GivenPiece(self._file, number * PIECE, PIECE)))
        self._gifts.add(gift)
        gift.add_done_callback(self._gifts.discard)

    def unwanted(self, link: Link, number: int) -> None:
        """Do nothing."""

    def refused(self, link: Link, number: int, *, absent: bool) -> None:
        """Fail."""
        sys.exit(f"piece {number} was refused")

    def progressed(self, link: Link, number: int) -> None:
        """Do nothing."""

    def expects(self, link: Link, number: int) -> int | None:
        """Return the bytes of a piece."""
        return PIECE

    async def came(self, link: Link, number: int, data: memoryview) -> None:
        """Do nothing."""


class Taker(Exchange):
    """Takes a run's pieces."""

    def __init__(self, work: Work, pieces: int) -> None:
        """Take pieces, or, with 0 ``pieces``, tell of some."""
        super().__init__()
        self._work, self._pieces = work, pieces
        self._ranges = work.todo(1)
        self.done = asyncio.Event()

    def ask(self, link: Link) -> None:
        """Ask for the next piece, or tell of some."""
        if self._work.left <= 0:
            self.done.set()
        elif self._pieces:
            link.want(next(self._ranges)[0])
        else:
            self._work.left -= 2
            link.tell(BATCH, 0)

    def add_link(self, link: Link) -> None:
        """Ask a neighbour."""
        self.ask(link)

    def offered(self, link: Link, gained: int, lost: int) -> None:
        """Go on."""
        self.ask(link)

    async def came(self, link: Link, number: int, data: memoryview) -> None:
        """Verify and write a piece, and ask for the next one."""
        self._work.take(number, data)
        self.ask(link)


def part_of(name: str, key: SigningKey, exchange: Exchange) -> Participation:
    """Return a node's part in the swarm."""
    ticket = sign_ticket(VERSION, name, key.public, expires=time.time() + 86_400, signer=VOUCHER)
    return Participation(SwarmPass(VERSION, name, lambda *_: ticket, key, Vouchers()), exchange, PIECE)


async def give(path: str, host: str) -> None:
    """Give pieces of a file, until killed."""
    part = part_of("giver", GIVER, Exchange(Path(path)))
    streams = SwarmStreams(lambda version: part)
    app = application("0a" * 16, lambda app: add_swarm_stream_routes(app, streams.accept))
    async with serve(app, host, 0) as url:
        print(url.rpartition(":")[2], flush=True)
        await asyncio.Event().wait()


async def take(places: str, count: str, number: str, pieces: str, manifest: str, output: str) -> None:
    """Take pieces, or tell of some."""
    work = Work(manifest, output, int(number))
    taker = Taker(work, int(pieces))
    streams = SwarmStreams(lambda version: None)
    found = [place.rpartition(":") for place in places.split(",")]
    for index in range(int(count)):
        host, _, port = found[index % len(found)]
        part = part_of(f"taker{index}", SigningKey.generate(), taker)
        await streams.open(NamedMember("giver", GIVER.public, Place(host, int(port))), part)
    await taker.done.wait()
    work.finish()


what, *words = sys.argv[1:]
asyncio.run(give(*words) if what == "give" else take(*words))
