"""When neighbours hear of what became servable."""

from __future__ import annotations

import pytest

from shardcast.policy.swarm.masks import mask_of
from shardcast.policy.swarm.rules import SwarmRules
from shardcast.policy.swarm.telling import NEVER, Telling


def test_first_range_is_told_at_once() -> None:
    telling = Telling(SwarmRules())
    assert telling.due == NEVER
    assert telling.add(mask_of([3]), 1.0, offered=mask_of([3]), answers=8) == 1.0
    assert telling.take(1.0) == mask_of([3])
    assert telling.due == NEVER


def test_what_neighbours_offer_already_is_told_in_batches() -> None:
    telling = Telling(SwarmRules())
    telling.add(mask_of([1]), 1.0, offered=0, answers=8)
    telling.take(1.0)
    assert telling.add(mask_of([2]), 1.01, offered=mask_of([2]), answers=8) == pytest.approx(1.05)
    assert telling.add(mask_of([3]), 1.02, offered=mask_of([2, 3]), answers=8) == pytest.approx(1.05)
    assert telling.take(1.05) == mask_of([2, 3])


def test_what_no_neighbour_offers_is_told_soon_with_all_that_waits() -> None:
    telling = Telling(SwarmRules())
    telling.add(mask_of([1]), 1.0, offered=0, answers=8)
    telling.take(1.0)
    telling.add(mask_of([2]), 1.002, offered=mask_of([2]), answers=8)
    assert telling.add(mask_of([3]), 1.004, offered=mask_of([2]), answers=8) == pytest.approx(1.01)
    assert telling.add(mask_of([4]), 1.006, offered=mask_of([2, 4]), answers=8) == pytest.approx(1.01)
    assert telling.take(1.01) == mask_of([2, 3, 4])


def test_node_that_gives_few_answers_tells_all_soon() -> None:
    telling = Telling(SwarmRules())
    telling.add(mask_of([1]), 1.0, offered=0, answers=8)
    telling.take(1.0)
    assert telling.add(mask_of([2]), 1.002, offered=mask_of([2]), answers=2) == pytest.approx(1.05)
    assert telling.add(mask_of([3]), 1.004, offered=mask_of([2, 3]), answers=1) == pytest.approx(1.01)
    assert telling.take(1.01) == mask_of([2, 3])
