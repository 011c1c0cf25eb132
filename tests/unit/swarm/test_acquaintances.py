"""A node connects to members for as long as it lacks pieces, also before it knows of any."""

from __future__ import annotations

import asyncio
from random import Random

from shardcast.concurrency import background_task
from shardcast.policy.swarm.answers import AnswerSlots
from shardcast.policy.swarm.chooser import RangeChooser
from shardcast.policy.swarm.meeting import Member
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
