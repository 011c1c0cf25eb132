"""Versions that a blocking client shares on in the background after it has downloaded them."""

from __future__ import annotations

import asyncio
import pickle
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from shardcast.api import ClientNode
from shardcast.errors import AddressTaken, UsageError
from shardcast.nodes.origin import Origin
from tests.support.published import Published, publish, random_bytes
from tests.support.sharing import sharer, slow_origin, until

SIZE = 2_000_000


@pytest.fixture
def published(tmp_path: Path) -> Published:
    payload = random_bytes(SIZE)
    (tmp_path / "payload").write_bytes(payload)
    return publish(tmp_path / "data", payload, 500_000)


@pytest.fixture
async def origin(published: Published) -> AsyncIterator[Origin]:
    # So slow that a neighbour has its part also where it is found late.
    async with slow_origin(published.data_dir, SIZE // 8) as origin:
        yield origin


@pytest.fixture
def port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def node(origin: Origin, folder: Path, **settings: Any) -> ClientNode:
    """Return a client that has all bytes of the version already."""
    folder.mkdir()
    for name in ("download_v1.bin", "a", "b", "c"):
        (folder / name).write_bytes((folder.parent / "payload").read_bytes())
    return ClientNode([origin.url], folder, share=True, share_host="127.0.0.1", **settings)


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def threads() -> int:
    return sum(thread.name == "shardcast" for thread in threading.enumerate())


async def call(function: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.wait_for(asyncio.to_thread(function, *arguments), 30)


async def test_version_is_shared_on_after_its_download_until_that_is_stopped(
    published: Published, origin: Origin, tmp_path: Path, port: int
) -> None:
    before = threads()
    client = node(origin, tmp_path / "one", seed_for=60, share_port=port)
    path = await call(client.download_version, "v1")
    assert Path(path).read_bytes() == published.payload
    async with sharer(origin.url, tmp_path / "two") as other:
        await asyncio.wait_for(other.download(), 30)
        assert other.from_neighbours > SIZE // 4
    await call(client.stop_sharing)
    assert not listens(port)
    assert threads() == before
    await call(client.download_version, "v1")
    assert listens(port)
    await call(client.stop_sharing)


async def test_versions_are_shared_on_by_one_listener(
    published: Published, origin: Origin, tmp_path: Path, port: int
) -> None:
    client = node(origin, tmp_path / "one", seed_for=60, share_port=port)
    names = [str(tmp_path / "one" / name) for name in "abc"]
    assert [await call(client.download_version, "v1", name) for name in names[:1]] == names[:1]
    both = [asyncio.ensure_future(call(client.download_version, "v1", name)) for name in names[1:]]
    assert await asyncio.gather(*both) == names[1:]
    assert await call(client.download_version, "v7") is None
    assert all(Path(name).read_bytes() == published.payload for name in names)
    await call(client.stop_sharing)
    assert not listens(port)


async def test_sharing_on_ends_after_its_time_and_without_a_time_with_the_download(
    origin: Origin, tmp_path: Path
) -> None:
    before, begun = threads(), time.monotonic()
    assert await call(node(origin, tmp_path / "one", seed_for=0.3).download_version, "v1")
    await until(lambda: threads() == before)
    assert time.monotonic() - begun > 0.3
    assert await call(node(origin, tmp_path / "two").download_version, "v1")
    assert threads() == before


async def test_port_that_is_taken_fails_the_download_and_leaves_nothing(
    origin: Origin, tmp_path: Path, port: int
) -> None:
    before = threads()
    client = node(origin, tmp_path / "one", seed_for=60, share_port=port)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", port))
        sock.listen()
        for _ in range(2):
            with pytest.raises(AddressTaken):
                await call(client.download_version, "v1")
    await until(lambda: threads() == before)
    assert await call(client.download_version, "v1")
    await call(client.stop_sharing)


async def test_client_that_shares_on_is_pickled_without_that(origin: Origin, tmp_path: Path) -> None:
    client = node(origin, tmp_path / "one", seed_for=60)
    await call(client.download_version, "v1")
    copy = pickle.loads(pickle.dumps(client))
    await call(copy.stop_sharing)
    assert await call(copy.download_version, "v1")
    for one in (client, copy):
        await call(one.stop_sharing)


@pytest.mark.parametrize("wrong", [{"seed_for": 60}, {"share": True, "seed_for": -1}])
def test_time_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="seed_for"):
        ClientNode(["127.0.0.1"], **wrong)
