"""A fault in the exchange of a version's pieces: the download goes on by ranges, and stays with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from shardcast.nodes.middle import Middle
from shardcast.nodes.origin import Origin
from shardcast.nodes.shared_version import SharedVersion
from shardcast.swarm.exchange import Exchange
from tests.support.published import Published, publish, random_bytes
from tests.support.sharing import Sharer, sharer, slow_origin, until

MIB = 1 << 20

Break = Callable[[Exchange], tuple[object, str]]
"""Returns the object and the name of the method to break in an exchange."""


@pytest.fixture
async def published(tmp_path: Path) -> Published:
    return await asyncio.to_thread(publish, tmp_path / "origin", random_bytes(5 * MIB + 17), MIB // 2)


@pytest.fixture
async def origin(published: Published) -> AsyncIterator[Origin]:
    async with slow_origin(published.data_dir, 3 * MIB) as origin:
        yield origin


def shared_by(client: Sharer) -> list[SharedVersion]:
    """Return the versions that a client shares."""
    sharing = client.client._downloads.sharing
    return list(sharing._parts) if sharing else []


def fault(*_: Any, **__: Any) -> None:
    raise ZeroDivisionError("a fault of this program")


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (lambda exchange: (exchange.chooser, "next_request"), "not shared any more, and fetched from its"),
        (lambda exchange: (exchange.chooser, "stalled"), "not shared any more, and fetched from its"),
        (lambda exchange: (exchange, "_learn"), "not shared any more, and fetched from its"),
        (lambda exchange: (exchange, "_take"), "are fetched no more"),
    ],
    ids=["asking", "looking", "offering", "taking"],
)
async def test_download_goes_on_by_ranges_after_a_fault_of_the_exchange(
    broken: Break,
    told: str,
    published: Published,
    origin: Origin,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        sharer(origin.url, tmp_path / "seeder", upload=2 * MIB) as seeder,
        sharer(origin.url, tmp_path / "it") as it,
    ):
        await seeder.have(published.payload)
        downloading = asyncio.ensure_future(it.download())
        await until(lambda: shared_by(it) or downloading.done())
        [shared] = shared_by(it)
        place, name = broken(shared.exchange)
        monkeypatch.setattr(place, name, fault)
        await asyncio.wait_for(downloading, 30)
        assert it.path.read_bytes() == published.payload
        assert isinstance(shared.exchange.failure, ZeroDivisionError)
        assert not shared.exchange.hands_out, "it would be gone back to"
        assert not it.transfers[0].paused
    [line] = [line for line in caplog.messages if "ZeroDivision" in line and told in line]
    assert published.version in line


async def test_client_with_a_fault_leaves_the_swarm_and_its_neighbours(
    published: Published, origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sharer(origin.url, tmp_path / "it") as it, sharer(origin.url, tmp_path / "other") as other:
        await it.have(published.payload)
        [shared] = shared_by(it)
        downloading = asyncio.ensure_future(other.download())
        await until(lambda: shared.exchange.links)
        monkeypatch.setattr(shared.exchange.chooser, "stalled", fault)
        await until(lambda: not shared_by(it))
        assert not shared.exchange.links
        await asyncio.wait_for(downloading, 30)
        assert other.path.read_bytes() == published.payload


async def test_middle_does_not_share_a_version_again_after_a_fault(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Exchange, "_look", _faulty_look)
    async with (
        Origin.running(published.data_dir, "127.0.0.1", 0) as origin,
        Middle.running([origin.url], tmp_path / "middle", "127.0.0.1", 0) as middle,
    ):
        await until(lambda: middle.folders.manifest_of(published.version))
        await until(lambda: "not shared any more" in caplog.text)
        await asyncio.sleep(1.0)  # several looks at what to share
    assert caplog.text.count("is not shared any more") == 1


async def _faulty_look(self: Exchange) -> None:
    fault()
