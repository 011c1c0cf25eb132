"""Copying blobs between directories and servers: what counts as kept is kept, what is there is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from shardcast.errors import BadAnswer
from shardcast.nodes.copying import Copied, copy, remote
from shardcast.peer.remote_store import RemoteStore
from shardcast.peer.session import open_session
from shardcast.store.blobs.memory import BlobsInMemory
from tests.support.archives import keep
from tests.support.hash_servers import listed, ours, started, theirs, uploading, wait
from tests.support.legacy import DIRECTLY, peer_folder
from tests.support.payloads import random_bytes, sha256
from tests.support.stores import content

BLOB = random_bytes(300_000)
KEY = sha256(BLOB)


# A push beside another upload of the same blob


class Seen:
    """The statuses of the uploads that a store made; ``at_first`` is called with the first of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at_first: Callable[[], None]) -> None:
        self.statuses: list[int] = []
        put = RemoteStore._put

        async def look(store: RemoteStore, digest: str, file: object) -> int:
            self.statuses.append(await put(store, digest, file))  # type: ignore[arg-type]
            if len(self.statuses) == 1:
                asyncio.get_running_loop().call_later(0.05, at_first)
            return self.statuses[-1]

        monkeypatch.setattr(RemoteStore, "_put", look)


@pytest.mark.parametrize("whose", ["ours", pytest.param("theirs", marks=pytest.mark.legacy)])
@pytest.mark.parametrize("how", ["hangs up", "ends"])
async def test_a_push_beside_another_upload_is_kept_however_that_one_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str, how: str
) -> None:
    (tmp_path / "blobs").mkdir()
    words = [str(tmp_path / "blobs"), "--writable", "--port-range", "49152", "65535"]
    command = ours(*words) if whose == "ours" else theirs(peer_folder("hashserver"), *words)
    source = BlobsInMemory()
    await keep(source, BLOB)
    with started(command, DIRECTLY) as server, uploading(server.port, KEY, len(BLOB)) as other:
        other.send(BLOB[:1000])
        wait(lambda: listed(server.port, "/has", [KEY]) == [True], "the other upload")

        def end() -> None:
            other.close() if how == "hangs up" else other.send(BLOB[1000:])

        seen, state = Seen(monkeypatch, end), Copied()
        async with remote(f"http://127.0.0.1:{server.port}", "sha256") as target:
            if whose == "theirs":  # there it looks like a blob that is there, whose length is waited for
                asyncio.get_running_loop().call_later(0.3, end)
            await asyncio.wait_for(copy(source, target, [KEY], state), 30)
        assert (state.copied + state.there, state.failed) == (1, {})
        assert listed(server.port, "/buffer-length", [KEY]) == [len(BLOB)]
    assert content(tmp_path / "blobs")[KEY] == BLOB
    if whose == "ours":
        assert seen.statuses == ([202, 200] if how == "hangs up" else [202])


async def test_a_push_beside_an_upload_without_end_fails_and_says_that_nothing_is_kept(
    tmp_path: Path,
) -> None:
    source = BlobsInMemory()
    await keep(source, BLOB)
    with (
        started(ours(str(tmp_path), "--writable", "--port-range", "49152", "65535")) as server,
        uploading(server.port, KEY, len(BLOB)) as other,
    ):
        other.send(BLOB[:1000])
        wait(lambda: listed(server.port, "/has", [KEY]) == [True], "the other upload")
        async with open_session() as session:
            target, state = RemoteStore(f"http://127.0.0.1:{server.port}", session, patience=0.3), Copied()
            await copy(source, target, [KEY], state)
        assert state.copied == 0
        assert isinstance(state.failed[KEY], BadAnswer)
        assert "is not kept" in str(state.failed[KEY])
    assert content(tmp_path) == {}
