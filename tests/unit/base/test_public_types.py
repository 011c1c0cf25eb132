"""Types that users' own checkers see; mypy checks this file, nothing is called."""

from __future__ import annotations

from importlib.resources import files
from typing import assert_type

import shardcast
from shardcast import Broadcast, ClientNode, MiddleNode, OriginServer, RemoteBroadcast


def publish(wait: bool, origin: OriginServer) -> None:
    assert_type(shardcast.broadcast("x"), str)
    assert_type(shardcast.broadcast("x", "50MB", wait), str | Broadcast | RemoteBroadcast)
    assert_type(shardcast.broadcast("x", wait=wait, to="host"), str | Broadcast | RemoteBroadcast)
    assert_type(shardcast.broadcast("x", wait=False), Broadcast)
    assert_type(shardcast.broadcast("x", wait=False, to="host"), RemoteBroadcast)
    assert_type(origin.broadcast("x", shard_size="50MB", wait=wait), str | Broadcast)
    assert_type(origin.broadcast("x", wait=False), Broadcast)


async def follow(handle: Broadcast | RemoteBroadcast) -> None:
    assert_type(await handle, str)
    await shardcast.Client("10.0.0.1,10.0.0.2").download(3)
    ClientNode("10.0.0.1,10.0.0.2").download_version(3)
    MiddleNode("10.0.0.1,10.0.0.2")
    if isinstance(handle, Broadcast):
        handle.add_done_callback(lambda done: assert_type(done, Broadcast))


def test_checkers_read_the_types_of_the_package() -> None:
    assert (files(shardcast) / "py.typed").is_file()
