"""Sharing clients in two sites: a piece crosses the border once, and none goes back."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from shardcast.nodes.release import Release
from tests.support.published import publish, random_bytes
from tests.support.sharing import sharer, slow_origin

MIB = 1 << 20
SIZE = 6 * MIB
SITES = ("a", "a", "b", "b")


async def test_pieces_cross_into_a_site_once_and_never_back(tmp_path: Path) -> None:
    published = await asyncio.to_thread(publish, tmp_path / "origin", random_bytes(SIZE), 2 * MIB)
    async with slow_origin(published.data_dir, 2 * MIB, site="a") as origin, AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                sharer(origin.url, tmp_path / f"client {number}", site=site, upload=8 * MIB)
            )
            for number, site in enumerate(SITES)
        ]
        releases = await asyncio.gather(*(client.download() for client in clients))
        assert all(client.path.read_bytes() == published.payload for client in clients)
    home, beyond = releases[:2], releases[2:]
    crossed = sum(across(release) + release.received[origin.url] for release in beyond)
    assert SIZE <= crossed <= 1.1 * SIZE
    assert sum(across(release) for release in home) == 0
    # How much each end of the crossings sends depends on which is quicker; neighbours bring a part.
    assert sum(across(release) for release in beyond) > SIZE // 4


def across(release: Release) -> int:
    """Return the bytes that came from neighbours in other sites."""
    assert release.neighbours is not None
    return release.neighbours.across
