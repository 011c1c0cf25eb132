"""Questions about chunks take the same work whether another client has them or not: time tells nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from shardcast.backup.server.accounts import make_invitation, register
from shardcast.backup.server.chunk_table import find_numbers, find_there, locate, numbers_of
from tests.support.backup_stores import StoreClient, open_store, random_contents

Ask = Callable[[sqlite3.Connection, int, list[bytes]], object]


def steps(database: sqlite3.Connection, ask: Ask, client: int, ids: list[bytes]) -> int:
    """Return the steps of SQLite's machine that a question takes."""
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    database.set_progress_handler(step, 1)
    try:
        ask(database, client, ids)
    finally:
        database.set_progress_handler(None, 0)
    return count


@pytest.mark.parametrize(
    "ask",
    [find_there, locate, numbers_of, lambda database, client, ids: find_numbers(database, client, 1, ids)],
)
async def test_chunk_of_another_client_costs_what_an_unknown_one_costs(tmp_path: Path, ask: Ask) -> None:
    async with open_store(tmp_path / "store") as (store, one):
        invitation = await store.database.write(make_invitation, store.clock(), store.clock() + 100.0)
        await store.database.write(register, invitation, "other", "/", store.clock())
        two = StoreClient(store, 2)
        await two.begin()
        own = await two.put(random_contents("own", 20))
        others = await one.put(random_contents("others", 20))
        unknown = [bytes([number]) * 32 for number in range(20)]
        counts = [
            await store.database.read(steps, ask, two.number, ids) for ids in (others, unknown, own, others)
        ]
        assert counts[0] == counts[1] == counts[3] < counts[2]
