"""The slots of answers to neighbours: each is free again when its answer ends, however that ends."""

from __future__ import annotations

import asyncio
import io
from typing import cast

from shardcast.policy.swarm.answers import AnswerSlots
from shardcast.policy.swarm.rules import SwarmRules
from shardcast.swarm.gifts import Gifts
from shardcast.swarm.links import GivenPiece, Link

PIECE = GivenPiece(io.BytesIO(b"bytes"), 0, 5)
RULES = SwarmRules()


class Neighbour:
    """A link whose sends wait, or fail."""

    def __init__(self) -> None:
        self.key = "neighbour"
        self.goes_on = asyncio.Event()
        self.error: OSError | None = None
        self.closed = ""

    async def give(self, number: int, piece: GivenPiece) -> None:
        await self.goes_on.wait()
        if self.error:
            raise self.error

    def close(self, reason: str) -> None:
        self.closed = reason


def new() -> tuple[Neighbour, Link, Gifts]:
    neighbour = Neighbour()
    return neighbour, cast(Link, neighbour), Gifts(AnswerSlots(RULES))


def given_at_once(gifts: Gifts, link: Link) -> int:
    return sum(gifts.give(link, number, PIECE) for number in range(100, 200))


async def test_piece_cancelled_before_its_first_byte_frees_its_slot() -> None:
    _, link, gifts = new()
    for number in range(50):
        assert gifts.give(link, number, PIECE)
        gifts.cancel(link, number)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert given_at_once(gifts, link) == RULES.asker_answers
    await gifts.end()


async def test_slots_are_free_again_after_pieces_sent_failures_and_neighbours_that_leave() -> None:
    neighbour, link, gifts = new()
    assert given_at_once(gifts, link) == RULES.asker_answers
    neighbour.goes_on.set()
    await asyncio.sleep(0.01)
    assert gifts.given == {"neighbour": 5 * RULES.asker_answers}
    neighbour.error = OSError("broken off")
    assert given_at_once(gifts, link) == RULES.asker_answers
    await asyncio.sleep(0.01)
    assert neighbour.closed == "broken off"
    neighbour.goes_on.clear()
    assert given_at_once(gifts, link) == RULES.asker_answers
    gifts.cancel_all(link)
    await asyncio.sleep(0.01)
    assert given_at_once(gifts, link) == RULES.asker_answers
    await gifts.end()


async def test_piece_under_way_to_a_neighbour_is_not_sent_a_second_time() -> None:
    _, link, gifts = new()
    assert gifts.give(link, 7, PIECE)
    assert not gifts.give(link, 7, PIECE)
    await gifts.end()
