"""Tokens that clients and mirrors of stores show, and what a refusal leads to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shardcast import Archive
from shardcast.blobs.client.archive import ArchiveClient
from shardcast.blobs.client.remote import RemoteStore
from shardcast.blobs.copy import CopyProgress, copy, open_repair, remote_store
from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.mirror.mirror_store import MirrorStore
from shardcast.blobs.server.archive_server import ArchiveNode
from shardcast.blobs.server.hash_server import StoreServer, StoreSettings
from shardcast.errors import AccessDenied
from shardcast.peer.session import open_session
from tests.support.archives import put_blobs
from tests.support.gates import Gate, showing
from tests.support.memory_store import BlobsInMemory
from tests.support.processes import run

TOKEN = "sc-Yt53kMd0QwZ8"
BLOBS = [b"one", b"two" * 20_000, b"three"]


@asynccontextmanager
async def archive(root: Path, gate: Gate) -> AsyncIterator[ArchiveNode]:
    with gate.closed():
        async with ArchiveNode.on_directory(root, host="127.0.0.1", port=0, authorized_port=0) as running:
            yield running


@asynccontextmanager
async def hash_server(root: Path, gate: Gate) -> AsyncIterator[str]:
    root.mkdir(exist_ok=True)
    with gate.closed():
        settings = StoreSettings(root, "sha256", None, (), writable=True, lock_seconds=10)
        async with StoreServer.running(settings, "127.0.0.1", (0, 0)) as running:
            yield running.url


async def test_stores_show_their_token_and_a_missing_one_is_denied(tmp_path: Path) -> None:
    gate = Gate()
    gate.add(TOKEN, "read archive-push")
    source = BlobsInMemory()
    digests = await put_blobs(source, *BLOBS)
    async with (
        archive(tmp_path / "archive", gate) as running,
        hash_server(tmp_path / "hashes", gate) as hashes,
    ):
        for url in (str(running.push_url), hashes):
            state = CopyProgress()
            async with remote_store(url, "sha256", access=showing(TOKEN)) as there:
                await copy(source, there, digests, state)
                assert (state.copied, await there.size(digests[1])) == (3, len(BLOBS[1]))
            assert all(shown == f"Bearer {TOKEN}" for _, _, shown in gate.seen)
            gate.seen.clear()
            with pytest.raises(AccessDenied, match='401: a token with the scope "read" is needed'):
                async with remote_store(url, "sha256"):
                    pass
            assert gate.requests() == 1
            gate.seen.clear()


async def test_push_without_the_scope_is_denied_at_once(tmp_path: Path) -> None:
    gate = Gate()
    gate.add(TOKEN, "read")
    source = BlobsInMemory()
    digests = await put_blobs(source, *(b"%d" % number for number in range(300)))
    async with archive(tmp_path / "archive", gate) as running:
        async with remote_store(str(running.push_url), "sha256", access=showing(TOKEN)) as there:
            with pytest.raises(AccessDenied, match='the token lacks the scope "archive-push"'):
                await copy(source, there, digests, CopyProgress())
        assert gate.requests("/v1/push") == 1
        client = Archive(str(running.push_url), TOKEN)
        with pytest.raises(AccessDenied, match='the token lacks the scope "archive-push"'):
            await asyncio.to_thread(client.push, [b"blob"])
        gate.add(TOKEN, "read archive-push")
        (key,) = await asyncio.to_thread(client.push, [b"blob"])
        assert await asyncio.to_thread(lambda: list(client.pull({key: 4}))) == [(key, b"blob")]


async def test_denied_store_command_ends_with_code_8(tmp_path: Path) -> None:
    gate = Gate()
    gate.add(TOKEN, "read archive-push")
    (tmp_path / "here").mkdir()
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    async with archive(tmp_path / "archive", gate) as running:
        async with open_session(access=showing(TOKEN)) as session:
            (key,) = await ArchiveClient(str(running.push_url), session).push([b"blob"])
        words = ("store", "pull", "-d", str(tmp_path / "here"), running.url, key)
        done = await asyncio.to_thread(run, *words)
        assert (done.returncode, done.stdout) == (8, "")
        assert 'a token with the scope "read" is needed; give --token-file or SHARDCAST_TOKEN' in done.stderr
        done = await asyncio.to_thread(run, *words, env={"SHARDCAST_TOKEN_FILE": str(token)})
        assert done.returncode == 0, done.stderr


async def test_refusing_server_is_named_once_by_repairs_and_mirrors(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    (tmp_path / "other").mkdir()
    gate, other = Gate(), BlobDirectory(tmp_path / "other", "sha256", writable=True)
    digests = await put_blobs(other, *BLOBS)
    await other.close()
    async with (
        ArchiveNode.on_directory(tmp_path / "other", host="127.0.0.1", port=0) as serving,
        archive(tmp_path / "refusing", gate) as refusing,
    ):
        urls = [refusing.url, serving.url]
        async with open_repair(urls, "sha256", lambda: target) as repair:
            target = BlobsInMemory()
            assert repair
            for digest in digests:
                assert await repair(digest) == serving.url
        assert sum("not used for repairs" in record.getMessage() for record in caplog.records) == 1
        assert gate.requests() == 1
        async with open_session() as session:
            local = BlobsInMemory()
            mirror = MirrorStore(local, [RemoteStore(url, session) for url in urls], "81ab")
            for digest in digests:
                assert await mirror.fetch_one(digest)
            await mirror.close()
        assert sum("could not fetch" in record.getMessage() for record in caplog.records) == 1
        assert gate.requests() == 2
