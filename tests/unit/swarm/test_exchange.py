"""Nodes that exchange the pieces of a version all get it, verified, and the server sends it about once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Hashable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import BinaryIO

from shardcast.concurrency import background_task
from shardcast.policy.swarm.answers import AnswerSlots
from shardcast.policy.swarm.chooser import RangeChooser
from shardcast.policy.swarm.ledger import Asked, HandoutKind, Ledger
from shardcast.policy.swarm.rules import SwarmRules
from shardcast.protocol.manifest import Manifest
from shardcast.protocol.piece_numbers import PieceNumbers
from shardcast.store.landing import Landing
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.output_file import OutputFile
from shardcast.swarm.arrivals import Arrivals
from shardcast.swarm.exchange import Exchange
from shardcast.swarm.links import GivenPiece, HandedOut
from shardcast.transfer.workers import Transfer
from tests.support.payloads import PIECE, manifest, random_bytes

RULES = SwarmRules(have_interval=0.005)


class HandingServer:
    """A server in memory that hands out pieces by the ledger."""

    def __init__(self, data: bytes, described: Manifest, node: str, ledger: Ledger, sent: list[int]) -> None:
        self.url = "http://origin"
        self._data, self._node, self._ledger, self._sent = data, node, ledger, sent
        self._numbers = PieceNumbers.of(described)
        self._shards = described.shards

    async def next_piece(self, asked: Asked) -> HandedOut:
        await asyncio.sleep(0)
        asked = replace(asked, node=self._node)
        handout = self._ledger.decide(asked, time.monotonic())
        if handout.answer is not HandoutKind.BODY:
            return HandedOut(exhausted=handout.answer is HandoutKind.NONE)
        place = self._numbers.run(handout.number)
        start = self._shards[place.shard - 1].offset + place.offset
        self._sent.append(handout.number)
        return HandedOut(handout.number, memoryview(self._data[start : start + place.length]))

    def report_wrong(self, number: int) -> None:
        self._ledger.failed(self._node, None, number)


class MemoryLink:
    """One end of a link in memory: what it is told, it tells the other node's exchange."""

    def __init__(self, key: Hashable, *, lies: bool = False) -> None:
        self.key, self.near = key, True
        self.far: tuple[Exchange, MemoryLink] | None = None
        self.lies = lies
        self.closed = ""

    def _soon(self, name: str, *args: object, **named: object) -> None:
        if self.far and not self.closed:
            exchange, link = self.far
            asyncio.get_running_loop().call_soon(lambda: getattr(exchange, name)(link, *args, **named))

    def tell(self, gained: int, lost: int) -> None:
        self._soon("offered", gained, lost)

    def want(self, number: int) -> None:
        self._soon("wanted", number)

    def cancel(self, number: int) -> None:
        self._soon("unwanted", number)

    def refuse(self, number: int, *, absent: bool) -> None:
        self._soon("refused", number, absent=absent)

    async def give(self, number: int, piece: GivenPiece) -> None:
        piece.file.seek(piece.offset)
        data = piece.file.read(piece.length)
        if self.far:
            exchange, link = self.far
            await exchange.came(link, number, memoryview(bytes(len(data)) if self.lies else data))

    def close(self, reason: str) -> None:
        self.closed = reason
        if self.far:
            exchange, link = self.far
            self.far = None
            exchange.remove_link(link)
            link.close(reason)


class HeldFiles:
    """The pieces in an open file."""

    def __init__(self, file: BinaryIO, described: Manifest) -> None:
        self.file = file
        self._shards = described.shards

    def find(self, shard: int, start: int, length: int) -> GivenPiece | None:
        return GivenPiece(self.file, self._shards[shard - 1].offset + start, length)


def connect(names: tuple[str, str], nodes: dict[str, Exchange], *, liar: str = "") -> None:
    """Link two nodes."""
    first, second = (MemoryLink(name) for name in reversed(names))
    first.far, second.far = (nodes[names[1]], second), (nodes[names[0]], first)
    first.lies, second.lies = liar == names[0], liar == names[1]
    nodes[names[0]].add_link(first)
    nodes[names[1]].add_link(second)


@asynccontextmanager
async def downloading(
    path: Path, data: bytes, name: str, ledger: Ledger, sent: list[int], live: LiveManifest | None = None
) -> AsyncIterator[tuple[Exchange, asyncio.Future[Manifest]]]:
    """Yield a node's exchange, and the end of its transfer."""
    described = manifest(data)
    live = live or LiveManifest.of(described)
    sink = OutputFile(path / name, live)
    transfer = Transfer(live, [], sink)
    transfer.pause()
    chooser = RangeChooser(RULES, Random(name), key=name)
    files = HeldFiles(sink.open_pieces().file, described)
    exchange = Exchange(live, files, chooser=chooser, slots=AnswerSlots(RULES))
    exchange.add_server(HandingServer(data, described, name, ledger, sent))
    exchange.attach(transfer)
    exchange.begin()
    run = asyncio.ensure_future(transfer.run())
    async with background_task(exchange.run()):
        yield exchange, run
    files.file.close()
    sink.close()


async def share(tmp_path: Path, data: bytes, count: int, *, liar: str = "") -> list[int]:
    """Have some nodes get a payload, all linked to each other; return the pieces that the server sent."""
    sent: list[int] = []
    ledger = Ledger(RULES, Random(1))
    table = PieceNumbers.of(manifest(data))
    ledger.offer(table.everything)
    async with AsyncExitStack() as stack:
        nodes, runs = {}, []
        for number in range(count):
            name = f"n{number}"
            entered = downloading(tmp_path, data, name, ledger, sent)
            nodes[name], run = await stack.enter_async_context(entered)
            if name != liar:
                runs.append((name, run))
        for first in range(count):
            for second in range(first + 1, count):
                connect((f"n{first}", f"n{second}"), nodes, liar=liar)
        async with asyncio.timeout(20):
            for name, run in runs:
                await run
                assert (tmp_path / name).read_bytes() == data
    return sent


async def test_nodes_that_exchange_pieces_all_get_the_payload(tmp_path: Path) -> None:
    data = random_bytes(60 * PIECE + 17)
    sent = await share(tmp_path, data, 5)
    assert len(sent) <= 61 * 1.1
    assert set(sent) == set(range(61))


async def test_wrong_piece_is_not_kept_and_its_sender_is_left(tmp_path: Path) -> None:
    data = random_bytes(40 * PIECE)
    await share(tmp_path, data, 4, liar="n3")


async def test_piece_that_is_unwanted_at_once_keeps_no_slot(tmp_path: Path) -> None:
    """The task that would give it is cancelled before its first step."""
    live = LiveManifest.of(described := manifest(data := random_bytes(4 * PIECE)))
    (tmp_path / "payload").write_bytes(data)
    slots = AnswerSlots(RULES)
    with (tmp_path / "payload").open("rb", buffering=0) as file:
        files = HeldFiles(file, described)
        exchange = Exchange(live, files, chooser=RangeChooser(RULES, Random(1), key="n"), slots=slots)
        exchange.hold_all()
        link = MemoryLink("far")
        exchange.add_link(link)
        for _ in range(20):
            exchange.wanted(link, 1)
            exchange.unwanted(link, 1)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
    assert slots.under_way == 0


class AskedLink(MemoryLink):
    """A link that notes what it is asked for."""

    def __init__(self, key: Hashable) -> None:
        super().__init__(key)
        self.asked: list[int] = []

    def want(self, number: int) -> None:
        self.asked.append(number)


async def until_asked(link: AskedLink) -> int:
    """Wait until a link is asked for a piece, and return its number."""
    async with asyncio.timeout(20):
        while not link.asked:
            await asyncio.sleep(0.001)
    return link.asked[0]


async def test_right_piece_that_comes_after_the_download_bans_nobody(tmp_path: Path) -> None:
    data = random_bytes(8 * PIECE)
    async with downloading(tmp_path, data, "n0", Ledger(RULES, Random(1)), []) as (exchange, run):
        exchange.add_link(link := AskedLink("n1"))
        exchange.offered(link, 1, 0)
        number = await until_asked(link)
        exchange.detach()
        await exchange.came(link, number, memoryview(data[:PIECE]))
        assert (exchange.banned, link.closed) == (set(), "")
        run.cancel()


async def test_piece_that_was_offered_before_its_shard_was_known_is_asked_for(tmp_path: Path) -> None:
    data = random_bytes(8 * PIECE)
    lines = manifest(data).raw.splitlines(keepends=True)
    live = LiveManifest("v1")
    live.add(lines[0])
    ledger = Ledger(RULES, Random(1))
    async with downloading(tmp_path, data, "n0", ledger, [], live) as (exchange, run):
        exchange.add_link(link := AskedLink("n1"))
        exchange.offered(link, 1 << 7, 0)
        live.add(b"".join(lines[1:]))
        assert await until_asked(link) == 7
        run.cancel()


async def test_shard_that_comes_whole_between_two_looks_is_held(tmp_path: Path) -> None:
    data = random_bytes(9 * PIECE)
    described = manifest(data, shard_size=3 * PIECE)
    sink = OutputFile(tmp_path / "output", LiveManifest.of(described))
    transfer = Transfer(LiveManifest.of(described), [], sink)
    transfer.pause()
    arrivals = Arrivals(LiveManifest.of(described))
    arrivals.sink = transfer
    run = asyncio.ensure_future(transfer.run())
    while len(transfer.open_landings) < 3:
        await asyncio.sleep(0)
    transfer.open_landings[0].land_now(0, data[:PIECE])
    assert arrivals.take() == (0b111_111_111, 0b1)
    for landing in transfer.open_landings:
        landing.land_now(0, data[landing.shard.offset : landing.shard.end])
        await transfer.commit_if_whole(landing.shard.number)
    await run
    assert not transfer.open_landings
    assert arrivals.take() == (0, 0b111_111_111)
    sink.close()


async def test_piece_waits_for_its_turn_at_a_neighbour_that_sends_another(tmp_path: Path) -> None:
    live = LiveManifest.of(described := manifest(data := random_bytes(4 * PIECE)))
    (tmp_path / "payload").write_bytes(data)
    now = 0.0
    with (tmp_path / "payload").open("rb", buffering=0) as file:
        chooser = RangeChooser(RULES, Random(1), key="n")
        slots = AnswerSlots(RULES)
        files = HeldFiles(file, described)
        exchange = Exchange(live, files, chooser=chooser, slots=slots, clock=lambda: now)
        chooser.extend(0b11)
        exchange.add_link(link := AskedLink("far"))
        exchange.offered(link, 0b11, 0)
        for _ in range(2):
            request = chooser.next_request(now)
            assert request is not None
            exchange._send(request)
        assert sorted(link.asked) == [0, 1]
        now = 0.9
        exchange.progressed(link, 0)
        assert not chooser.stalled(1.8)
        now = 6.0
        exchange.progressed(link, 0)
        assert [request.number for request in chooser.stalled(6.5)] == [1], "it is never its turn"


class LateSink:
    """A transfer whose next shard the exchange sees once it waits for that shard, or has all before it."""

    def __init__(self, transfer: Transfer, *, opens: bool = True) -> None:
        self._transfer, self._opens, self._last = transfer, opens, 1

    @property
    def open_landings(self) -> list[Landing]:
        seen = [one for one in self._transfer.open_landings if one.shard.number <= self._last]
        if self._transfer.open_landings and all(one.whole for one in seen):
            self._last += 1
        return seen

    @property
    def overdue_shard(self) -> int | None:
        return None

    def is_closed(self, number: int) -> bool:
        return number <= self._last and self._transfer.is_closed(number)

    async def wait_open(self, number: int) -> None:
        if self._opens:
            await self._transfer.wait_open(number)
            self._last = number
        else:
            self._opens = True
            raise TimeoutError

    async def commit_if_whole(self, number: int) -> None:
        await self._transfer.commit_if_whole(number)


class EagerServer(HandingServer):
    """A server that hands out the first piece of the second shard before all others."""

    async def next_piece(self, asked: Asked) -> HandedOut:
        handed = await super().next_piece(replace(asked, under_way=0))
        self._ledger.offer(self._numbers.everything)
        return handed


async def fetch_early(tmp_path: Path, *, opens: bool) -> list[int]:
    """Fetch a payload whose shards are opened late; return the pieces that the server sent."""
    data = random_bytes(9 * PIECE)
    described = manifest(data, shard_size=3 * PIECE)
    live, sent, ledger = LiveManifest.of(described), list[int](), Ledger(RULES, Random(1))
    ledger.offer(1 << 3)
    sink = OutputFile(tmp_path / "output", live)
    transfer = Transfer(live, [], sink)
    transfer.pause()
    files = HeldFiles(sink.open_pieces().file, described)
    chooser = RangeChooser(RULES, Random(1), key="n0")
    exchange = Exchange(live, files, chooser=chooser, slots=AnswerSlots(RULES))
    exchange.add_server(EagerServer(data, described, "n0", ledger, sent))
    exchange.attach(LateSink(transfer, opens=opens))
    exchange.begin()
    run = asyncio.ensure_future(transfer.run())
    async with background_task(exchange.run()), asyncio.timeout(20):
        await run
    files.file.close()
    sink.close()
    assert (tmp_path / "output").read_bytes() == data
    return sent


async def test_piece_that_comes_before_its_shard_is_open_is_kept(tmp_path: Path) -> None:
    assert sorted(await fetch_early(tmp_path, opens=True)) == list(range(9))


async def test_piece_whose_shard_stays_closed_is_handed_out_again(tmp_path: Path) -> None:
    sent = await fetch_early(tmp_path, opens=False)
    assert len(sent) == 10 and set(sent) == set(range(9))
