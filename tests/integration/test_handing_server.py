"""Exchanges that get pieces from a running origin, and from servers that hand nothing out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from shardcast.concurrency import background_task
from shardcast.errors import BadAnswer, ServerLacks
from shardcast.nodes.origin import Origin
from shardcast.peer.next_range import RangeServer
from shardcast.peer.session import open_session
from shardcast.policy.swarm.answers import AnswerSlots
from shardcast.policy.swarm.chooser import RangeChooser
from shardcast.policy.swarm.ledger import Asked
from shardcast.policy.swarm.rules import SwarmRules
from shardcast.protocol.manifest import Manifest
from shardcast.protocol.piece_numbers import PieceNumbers
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.output_file import OutputFile
from shardcast.swarm.exchange import Exchange
from shardcast.swarm.handing_server import HandingServer
from shardcast.swarm.links import GivenPiece, HandedOut
from shardcast.transfer.workers import Transfer
from tests.support import payloads
from tests.support.bad_servers import BadServer
from tests.support.payloads import PIECE, random_bytes

HERE = "127.0.0.1", 0
DATA = random_bytes(40 * PIECE + 17)
COUNT = 41
RULES = SwarmRules(have_interval=0.005)


@asynccontextmanager
async def serving(tmp_path: Path, data: bytes = DATA) -> AsyncIterator[tuple[Origin, Manifest]]:
    """Run an origin with one version."""
    async with Origin.running(tmp_path / "origin", *HERE) as origin:
        await payloads.publish(origin.folders, data)
        described = origin.folders.manifest_of("v1")
        assert described
        yield origin, described


class Pieces(HandingServer):
    """The pieces that a server hands out to a node, which keeps what came.

    Attributes:
        has: the pieces that came.
        numbers: of the version's pieces.
    """

    def __init__(self, server: RangeServer, live: LiveManifest, node: str) -> None:
        self.has = 0
        self.numbers = PieceNumbers(live.header.piece_size, live.shards)
        ranges = server.ranges(live.version, node, self.numbers)
        super().__init__(server.server, ranges, self.numbers, lambda: self.has, live=live)

    async def take(self) -> int | None:
        """Ask for a piece, and keep it; return its number."""
        handed = await self.next_piece(Asked(""))
        if handed.number is None:
            return None
        assert handed.data == DATA[handed.number * PIECE : (handed.number + 1) * PIECE]
        self.has |= 1 << handed.number
        return handed.number


@asynccontextmanager
async def pieces_of(url: str, live: LiveManifest, node: str = "81ab") -> AsyncIterator[Pieces]:
    """Yield the pieces that a server hands out."""
    async with open_session() as session:
        yield Pieces(RangeServer(url, session, 20.0), live, node)


class Files:
    """The pieces in an output file."""

    def __init__(self, sink: OutputFile, described: Manifest) -> None:
        self.file = sink.open_pieces().file
        self._shards = described.shards

    def find(self, shard: int, start: int, length: int) -> GivenPiece | None:
        return GivenPiece(self.file, self._shards[shard - 1].offset + start, length)


async def test_exchange_gets_all_from_the_origin(tmp_path: Path) -> None:
    async with serving(tmp_path) as (origin, described):
        live = LiveManifest.of(described)
        async with pieces_of(origin.url, live) as server:
            sink = OutputFile(tmp_path / "got", live)
            transfer = Transfer(live, [], sink)
            transfer.pause()
            files = Files(sink, described)
            chooser = RangeChooser(RULES, Random(1))
            exchange = Exchange(live, files, chooser=chooser, slots=AnswerSlots(RULES))
            server = HandingServer(
                origin.url, server._ranges, exchange.numbers, lambda: chooser.held, live=live
            )
            exchange.add_server(server)
            exchange.attach(transfer)
            exchange.begin()
            running = asyncio.ensure_future(transfer.run())
            async with background_task(exchange.run()):
                await asyncio.wait_for(running, 30)
            files.file.close()
            sink.close()
        assert (tmp_path / "got").read_bytes() == DATA
        assert exchange.receipts.by_server == {origin.url: len(DATA)}


async def test_two_nodes_are_handed_each_piece_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as (origin, described):
        live = LiveManifest.of(described)
        async with pieces_of(origin.url, live, "1") as one, pieces_of(origin.url, live, "2") as two:
            got = list[int]()
            while len(got) < COUNT:
                for node in (one, two):
                    one.has = two.has = one.has | two.has  # as if they had told each other
                    if (number := await node.take()) is not None:
                        got.append(number)
            assert got == list(range(COUNT))
            assert await one.next_piece(Asked("")) == HandedOut(exhausted=True)


async def test_pieces_without_a_place_are_not_handed_out(tmp_path: Path) -> None:
    async with serving(tmp_path) as (origin, described):
        below, beyond = 0b1, -1 << 2
        async with pieces_of(origin.url, LiveManifest.of(described)) as node:
            assert (await node.next_piece(Asked("", under_way=below | beyond))).number == 1
            assert (await node.next_piece(Asked("", under_way=below | beyond))).number is None


async def test_node_that_needs_help_is_helped(tmp_path: Path) -> None:
    async with serving(tmp_path, random_bytes(PIECE)) as (origin, described):
        live = LiveManifest.of(described)
        async with pieces_of(origin.url, live, "1") as one, pieces_of(origin.url, live, "2") as two:
            assert (await one.next_piece(Asked(""))).number == 0
            assert (await two.next_piece(Asked(""))) == HandedOut(exhausted=True)
            async with asyncio.timeout(20):
                while (await two.next_piece(Asked("", help=True))).number is None:
                    await asyncio.sleep(0.05)


async def test_piece_of_a_growing_version_is_waited_for(tmp_path: Path) -> None:
    described = payloads.manifest(DATA)
    lines = described.raw.splitlines(keepends=True)
    async with Origin.running(tmp_path / "origin", *HERE) as origin:
        opened = await origin.folders.begin_version(1, LiveManifest("v1"))
        opened.append_manifest(b"".join(lines[:2]))
        live = LiveManifest.of(described)
        async with pieces_of(origin.url, live) as node:
            asked = asyncio.ensure_future(node.next_piece(Asked("")))
            landing = await opened.landing(opened.live.shards[0])
            await landing.land(0, DATA[:PIECE])
            assert await asyncio.wait_for(asked, 20) == HandedOut(0, memoryview(DATA[:PIECE]))
            landing.close()


async def test_piece_of_a_shard_that_is_not_known_yet_is_declined(tmp_path: Path) -> None:
    async with serving(tmp_path) as (origin, described):
        live = LiveManifest("v1")
        live.add(described.raw.splitlines(keepends=True)[0])
        async with pieces_of(origin.url, live) as node:
            assert await node.next_piece(Asked("")) == HandedOut()
            live.add(described.raw.splitlines(keepends=True)[1])
            node.numbers.extend(live.shards)
            assert (await node.next_piece(Asked(""))).number == 0, "it was told that this was lost"


class LateLines(LiveManifest):
    """A manifest whose next line comes as soon as it is waited for."""

    def __init__(self, version: str, lines: list[bytes]) -> None:
        super().__init__(version)
        self.add(lines[0])
        self._next = iter(lines[1:])

    async def wait_for_more(self, length: int) -> None:
        self.add(next(self._next))


async def test_piece_that_comes_before_its_shards_line_is_kept(tmp_path: Path) -> None:
    async with serving(tmp_path) as (origin, described):
        live = LateLines("v1", described.raw.splitlines(keepends=True))
        async with pieces_of(origin.url, live) as node:
            assert await node.take() == 0
            assert len(live.shards) == 1


async def test_another_version_under_that_name_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as (origin, _):
        other = LiveManifest.of(payloads.manifest(random_bytes(40 * PIECE + 17, seed=2)))
        async with pieces_of(origin.url, other) as node:
            with pytest.raises(ServerLacks, match="another version as v1"):
                await node.next_piece(Asked(""))


async def test_server_without_the_version_has_nothing_now(tmp_path: Path) -> None:
    live = LiveManifest.of(payloads.manifest(DATA))
    async with Origin.running(tmp_path / "origin", *HERE) as origin, pieces_of(origin.url, live) as node:
        assert await node.next_piece(Asked("")) == HandedOut()


async def test_server_that_hands_nothing_out_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "static").mkdir()
    live = LiveManifest.of(payloads.manifest(DATA))
    with BadServer(tmp_path / "static") as static:
        async with pieces_of(static.url, live) as node:
            assert not (await node.next_piece(Asked("", help=True))).supported


async def test_wrong_piece_is_handed_out_again(tmp_path: Path) -> None:
    async with serving(tmp_path) as (origin, described):
        live = LiveManifest.of(described)
        async with pieces_of(origin.url, live, "1") as one, pieces_of(origin.url, live, "2") as two:
            assert (await one.next_piece(Asked(""))).number == 0
            one.report_wrong(0)
            assert await one.take() == 0 and await two.take() == 1


async def test_bytes_that_are_no_single_piece_are_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as (origin, described):
        live = LiveManifest.of(described)
        async with pieces_of(origin.url, live) as node:
            node.numbers.piece_size = PIECE // 2
            with pytest.raises(BadAnswer, match="are no piece"):
                await node.next_piece(Asked(""))
