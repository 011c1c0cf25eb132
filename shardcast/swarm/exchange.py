"""The exchange of one version's pieces: requests, verification, offers and gifts of this node.

``policy.swarm`` decides; this carries decisions out, on the event loop. Only changes of a file run in
threads.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Hashable

from shardcast.concurrency import cancel
from shardcast.errors import PeerError
from shardcast.log_fields import about
from shardcast.policy.swarm.answers import AnswerSlots
from shardcast.policy.swarm.chooser import RangeChooser
from shardcast.policy.swarm.requests import SwarmRequest
from shardcast.protocol.piece_numbers import PieceNumbers
from shardcast.store.landing import WrongPiece
from shardcast.store.live_manifest import LiveManifest
from shardcast.swarm.arrivals import Arrivals
from shardcast.swarm.exchange_tasks import ExchangeTasks
from shardcast.swarm.gifts import Gifts
from shardcast.swarm.links import Link, PieceFiles, PieceServer, PieceSink
from shardcast.swarm.offers import Offers
from shardcast.swarm.piece_writer import PieceWriter
from shardcast.swarm.receipts import Receipts

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.25
"""Seconds between two looks at requests without progress."""
_TURN_SECONDS = 5.0
"""Seconds for a request to wait for its turn at a neighbour with other pieces to send. On a slow link each
takes most of a second while a node gives eight at once, and those to one neighbour go in turn."""


class Exchange:
    """One version at one node of a swarm.

    Attributes:
        arrivals: the local pieces of the version.
        chooser: the decisions of this node.
        links: the neighbours, by key.
        receipts: the received pieces, by source.
        gifts: the pieces on their way to neighbours.
        banned: the keys of neighbours with wrong pieces.
        when_met: called with each new link.
        when_left: called with each ended link.
    """

    def __init__(
        self,
        live: LiveManifest,
        files: PieceFiles,
        *,
        chooser: RangeChooser,
        slots: AnswerSlots,
        writer: PieceWriter | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with no neighbour and no server.

        Args:
            live: the version's manifest; an open version's grows.
            files: place of verified pieces.
            chooser: decides on requests.
            slots: slots of this node's simultaneous answers, for all its versions together.
            writer: verifies and writes the pieces, of all its versions together.
            clock: gives seconds; a test's in tests.
        """
        self.chooser = chooser
        self.links: dict[Hashable, Link] = {}
        self.receipts = Receipts()
        self.gifts = Gifts(slots)
        self.banned: set[Hashable] = set()
        self.when_met: Callable[[Link], object] = lambda link: None
        self.when_left: Callable[[Link], object] = lambda link: None
        self._live = live
        self.arrivals = Arrivals(live)
        self._files = files
        self._writer = writer or PieceWriter()
        self._clock = clock
        self._asks = False
        self._servers: dict[Hashable, PieceServer] = {}
        self._offers = Offers(chooser.rules, clock)
        self._work = asyncio.Event()
        self._asked: dict[tuple[Hashable, int], SwarmRequest] = {}
        self._tasks = ExchangeTasks(live.version, self._work.set)

    # Members

    @property
    def numbers(self) -> PieceNumbers:
        """The numbers of the version's pieces; an open version's grow."""
        return self.arrivals.numbers

    @property
    def hands_out(self) -> bool:
        """Whether a server hands out pieces, and they can be taken here."""
        return bool(self._servers) and self.failure is None

    @property
    def failure(self) -> BaseException | None:
        """Why no piece can be taken any more; None while they can."""
        return self._tasks.failure

    @property
    def is_whole(self) -> bool:
        """Whether all of the version is here, once its end is known."""
        return self._live.manifest is not None and self.chooser.held == self.numbers.everything

    def attach(self, sink: PieceSink) -> None:
        """Offer pieces landing in a sink from now on, whatever their source."""
        self.arrivals.sink = sink

    def detach(self) -> None:
        """Ask for no more pieces, and look at the sink no more."""
        self.rest()
        self.arrivals.sink = None

    def begin(self) -> None:
        """Fetch into the sink's landings from now on, as they are opened."""
        self._asks = True
        self._work.set()

    def rest(self) -> None:
        """Ask for no more pieces until ``begin``; those under way still count."""
        self._asks = False

    def hold_all(self) -> None:
        """Record the whole version as local, offer it to the neighbours, and detach the sink."""
        mask = self.arrivals.everything()
        self.chooser.extend(mask)
        self.chooser.hold(mask)
        self._note_servable(mask)
        self.detach()
        self._work.set()

    def add_server(self, server: PieceServer, *, first_at: float = 0.0) -> None:
        """Ask a server, too, for its next ranges; not before ``first_at``, by the clock."""
        if server.url not in self._servers:
            self._servers[server.url] = server
            self.chooser.add_server(server.url, first_at=first_at)
            self._work.set()

    def add_link(self, link: Link) -> None:
        """Exchange pieces with one more neighbour, and tell it the pieces offered here."""
        self.links[link.key] = link
        self.chooser.neighbours.add(link.key, near=link.near)
        self.when_met(link)
        link.tell(self._offers.told, 0)  # may find the stream ended, which removes the link
        self._work.set()

    def remove_link(self, link: Link) -> None:
        """Forget a neighbour whose stream ended, the requests to it and the answers."""
        if self.links.get(link.key) is not link:
            return
        del self.links[link.key]
        for request in self.chooser.remove_neighbour(link.key):
            self._forget(request)
        self.gifts.cancel_all(link)
        self.when_left(link)
        self._work.set()

    def is_done(self, key: Hashable) -> bool:
        """Return whether a neighbour offers all of the version, once its end is known."""
        return (
            self._live.manifest is not None
            and not self.numbers.everything & ~self.chooser.neighbours[key].offered
        )

    async def run(self) -> None:
        """Exchange pieces until this is cancelled, or fails; then close all links."""
        tasks = [asyncio.ensure_future(work) for work in (self._ask(), self._offer(), self._look())]
        try:
            with self._tasks.keeping_failure():
                await asyncio.gather(*tasks)
        finally:
            await cancel(tasks)
            await self._tasks.end()
            await self.gifts.end()
            for link in list(self.links.values()):
                link.close("the version is not shared here any more")

    # Asking

    async def _ask(self) -> None:
        """Send requests, as long as there is anything to ask for."""
        while True:
            self._work.clear()
            now = self._clock()
            while self._asks and (request := self.chooser.next_request(now)):
                self._send(request)
            pause = self.chooser.wake_at - now if self._asks else float("inf")
            try:
                async with asyncio.timeout(None if pause == float("inf") else max(pause, 0.0)):
                    await self._work.wait()
            except TimeoutError:
                continue

    def _send(self, request: SwarmRequest) -> None:
        """Send one request."""
        if request.server is not None:
            self._tasks.begin(self._ask_server(request, self._servers[request.server.key]))
            return
        assert request.neighbour is not None and request.number is not None
        self._asked[request.neighbour.key, request.number] = request
        self.links[request.neighbour.key].want(request.number)

    async def _ask_server(self, request: SwarmRequest, server: PieceServer) -> None:
        """Ask a server for its next piece, and land the piece."""
        assert request.asked is not None
        try:
            handed = await server.next_piece(request.asked)
        except PeerError as error:
            log.debug("%s", error)
            if request in self.chooser.under_way:
                self.chooser.failed(request, self._clock())
            return
        finally:
            self._work.set()
        if not handed.supported:
            self._servers.pop(server.url, None)
            self.chooser.remove_server(server.url)
        if request not in self.chooser.under_way:
            return
        if self.chooser.answered(request, handed.handout, self._clock()) and handed.data is not None:
            assert handed.number is not None
            if await self.arrivals.wait_landing(self.numbers.run(handed.number).shard) is None:
                server.report_wrong(handed.number)
            self._learn()
            await self._take(request, handed.data, server.url)

    async def _take(self, request: SwarmRequest, data: memoryview, sender: Hashable) -> None:
        """Verify and write the piece of a request; after a wrong one, ban its sender for this version."""
        assert request.number is not None
        place = self.numbers.run(request.number)
        landing = self.arrivals.landing(place.shard)
        if landing is None or not landing.is_open:
            self._drop(request)
            return
        try:
            if len(data) != place.length:
                raise WrongPiece(place.offset)
            await self._writer.write(landing, place.offset, data)
        except WrongPiece:
            log.warning(
                "%s sent a wrong piece of %s, and is not asked for this version again",
                f"the neighbour with key {sender.hex()}" if isinstance(sender, bytes) else sender,
                self._live.version,
                extra=about(version=self._live.version),
            )
            for other in self.chooser.wrong(request, self._clock()) if self._is_out(request) else ():
                self._withdraw(other)
            self.banned.add(sender)
            self._servers.pop(sender, None)
            if sender in self.links:
                self.links[sender].close("it sent a wrong piece")
            self._work.set()
            return
        self.receipts.count(request, len(data))
        self._landed(request)
        if self.arrivals.sink:
            await self.arrivals.sink.commit_if_whole(place.shard)

    def _drop(self, request: SwarmRequest) -> None:
        """End the request of a piece that has no open landing: it is here already, or counts as failed.

        The shard came whole by another way, or is no longer fetched; the piece is not wrong.
        """
        self._learn()
        assert request.number is not None
        if self.chooser.held >> request.number & 1:
            self._landed(request)
        elif self._is_out(request):
            self.chooser.failed(request, self._clock())
            self._work.set()

    def _landed(self, request: SwarmRequest) -> None:
        """Record a request's piece as local, cancel other requests for it, and have it offered."""
        if self._is_out(request):
            for loser in self.chooser.received(request, self._clock()):
                self._withdraw(loser)
        elif request.number is not None:
            self.chooser.hold(1 << request.number)
        if request.number is not None:
            self._note_servable(1 << request.number)
        self._work.set()

    def _is_out(self, request: SwarmRequest) -> bool:
        """Return whether a request is not over yet."""
        return request in self.chooser.under_way

    def _withdraw(self, request: SwarmRequest) -> None:
        """Cancel a request already over for the chooser."""
        self._forget(request)
        if request.neighbour is not None and request.number is not None:
            link = self.links.get(request.neighbour.key)
            if link:
                link.cancel(request.number)

    def _forget(self, request: SwarmRequest) -> None:
        """Expect no answer to a request any more."""
        if request.neighbour is not None and request.number is not None:
            self._asked.pop((request.neighbour.key, request.number), None)

    async def _look(self) -> None:
        """Give up requests without progress, so others are asked; for ever."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now = self._clock()
            for request in self.chooser.stalled(now):
                if request.server is not None and request.number is None:
                    continue  # the call has a deadline of its own
                self.chooser.failed(request, now)
                self._withdraw(request)
                self._work.set()

    # Messages of neighbours

    def offered(self, link: Link, gained: int, lost: int) -> None:
        """Record the pieces gained and lost by a neighbour, as masks."""
        neighbours = self.chooser.neighbours
        if link.key in neighbours:
            neighbours.offers(link.key, gained)  # also of shards whose lines have yet to come here
            neighbours.withdraws(link.key, lost)
            self._work.set()

    def refused(self, link: Link, number: int, *, absent: bool) -> None:
        """End a request refused by a neighbour; ``absent``: it lacks the piece, else it is busy."""
        request = self._asked.pop((link.key, number), None)
        if request is None or not self._is_out(request):
            return
        (self.chooser.absent if absent else self.chooser.refused)(request, self._clock())
        self._work.set()

    def progressed(self, link: Link, number: int) -> None:
        """Record new bytes of a piece. Other pieces of this neighbour wait for their turn meanwhile."""
        now = self._clock()
        for (key, asked), request in self._asked.items():
            if key == link.key and (asked == number or now - request.since < _TURN_SECONDS):
                request.progress_at = now

    def expects(self, link: Link, number: int) -> int | None:
        """Return the bytes of a requested piece; None for one never requested, or no longer."""
        return self.numbers.run(number).length if (link.key, number) in self._asked else None

    async def came(self, link: Link, number: int, data: memoryview) -> None:
        """Verify and write a requested piece, unless its request is over."""
        request = self._asked.pop((link.key, number), None)
        if request is not None and self.failure is None:
            with self._tasks.keeping_failure():
                await self._take(request, data, link.key)

    def wanted(self, link: Link, number: int) -> None:
        """Give a neighbour a piece, or refuse."""
        place = self.numbers.run(number) if self.chooser.held >> number & 1 else None
        piece = self._files.find(place.shard, place.offset, place.length) if place else None
        if piece is None or not self.gifts.give(link, number, piece):
            link.refuse(number, absent=piece is None)

    def unwanted(self, link: Link, number: int) -> None:
        """Stop giving a neighbour a piece, unless its first bytes are on their way."""
        self.gifts.cancel(link, number)

    # Offering

    async def _offer(self) -> None:
        """Tell the neighbours of newly servable pieces, as soon as the rules say."""
        while True:
            self._learn()
            if gained := self._offers.take(self.chooser.held):
                for link in list(self.links.values()):
                    link.tell(gained, 0)
            await self._offers.wait()

    def _learn(self) -> None:
        """Record newly opened shards, and their arrivals by another way."""
        opened, here = self.arrivals.take()
        self.chooser.urgent = self.arrivals.overdue()
        new = here & ~self.chooser.held
        if opened or new:
            self.chooser.extend(opened)
            self.chooser.hold(new)
            self._note_servable(new)
            self._work.set()

    def _note_servable(self, mask: int) -> None:
        """Have the neighbours told of servable pieces."""
        offered = self.chooser.neighbours.near.counted
        self._offers.add(mask, offered=offered, answers=self.gifts.under_way)

    def withdraw_all(self) -> None:
        """Tell the neighbours that no piece is servable any more: the file was changed or removed."""
        told, self.chooser.held = self._offers.withdraw(), 0
        for link in list(self.links.values()):
            link.tell(0, told)
