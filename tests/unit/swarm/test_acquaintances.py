"""A node connects to members for as long as it lacks pieces, also before it knows of any."""

from __future__ import annotations

import asyncio
from random import Random

from shardcast.concurrency import background_task
from shardcast.policy.swarm.answers import AnswerSlots
from shardcast.policy.swarm.chooser import RangeChooser
from shardcast.policy.swarm.meeting import ACCEPTED, Member
from shardcast.policy.swarm.rules import SwarmRules
from shardcast.protocol.swarm_members import NamedMember, Place
from shardcast.store.live_manifest import LiveManifest
from shardcast.swarm.acquaintances import Acquaintances
from shardcast.swarm.exchange import Exchange
from tests.support.payloads import manifest, random_bytes
from tests.unit.swarm.test_exchange import MemoryLink

RULES = SwarmRules()


class NoFiles:
    """No file."""

    def find(self, shard: int, start: int, length: int) -> None:
        return None


def an_exchange() -> Exchange:
    """Return the exchange of a version that is known, and of which no shard was opened yet."""
    chooser = RangeChooser(RULES, Random(1), key=b"2" * 32)
    live = LiveManifest.of(manifest(random_bytes(100_000)))
    return Exchange(live, NoFiles(), chooser=chooser, slots=AnswerSlots(RULES))


async def dialled(exchange: Exchange) -> list[NamedMember]:
    """Return whom a node connects to that is told of one member."""
    found: list[NamedMember] = []

    async def dial(member: NamedMember) -> None:
        found.append(member)
        exchange.add_link(MemoryLink(member.key))

    other = NamedMember(node="other", key=b"1" * 32, place=Place("10.0.0.2", 8000))
    acquaintances = Acquaintances(Member(b"2" * 32), exchange, dial, random=Random(1))
    acquaintances.name([other])
    async with background_task(acquaintances.run()):
        for _ in range(5):
            await asyncio.sleep(0)
    return found


async def test_connect_before_any_shard_was_opened() -> None:
    assert len(await dialled(an_exchange())) == 1


async def test_do_not_connect_with_whole_version() -> None:
    exchange = an_exchange()
    exchange.hold_all()
    assert not await dialled(exchange)


def a_node_of(site: str, exchange: Exchange) -> Acquaintances:
    """Return the neighbours of a node in a site, none yet."""

    async def dial(_: NamedMember) -> None:
        raise AssertionError("it connects to nobody")

    return Acquaintances(Member(b"2" * 32, site), exchange, dial, random=Random(1))


def let_in(neighbours: Acquaintances, exchange: Exchange, member: Member) -> MemoryLink | None:
    """Let a member connect to a node; return its link, or None where it is refused."""
    if not neighbours.accepts(member):
        return None
    link = MemoryLink(member.key)
    exchange.add_link(link)
    return link


async def test_full_node_leaves_a_stranger_for_a_node_of_its_own_site() -> None:
    exchange = an_exchange()
    neighbours = a_node_of("a", exchange)
    strangers = [let_in(neighbours, exchange, Member(f"b{number}", "b")) for number in range(ACCEPTED)]
    assert None not in strangers
    assert let_in(neighbours, exchange, Member("b", "b")) is None
    assert let_in(neighbours, exchange, Member("a", "a")) is not None
    assert [link.closed for link in strangers if link].count("") == ACCEPTED - 1


async def test_member_that_no_server_named_is_of_the_site_in_its_ticket() -> None:
    neighbours = a_node_of("a", an_exchange())
    assert neighbours.site_of("unknown", "b") == "b"
    assert neighbours.site_of("unknown") == "a", "its server knows no borders"


async def test_node_connects_to_few_of_many_members_at_once_and_to_more_a_second_later() -> None:
    exchange, now, found = an_exchange(), 0.0, 0

    async def dial(member: NamedMember) -> None:
        nonlocal found
        found += 1
        exchange.add_link(MemoryLink(member.key))

    members = [
        NamedMember(node=f"node {number}", key=bytes([number]) * 32, place=Place("10.0.0.2", 8000))
        for number in range(30)
    ]
    acquaintances = Acquaintances(Member(b"\xff" * 32), exchange, dial, random=Random(1), clock=lambda: now)
    acquaintances.name(members)
    async with background_task(acquaintances.run()):
        for _ in range(40):
            await asyncio.sleep(0)
        at_once = found
        now = 1.0
        acquaintances.name(members)
        for _ in range(40):
            await asyncio.sleep(0)
    assert (at_once, found) == (3, 10)
