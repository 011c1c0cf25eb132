"""One version shared by a client, during and after the download."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from random import Random

from shardcast.concurrency import cancel
from shardcast.log_fields import about
from shardcast.nodes.processor_time import busy_seconds
from shardcast.nodes.shared_pieces import SharedPieces
from shardcast.peer.next_range import NextRanges
from shardcast.policy.swarm.mode import FetchMode, Situation
from shardcast.policy.swarm.rules import first_ask
from shardcast.protocol.piece_numbers import PieceNumbers
from shardcast.store.live_manifest import LiveManifest
from shardcast.swarm.acquaintances import Acquaintances
from shardcast.swarm.exchange import Exchange
from shardcast.swarm.handing_server import HandingServer
from shardcast.transfer.limits import NeighbourProgress
from shardcast.transfer.workers import Transfer
from shardcast.upstream.announcer import Membership

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.1
"""Seconds between two looks: at how to fetch, and at whether the output has changed."""


class SharedVersion:
    """The exchange of one version, the neighbours, and the download helped by them.

    Attributes:
        exchange: the exchange.
        neighbours: the neighbours of the version.
        is_complete: whether the whole version is here.
        over: set at the end of sharing.
        pieces: the pieces to give.
    """

    def __init__(
        self,
        live: LiveManifest,
        pieces: SharedPieces,
        exchange: Exchange,
        neighbours: Acquaintances,
        *,
        find_ranges: Callable[[str, PieceNumbers], NextRanges],
        seed_for: float | None = None,
    ) -> None:
        """Share a version.

        Args:
            live: the version's manifest.
            pieces: the pieces to give.
            exchange: the exchange.
            neighbours: the neighbours of the version.
            find_ranges: returns the version's ranges at a server, by the server's URL.
            seed_for: seconds for which to share after the download; None for no end.
        """
        self.exchange = exchange
        self.neighbours = neighbours
        self.over = asyncio.Event()
        self.pieces = pieces
        self._live = live
        self._find_ranges = find_ranges
        self._seed_for = seed_for
        self._random = Random()
        self._transfer: Transfer | None = None
        self._counted: dict[str, int] = {}
        self.is_complete = False
        self._tasks: list[asyncio.Future[None]] = []

    def begin(self) -> None:
        """Exchange pieces and meet neighbours from now on."""
        exchanging = asyncio.ensure_future(self.exchange.run())
        exchanging.add_done_callback(self._exchange_ended)
        others = [asyncio.ensure_future(work) for work in (self.neighbours.run(), self._watch_pieces())]
        for task in others:
            task.add_done_callback(self._log_failure)
        self._tasks = [exchanging, *others]

    async def help(self, transfer: Transfer, sources: Iterable[str], membership: Membership) -> None:
        """Fetch by exchanging pieces whenever this is the better way, until the version is complete.

        Args:
            transfer: the download.
            sources: the URLs of the servers with the version.
            membership: in the version's swarm.
        """
        for url in sources:
            pause = first_ask(membership.members, self._random)
            self.join(url, first_at=asyncio.get_running_loop().time() + pause)
        loop, exchange = asyncio.get_running_loop(), self.exchange
        self._transfer, transfer.neighbours = transfer, self.progress
        exchange.attach(transfer)
        mode = FetchMode(loop.time(), exchanges=membership.members > 1, busy=busy_seconds())
        try:
            self._switch(transfer, exchanges=mode.exchanges)
            while not self.is_complete:
                await asyncio.sleep(_LOOK_SECONDS)
                self.count_servers()
                received = transfer.received + exchange.receipts.from_neighbours
                others = max(0, membership.members - 1)
                links, lacks = len(exchange.links), not exchange.chooser.done
                now, busy = loop.time(), busy_seconds()
                if mode.update(Situation(now, links, others, exchange.hands_out, received, lacks, busy)):
                    self._switch(transfer, exchanges=mode.exchanges)
        finally:
            exchange.detach()
            transfer.resume()

    def count_servers(self) -> None:
        """Add bytes handed out by servers since the last call to the download's counts."""
        if self._transfer is None:
            return
        for url, size in self.exchange.receipts.by_server.items():
            self._transfer.count(url, size - self._counted.get(url, 0))
            self._counted[url] = size

    def _switch(self, transfer: Transfer, *, exchanges: bool) -> None:
        """Fetch by pieces, or by ranges."""
        version = self._live.version
        if exchanges:
            log.debug(
                "%s: pieces are exchanged with %d neighbours",
                version,
                len(self.exchange.links),
                extra=about(version=version),
            )
            transfer.pause()
            self.exchange.begin()
        else:
            log.debug("%s: ranges are asked from the servers", version, extra=about(version=version))
            self.exchange.rest()
            transfer.resume()

    @property
    def version(self) -> str:
        """The version's name."""
        return self._live.version

    @property
    def size(self) -> int | None:
        """The bytes of the version; None while unknown."""
        return self._live.manifest.size if self._live.manifest else self._live.header.size

    @property
    def origin(self) -> str | None:
        """The origin id of the version's line."""
        return self._live.header.origin

    @property
    def here(self) -> int:
        """The number of verified bytes here."""
        if self.is_complete or self._transfer is None:
            return (self.size or 0) if self.is_complete else 0
        return self._transfer.progress.done

    def received(self) -> dict[str, int]:
        """Return the bytes received from each server, by URL; empty where nothing was fetched."""
        servers = self._transfer.progress.servers if self._transfer else {}
        return {url: server.received for url, server in servers.items()}

    def progress(self) -> NeighbourProgress:
        """Return the number of neighbours and the bytes exchanged with them."""
        exchange, receipts = self.exchange, self.exchange.receipts
        given = sum(exchange.gifts.given.values())
        return NeighbourProgress(len(exchange.links), receipts.from_neighbours, given, receipts.across)

    async def _watch_pieces(self) -> None:
        """Withdraw all pieces as soon as the files differ from the verified ones."""
        while self.pieces.unchanged:  # noqa: ASYNC110  another program changes a file, and tells no event
            await asyncio.sleep(_LOOK_SECONDS)
        log.info(
            "%s is not shared any more: its files were changed or removed",
            self._live.version,
            extra=about(version=self._live.version),
        )
        self.exchange.withdraw_all()
        self.over.set()

    def join(self, url: str, *, first_at: float = 0.0) -> None:
        """Add a server that hands out ranges; not asked before ``first_at``, by the monotonic clock."""
        exchange = self.exchange
        ranges = self._find_ranges(url, exchange.numbers)
        server = HandingServer(url, ranges, exchange.numbers, lambda: exchange.chooser.held, live=self._live)
        exchange.add_server(server, first_at=first_at)

    def complete(self, found: os.stat_result | None = None) -> None:
        """Mark the whole version as here, and share it for ``seed_for`` seconds more.

        Args:
            found: the state of the output at its rename; None for a folder.
        """
        self.is_complete = True
        self.pieces.complete(found)
        self.exchange.hold_all()
        if self._seed_for is not None:
            asyncio.get_running_loop().call_later(self._seed_for, self.over.set)

    async def end(self) -> None:
        """End all links, and close the file."""
        await cancel(self._tasks)
        for link in list(self.exchange.links.values()):
            link.close("the version is not shared here any more")
        self.pieces.close()

    def _exchange_ended(self, task: asyncio.Future[None]) -> None:
        """Share the version no more after a fault of the exchange; a download goes on by ranges."""
        if not task.cancelled() and (error := task.exception()):
            text = "%s is not shared any more, and fetched from its servers alone: %r"
            log.error(text, self._live.version, error, extra=about(version=self._live.version))
            self.over.set()

    def _log_failure(self, task: asyncio.Future[None]) -> None:
        """Log the failure of another part; the version is still shared, without this part."""
        if not task.cancelled() and (error := task.exception()):
            text = "%s is shared with its present neighbours only, or not withdrawn when it changes: %r"
            log.error(
                text, self._live.version, error, exc_info=error, extra=about(version=self._live.version)
            )
