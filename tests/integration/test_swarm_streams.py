"""Streams between neighbours: what one end says the other one hears, and no end harms the other."""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shardcast.access.signing import SigningKey
from shardcast.errors import ServerLacks, ServerUnreachable, TlsFailure
from shardcast.fair_limit import FairLimit
from shardcast.policy.byte_limit import Rates
from shardcast.protocol import swarm_frames as frames
from shardcast.protocol.swarm_frames import (
    ByeFrame,
    CancelFrame,
    HaveFrame,
    PingFrame,
    RefuseFrame,
    RefuseReason,
    TicketFrame,
    WantFrame,
)
from shardcast.protocol.swarm_members import NamedMember, Place
from shardcast.server.application import application, serve
from shardcast.swarm import stream_link
from shardcast.swarm.greeting import StreamRefused
from shardcast.swarm.sender import FrameSender
from shardcast.swarm.stream import MAX_FRAMES
from tests.support.certificates import Certificates
from tests.support.swarm_streams import PIECE, RawNeighbour, StreamNode, Vouching

COUNT = 12


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of some pieces."""
    path = tmp_path_factory.mktemp("swarm") / "payload"
    path.write_bytes(os.urandom(COUNT * PIECE))
    return path


@pytest.fixture
def data(file: Path) -> bytes:
    """The bytes of the file."""
    return file.read_bytes()


@pytest.fixture
async def node(file: Path) -> AsyncIterator[StreamNode]:
    """A node that accepts streams."""
    node = StreamNode("acceptor", Vouching(), file)
    async with node.serving():
        yield node


@pytest.fixture
async def other(node: StreamNode, file: Path) -> AsyncIterator[StreamNode]:
    """A node that has opened a stream to the first one."""
    other = StreamNode("opener", node.vouching, file)
    await other.streams.open(node.member, other.part)
    await node.exchange.until(lambda: bool(node.exchange.links))
    yield other
    other.streams.close("the test is over")
    await other.exchange.close()


@pytest.fixture
async def raw(node: StreamNode) -> AsyncIterator[RawNeighbour]:
    """A neighbour whose bytes a test chooses, which has greeted."""
    raw = RawNeighbour(node)
    await raw.connect()
    await raw.greet()
    await node.exchange.until(lambda: bool(node.exchange.links))
    yield raw
    await raw.close()


def piece_of(data: bytes, number: int) -> bytes:
    """Return a piece."""
    return data[number * PIECE : (number + 1) * PIECE]


# Two nodes


async def test_pieces_go_both_ways_over_one_stream(node: StreamNode, other: StreamNode, data: bytes) -> None:
    ends = (node.exchange, other.exchange)
    for asking in (node, other):
        asking.exchange.ask(asking.link, *range(COUNT))
    for exchange in ends:
        await exchange.until(lambda exchange=exchange: len(exchange.pieces) == COUNT)  # type: ignore[misc]
        assert exchange.pieces == {number: piece_of(data, number) for number in range(COUNT)}
    assert (node.link.key, other.link.key) == (other.key.public, node.key.public)


async def test_pieces_go_both_ways_over_tls(file: Path, data: bytes, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    access = certificates.server()
    pem = (tmp_path / "server.pem").read_text()
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    shown = ssl.PEM_cert_to_DER_cert(pem[pem.index(begin) : pem.index(end) + len(end)] + "\n")
    node = StreamNode("acceptor", Vouching(), file)
    other = StreamNode("opener", node.vouching, file)
    async with node.serving(access, hashlib.sha256(shown).hexdigest()):
        await other.streams.open(node.member, other.part)
        await node.exchange.until(lambda: bool(node.exchange.links))
        for asking in (node, other):
            asking.exchange.ask(asking.link, *range(COUNT))
        for asking in (node, other):
            await asking.exchange.until(lambda asking=asking: len(asking.exchange.pieces) == COUNT)  # type: ignore[misc]
            assert asking.exchange.pieces == {number: piece_of(data, number) for number in range(COUNT)}
        other.streams.close("done")
        wrong = NamedMember("acceptor", node.key.public, node.member.place, None, 64 * "0")
        with pytest.raises(TlsFailure, match="another certificate"):
            await other.streams.open(wrong, other.part)
        await other.exchange.close()


def test_streams_work_on_uvloop(file: Path, data: bytes) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def exchange() -> None:
        node = StreamNode("acceptor", Vouching(), file)
        other = StreamNode("opener", node.vouching, file)
        async with node.serving():
            await other.streams.open(node.member, other.part)
            await node.exchange.until(lambda: bool(node.exchange.links))
            for asking in (node, other):
                asking.exchange.ask(asking.link, *range(COUNT))
            for asking in (node, other):
                await asking.exchange.until(lambda asking=asking: len(asking.exchange.pieces) == COUNT)  # type: ignore[misc]
                assert asking.exchange.pieces == {number: piece_of(data, number) for number in range(COUNT)}
            other.streams.close("done")
            await node.exchange.until(lambda: not node.exchange.links)
            await other.exchange.close()

    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(exchange())
    finally:
        loop.close()


async def test_nothing_of_closed_streams_stays_open_at_the_end(
    node: StreamNode, other: StreamNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FrameSender, "is_busy", True)
    streams = [stream for one in (node, other) for stream in one.streams._open]
    for one in (node, other):
        one.streams.close("done")
    assert not any(stream.transport.is_closing() for stream in streams), "the last frames have time to leave"
    for one in (node, other):
        one.streams.end()
    assert all(stream.transport.is_closing() for stream in streams)


async def test_haves_and_losses_are_told(node: StreamNode, other: StreamNode) -> None:
    node.link.tell(0b1011, 0)
    other.link.tell(1 << 999 | 1, 0)
    await other.exchange.until(lambda: other.exchange.offered_pieces == 0b1011)
    await node.exchange.until(lambda: node.exchange.offered_pieces == 1 << 999 | 1)
    node.link.tell(0b100, 0b11)
    await other.exchange.until(lambda: other.exchange.offered_pieces == 0b1100)


@pytest.mark.parametrize("absent", [False, True])
async def test_refusal_says_whether_piece_is_absent(
    node: StreamNode, other: StreamNode, absent: bool
) -> None:
    def refuse(link: stream_link.Link, number: int) -> bool:
        link.refuse(number, absent=absent)
        return False

    node.exchange.on_want = refuse
    other.exchange.ask(other.link, 3)
    await other.exchange.until(lambda: other.exchange.refusals == [(3, absent)])
    node.exchange.on_want = lambda link, number: True
    other.exchange.ask(other.link, 3)
    await other.exchange.until(lambda: 3 in other.exchange.pieces)


async def test_cancelled_piece_stops_half_way_and_next_one_comes(file: Path, data: bytes) -> None:
    limit = FairLimit(Rates(total=1_000_000))
    node = StreamNode("acceptor", Vouching(), file, uploads=limit)
    other = StreamNode("opener", node.vouching, file)
    async with node.serving():
        link = await other.streams.open(node.member, other.part)
        other.exchange.ask(link, 0)
        await other.exchange.until(lambda: bool(other.exchange.progress))
        link.cancel(0)
        other.exchange.asked.discard(0)
        other.exchange.ask(link, 1)
        await other.exchange.until(lambda: 1 in other.exchange.pieces)
        assert other.exchange.pieces == {1: piece_of(data, 1)}
        assert not other.exchange.refusals
        other.exchange.ask(link, 0)
        await other.exchange.until(lambda: 0 in other.exchange.pieces)
        assert other.exchange.pieces[0] == piece_of(data, 0)
        other.streams.close("done")
        await other.exchange.close()
    assert limit.readers == 0


async def test_small_frame_does_not_wait_for_a_limited_piece(file: Path) -> None:
    node = StreamNode("acceptor", Vouching(), file, uploads=FairLimit(Rates(total=100_000)))
    other = StreamNode("opener", node.vouching, file)
    async with node.serving():
        link = await other.streams.open(node.member, other.part)
        other.exchange.ask(link, 0)
        await other.exchange.until(lambda: bool(other.exchange.progress))
        node.link.tell(1, 0)
        await other.exchange.until(lambda: other.exchange.offered_pieces == 1, seconds=2)
        assert not other.exchange.pieces
        other.streams.close("done")
        await other.exchange.close()


async def test_end_of_one_node_is_noticed_by_the_other(node: StreamNode, other: StreamNode) -> None:
    other.exchange.on_want = lambda link, number: False
    node.exchange.ask(node.link, 1)
    other.streams.close("it ends")
    await node.exchange.until(lambda: not node.exchange.links)
    assert not other.exchange.links


async def test_end_of_connection_ends_gifts(node: StreamNode, other: StreamNode) -> None:
    other.exchange.hold.clear()
    other.exchange.ask(other.link, *range(COUNT))
    await other.exchange.until(lambda: bool(other.exchange.progress))
    other.exchange.hold.set()
    other.streams.close("it ends")
    await node.exchange.until(lambda: not node.exchange.links)


async def test_piece_that_is_worked_on_holds_the_others_back(node: StreamNode, other: StreamNode) -> None:
    other.exchange.hold.clear()
    other.exchange.ask(other.link, *range(COUNT))
    node.link.tell(1, 0)
    await asyncio.sleep(0.2)
    assert other.exchange.pieces == {}
    other.exchange.hold.set()
    await other.exchange.until(lambda: len(other.exchange.pieces) == COUNT)


async def test_file_that_was_cut_ends_the_stream(tmp_path: Path, node: StreamNode) -> None:
    path = tmp_path / "cut"
    path.write_bytes(bytes(PIECE // 2))
    other = StreamNode("opener", node.vouching, path)
    await other.streams.open(node.member, other.part)
    await node.exchange.until(lambda: bool(node.exchange.links))
    node.exchange.ask(node.link, 0)
    await node.exchange.until(lambda: not node.exchange.links)
    await other.exchange.until(lambda: bool(other.exchange.failures))
    assert not node.exchange.pieces
    await other.exchange.close()


# Who is let in


async def test_member_that_is_refused_hears_why(node: StreamNode, file: Path) -> None:
    stranger = StreamNode("opener", Vouching(), file)
    with pytest.raises(StreamRefused, match="a server that is not known here signed the ticket"):
        await stranger.streams.open(node.member, stranger.part)
    assert not node.exchange.links
    await stranger.exchange.close()


async def test_expired_ticket_is_refused(node: StreamNode, file: Path) -> None:
    late = StreamNode("opener", node.vouching, file)
    late.ticket = node.vouching.ticket("opener", late.key, seconds=-1)
    with pytest.raises(StreamRefused, match="the ticket has expired"):
        await late.streams.open(node.member, late.part)
    await late.exchange.close()


async def test_ticket_without_its_key_lets_nobody_in(node: StreamNode) -> None:
    thief = RawNeighbour(node)
    await thief.connect()
    await thief.greet(prover=SigningKey.generate())
    assert await thief.receive_last() == ByeFrame("the proof is wrong")
    assert not node.exchange.links
    await thief.close()


async def test_another_member_than_announced_is_left(node: StreamNode, file: Path) -> None:
    other = StreamNode("opener", node.vouching, file)
    wrong = NamedMember("somebody", node.key.public, node.member.place)
    with pytest.raises(StreamRefused, match="another member than the one that was announced"):
        await other.streams.open(wrong, other.part)
    await node.exchange.until(lambda: not node.exchange.links)
    await other.exchange.close()


async def test_node_does_not_become_its_own_neighbour(node: StreamNode) -> None:
    with pytest.raises(StreamRefused):
        await node.streams.open(node.member, node.part)
    assert not node.exchange.links


async def test_server_without_streams_lacks_them(node: StreamNode) -> None:
    async with serve(application("0b" * 16), "127.0.0.1", 0) as url:
        place = Place("127.0.0.1", int(url.rpartition(":")[2]))
        with pytest.raises(
            ServerLacks, match=r"GET /swarm: it does not switch to shardcast-swarm/1: HTTP/1\.1 404"
        ):
            await node.streams.open(NamedMember("x", bytes(32), place), node.part)
    with pytest.raises(ServerUnreachable):
        await node.streams.open(NamedMember("x", bytes(32), place), node.part)


async def test_plain_request_is_told_to_upgrade(node: StreamNode) -> None:
    place = node.member.place
    reader, writer = await asyncio.open_connection(place.host, place.port)
    writer.write(b"GET /swarm HTTP/1.1\r\nHost: x\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 426 ") and b"Upgrade: shardcast-swarm/1" in head
    writer.close()


async def test_newer_ticket_keeps_a_stream_open(
    node: StreamNode, other: StreamNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.vouching.time += 299
    other.ticket = node.vouching.ticket("opener", other.key)
    node.ticket = node.vouching.ticket("acceptor", node.key)
    for link in (other.link, node.link):
        assert isinstance(link, stream_link.StreamLink)
        link.look_at_tickets()
    other.link.tell(1, 0)
    await node.exchange.until(lambda: node.exchange.offered_pieces == 1)
    node.vouching.time += 2
    assert isinstance(node.link, stream_link.StreamLink)
    node.link.look_at_tickets()
    assert node.exchange.links
    node.vouching.time += 300
    node.link.look_at_tickets()
    assert not node.exchange.links


# Neighbours that do as they like


async def test_neighbour_gets_pieces_by_the_words_of_the_protocol(
    node: StreamNode, raw: RawNeighbour, data: bytes
) -> None:
    raw.lengths[5] = PIECE
    raw.send(WantFrame(5, 2))
    assert await raw.receive() == piece_of(data, 2)
    raw.send(HaveFrame(0b110), PingFrame())
    await node.exchange.until(lambda: node.exchange.offered_pieces == 0b110)
    node.exchange.ask(node.link, 1)
    want = await raw.receive()
    assert want == WantFrame(1, 1)
    raw.send(RefuseFrame(1, RefuseReason.BUSY, 0.05))
    await node.exchange.until(lambda: node.exchange.refusals == [(1, False)])


@pytest.mark.parametrize(
    ("garbage", "why"),
    [
        (b"\x01\xff\xff\xff", "a frame of kind 1 with 16777215 bytes"),
        (b"\x09\x00\x00\x05\x00\x00\x00\x01x", "bytes of request 1, which was not asked for"),
        (frames.encode(HaveFrame(1 << 1000)), "a piece 1000 of a version that has 1000"),
        (frames.encode(WantFrame(1, 3)) + frames.encode(WantFrame(2, 3)), "a second request for piece 3"),
        (frames.frame(frames.PROOF, bytes(64)), "a second greeting"),
        (frames.encode(TicketFrame("x")), "the ticket is malformed"),
        (frames.encode(PingFrame()) * (MAX_FRAMES + 1), "more than 4000 frames within 0.5 s"),
    ],
)
async def test_nonsense_ends_the_stream_and_says_why(
    node: StreamNode, raw: RawNeighbour, garbage: bytes, why: str
) -> None:
    node.exchange.on_want = lambda link, number: False
    raw.writer.write(garbage)
    last = await raw.receive_last()
    assert last is None or last == ByeFrame(f"the neighbour sent what makes no sense: {why}")
    assert not node.exchange.links


async def test_too_many_wants_end_the_stream(node: StreamNode, raw: RawNeighbour) -> None:
    node.exchange.on_want = lambda link, number: False
    raw.send(*(WantFrame(number, number) for number in range(65)))
    await raw.receive_last()
    assert not node.exchange.links


@pytest.mark.parametrize("garbage", [b"", b"GET / HTTP/1.1\r\n\r\n", frames.encode(PingFrame()), bytes(100)])
async def test_garbage_instead_of_a_greeting_ends_the_connection(node: StreamNode, garbage: bytes) -> None:
    raw = RawNeighbour(node)
    await raw.connect()
    raw.writer.write(garbage)
    raw.writer.write_eof()
    await raw.receive_last()
    assert not node.exchange.links
    await raw.close()


async def test_cancelled_want_ends_with_a_refusal(node: StreamNode, raw: RawNeighbour) -> None:
    node.exchange.on_want = lambda link, number: False
    raw.send(WantFrame(9, 2), CancelFrame(9), CancelFrame(10))
    assert await raw.receive() == RefuseFrame(9, RefuseReason.CANCELLED)


async def test_piece_is_wanted_again_before_its_cancelled_request_is_over(file: Path, data: bytes) -> None:
    """The first request ends with a refusal after a part of its bytes, and the second one is answered."""
    node = StreamNode("acceptor", Vouching(), file, uploads=FairLimit(Rates(total=1_000_000)))
    wants: list[int] = []
    node.exchange.on_want = lambda link, number: not wants.append(number)
    async with node.serving():
        raw = RawNeighbour(node)
        raw.lengths = {1: PIECE, 2: PIECE}
        await raw.connect()
        await raw.greet()
        raw.send(WantFrame(1, 2))
        await node.exchange.until(lambda: bool(wants))
        for _ in range(5):
            await asyncio.sleep(0)  # the piece is being given
        raw.send(CancelFrame(1), WantFrame(2, 2))
        assert await raw.receive() == RefuseFrame(1, RefuseReason.CANCELLED)
        raw.drop(1)
        assert await raw.receive() == piece_of(data, 2)
        await raw.close()


async def test_piece_that_comes_slowly_is_seen_to_come(node: StreamNode, raw: RawNeighbour) -> None:
    node.exchange.ask(node.link, 1)
    assert await raw.receive() == WantFrame(1, 1)
    raw.writer.write(frames.bytes_head(1, PIECE) + bytes(1000))
    await node.exchange.until(lambda: bool(node.exchange.progress))
    seen = len(node.exchange.progress)
    raw.writer.write(bytes(1000))
    await node.exchange.until(lambda: len(node.exchange.progress) > seen, seconds=2)
    raw.writer.write(bytes(PIECE - 2000))
    await node.exchange.until(lambda: node.exchange.pieces == {1: bytes(PIECE)})


@pytest.fixture
async def impatient(file: Path) -> AsyncIterator[StreamNode]:
    """A node that waits for nobody long."""
    node = StreamNode("acceptor", Vouching(), file, silence=0.3)
    async with node.serving():
        yield node


async def test_silent_neighbour_is_left(impatient: StreamNode) -> None:
    raw = RawNeighbour(impatient)
    await raw.connect()
    await raw.greet()
    assert await raw.receive_last() == ByeFrame("nothing came for 0.3 s")
    assert not impatient.exchange.links
    await raw.close()


async def test_neighbour_that_takes_nothing_is_left(impatient: StreamNode, file: Path) -> None:
    raw = RawNeighbour(impatient)
    await raw.connect()
    await raw.greet()
    raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await impatient.exchange.until(lambda: bool(impatient.exchange.links))
    for _ in range(40):
        impatient.link.tell((1 << 400_000) // 3, 0)

    async def talk() -> None:
        while True:
            raw.send(PingFrame())
            await asyncio.sleep(0.05)

    talking = asyncio.ensure_future(talk())
    await impatient.exchange.until(lambda: bool(impatient.exchange.ended))
    talking.cancel()
    await raw.close()
