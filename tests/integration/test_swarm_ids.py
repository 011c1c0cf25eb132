"""Ids of nodes in a swarm: what a reader can do by the id of another node."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from shardcast.access.proofs import prove_asking, prove_to_server
from shardcast.access.signing import SigningKey
from shardcast.errors import PeerError
from shardcast.nodes.origin import Origin
from shardcast.peer.announcing import SwarmClient
from shardcast.peer.next_range import NextRanges, NoRange, RangeServer, ReceivedRange
from shardcast.peer.session import open_session
from shardcast.protocol.announcements import Announcement
from shardcast.protocol.next_range import NextRequest, NotNow, RangeHead
from shardcast.protocol.piece_numbers import PieceNumbers
from shardcast.server.hand_outs import GrantedRange, HandOuts, NothingNow
from tests.support.published import Published, publish, random_bytes
from tests.support.sharing import sharer


@dataclass
class Server:
    """An origin with five pieces, one a shard, as members ask it."""

    client: SwarmClient
    handing: RangeServer
    published: Published

    def ranges(self, node: str, proof: str = "") -> NextRanges:
        numbers = PieceNumbers.of(self.published.manifest)
        return self.handing.ranges("v1", node, numbers, proof=proof)

    async def announce(self, member: Member, **said: Any) -> None:
        """Announce a member, which leaves with ``leaving=True``."""
        announcement = replace(member.announcement(self.published), **said)
        await (self.client.leave if announcement.leaving else self.client.announce)("v1", announcement)


@dataclass
class Member:
    """A member that announces itself; an older one by an id that its key does not make."""

    key: SigningKey = field(default_factory=SigningKey.generate)
    secret: str = field(default_factory=lambda: secrets.token_hex(16))
    node: str = ""

    def __post_init__(self) -> None:
        self.node = self.node or self.key.id
        self.proof = prove_asking(self.node, self.secret)

    def announcement(self, of: Published) -> Announcement:
        proof = prove_to_server(self.key, self.node, self.secret)
        return Announcement(self.node, self.secret, self.key.public, proof, "0" * 32, digest=of.sha256)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    published = publish(tmp_path / "origin", random_bytes(5000), 1000)
    async with (
        open_session() as session,
        Origin.running(published.data_dir, host="127.0.0.1", port=0) as origin,
    ):
        yield Server(SwarmClient(session, origin.url), RangeServer(origin.url, session, 20.0), published)


async def ask(ranges: NextRanges, held: int = 0) -> int | NotNow | None:
    """Ask for the next range, and return the shard that came, or why none did."""

    def find_buffer(head: RangeHead) -> memoryview:
        return memoryview(bytearray(head.end - head.start))

    answer = await ranges.ask(held, find_buffer, offered=True)
    if isinstance(answer, ReceivedRange):
        return answer.head.shard
    assert isinstance(answer, NoRange)
    return answer.reason


async def test_id_of_a_member_is_refused_to_another_key_until_the_member_leaves(server: Server) -> None:
    older = Member(node="81ab")
    thief = Member(node=older.node)
    await server.announce(older)
    with pytest.raises(PeerError, match="409"):
        await server.announce(thief)
    await server.announce(older, leaving=True)
    await server.announce(thief)


async def test_id_that_a_key_makes_is_taken_back_from_who_announced_it_first(server: Server) -> None:
    owner = Member()
    thief = Member(node=owner.node)
    await server.announce(thief)
    await server.announce(owner)
    with pytest.raises(PeerError, match="409"):
        await server.announce(thief)


async def test_member_that_leaves_by_another_ones_id_takes_nothing_from_that_one(server: Server) -> None:
    for victim, ranges in (
        (proven := Member(), server.ranges(proven.node, proven.proof)),
        (older := Member(node="81ab"), server.ranges(older.node)),
    ):
        thief, other = Member(), Member()
        await server.announce(victim)
        await server.announce(thief)
        given = await ask(ranges)
        await server.announce(thief, node=victim.node, leaving=True)
        assert await ask(server.ranges(other.node, other.proof)) != given, "it is still the victim's"


async def test_requests_by_another_node_s_id_take_nothing_from_that_node(server: Server) -> None:
    victim = Member()
    await server.announce(victim)
    ranges = server.ranges(victim.node, victim.proof)
    assert await ask(ranges) == 1
    for proof in ("", "0" * 32):
        forged = server.ranges(victim.node, proof)
        forged.report_lost(0b1)
        assert await ask(forged, held=0b11110) == NotNow.ALL_GIVEN, "its own account, with all but the first"
    assert [await ask(ranges, held=0b1) for _ in range(4)] == [2, 3, 4, 5]


async def test_older_node_that_proves_nothing_is_handed_out_to_and_kept(server: Server) -> None:
    older = Member(node="81ab")
    ranges = server.ranges(older.node)
    assert await ask(ranges) == 1
    await server.announce(older)
    assert await ask(ranges, held=0b1) == 2
    await server.announce(older, leaving=True)
    assert await ask(server.ranges("c2d0")) == 1, "what only it had is given again"


async def test_sharing_client_asks_as_the_member_that_it_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, announced = set[str](), set[str]()
    decide, note = HandOuts.next_for, HandOuts.note_member

    def next_for(
        self: HandOuts, version: str, request: NextRequest, **seen: Any
    ) -> GrantedRange | NothingNow:
        assert request.proof
        asked.add(request.asker)
        return decide(self, version, request, **seen)

    def note_member(self: HandOuts, version: str, node: str, leaves: bool) -> None:
        announced.add(node)
        note(self, version, node, leaves)

    monkeypatch.setattr(HandOuts, "next_for", next_for)
    monkeypatch.setattr(HandOuts, "note_member", note_member)
    published = publish(tmp_path / "origin", random_bytes(400_000), 100_000)
    async with (
        Origin.running(published.data_dir, host="127.0.0.1", port=0) as origin,
        sharer(origin.url, tmp_path / "one") as one,
        sharer(origin.url, tmp_path / "two") as two,
    ):
        await one.have(published.payload)
        await two.download()
    assert asked and asked <= announced
