"""Sharing clients with servers that do not know each other: neighbours get tickets that they can check."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.support.published import Published, publish, random_bytes
from tests.support.sharing import sharer, slow_origin

MIB = 1 << 20


@pytest.fixture
async def published(tmp_path: Path) -> Published:
    return await asyncio.to_thread(publish, tmp_path / "data", random_bytes(2 * MIB), MIB // 2)


@pytest.mark.parametrize("seeder_knows_both", [True, False], ids=["accepting", "opening"])
async def test_clients_with_one_server_in_common_share(
    seeder_knows_both: bool, published: Published, tmp_path: Path
) -> None:
    shutil.copytree(published.data_dir, tmp_path / "copy")
    async with (
        slow_origin(published.data_dir, MIB) as first,
        slow_origin(tmp_path / "copy", MIB) as second,
    ):
        keys = [path.read_bytes() for path in tmp_path.glob("*/.shardcast/swarm-key")]
        assert len(set(keys)) == 2
        both, one = [first.url, second.url], [second.url]
        async with (
            sharer(both if seeder_knows_both else one, tmp_path / "seeder") as seeder,
            sharer(one if seeder_knows_both else both, tmp_path / "other") as other,
        ):
            await seeder.have(published.payload)
            await asyncio.wait_for(other.download(), 30)
            assert other.path.read_bytes() == published.payload
            assert other.from_neighbours > MIB // 2
