"""Nodes behind nginx with its defaults: HTTP/1.0 upstream, a connection a request, answers buffered."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from shardcast.addresses import parse_networks
from shardcast.blobs.client.archive import ArchiveClient
from shardcast.blobs.client.remote import RemoteStore
from shardcast.errors import BadAnswer
from shardcast.nodes.origin import Origin
from shardcast.peer.session import open_session
from shardcast.server.application import application, serve
from shardcast.server.bounds import Bounds
from shardcast.server.routes.versions import add_version_routes
from shardcast.store.data_dir import DataDir
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.versions import VersionFolders
from tests.support import nginx, payloads, processes
from tests.support.archives import CorruptAtEnd, http, pull_body, put_blobs, running_archive
from tests.support.legacy import get, listed
from tests.support.published import publish, random_bytes, sha256
from tests.support.stores import fill
from tests.support.swarm import member, version_of

pytestmark = pytest.mark.legacy

MB = 1_000_000
HTTP = "127.0.0.1", 0
RARELY = {"SHARDCAST_CHECK_INTERVAL": "600"}
"""For clients that must learn of versions by the feed."""
SLOWLY = "proxy_limit_rate 4m;"
"""Bytes a second that nginx takes of an answer: so that a download lasts, and a kill breaks answers off."""


@contextlib.contextmanager
def client(*words: str, said: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A client as a process, which writes what it says into a file."""
    with said.open("wb") as log:
        process = processes.Popen(
            processes.command("client", *words), env=processes.environment(**RARELY), stdout=log, stderr=log
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait(30)


def received(folder: Path) -> int:
    """Bytes on the disk of the download that is under way in a folder."""
    return sum(512 * part.stat().st_blocks for part in folder.glob(".got.bin*part"))


def test_versions_and_reports_go_through_nginx(tmp_path: Path) -> None:
    one = publish(tmp_path / "origin", random_bytes(3 * MB), MB)
    newer = tmp_path / "newer.bin"
    newer.write_bytes(random_bytes(3 * MB, seed=2))
    with (
        processes.origin(one.data_dir) as origin,
        nginx.proxy(origin.url, tmp_path / "nginx") as url,
        processes.middle(url, tmp_path / "middle", "--check-interval", "600") as middle,
        client(
            *("--follow", "--servers", url, "--output-dir", str(tmp_path / "followed")),
            said=tmp_path / "said",
        ),
    ):
        done = processes.run(
            "client", "--servers", url, "--version", "v1", "--output-file", f"{tmp_path}/got"
        )
        assert (done.returncode, sha256(tmp_path / "got")) == (0, one.sha256), done.stderr
        processes.wait_until(lambda: listed(middle.url), what="v1 at the middle")
        # It is counted once it is there and has been reported, so all of these find it below at once.
        words = ("--data-dir", str(one.data_dir), "--copies", "2", "--timeout", "30s")
        done = processes.run("broadcast", str(newer), *words)
        assert (done.returncode, done.stdout) == (0, "v2\n"), done.stderr
        assert list(listed(middle.url)) == ["v1", "v2"]
        assert sha256(tmp_path / "followed" / "download_v2.bin") == sha256(newer)


def test_download_survives_restart_of_node_behind_nginx(tmp_path: Path) -> None:
    one = publish(tmp_path / "origin", random_bytes(8 * MB), 4 * MB)
    output, said = tmp_path / "got.bin", tmp_path / "said"
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(processes.reserved_port())
        own = ("--port", str(port))
        url = stack.enter_context(nginx.proxy(f"http://127.0.0.1:{port}", tmp_path / "nginx", SLOWLY))
        with processes.origin(one.data_dir, *own) as origin:
            words = ("--servers", url, "--version", "v1", "--output-file", str(output))
            process = stack.enter_context(client(*words, said=said))
            processes.wait_until(lambda: received(tmp_path) > MB, what="the download to begin")
            origin.kill()
        assert get(url, "/distribution.txt")[0] == 502
        processes.wait_until(lambda: "waiting for" in said.read_text(), what=f"the wait told in {said}")
        assert MB < received(tmp_path) < 8 * MB, "no answer was broken off"
        with processes.origin(one.data_dir, *own):
            assert process.wait(60) == 0, said.read_text()
    assert sha256(output) == one.sha256


async def test_nginx_passes_live_version_on_without_delay(tmp_path: Path) -> None:
    made = payloads.manifest(random_bytes(10 * payloads.PIECE))
    lines = made.raw.splitlines(keepends=True)
    first = random_bytes(10 * payloads.PIECE)[: payloads.SHARD]
    held = DataDir(tmp_path / "data", "middle")
    folders = VersionFolders(held)
    folders.load(True)
    app = application("0123", lambda app: add_version_routes(app, folders))
    try:
        async with serve(app, *HTTP) as upstream, http() as session:
            with nginx.proxy(upstream, tmp_path / "nginx") as url:
                opened = await folders.begin_version(1, LiveManifest("v1"))
                opened.append_manifest(lines[0])
                async with session.get(f"{url}/v1/manifest.jsonl") as manifest:
                    assert await manifest.content.readline() == lines[0]
                    opened.append_manifest(lines[1])
                    assert await manifest.content.readline() == lines[1]
                    landing = await opened.landing(opened.live.shards[0])
                    asked = {"Shardcast-Accept": "landing"}
                    async with session.get(f"{url}/v1/shard_001.bin", headers=asked) as shard:
                        assert shard.headers["Shardcast-State"] == "landing"
                        for start in range(0, payloads.SHARD - payloads.PIECE, payloads.PIECE):
                            piece = first[start : start + payloads.PIECE]
                            await landing.land(start, piece)
                            assert await asyncio.wait_for(shard.content.readexactly(len(piece)), 5) == piece
                        landing.close()
                        with pytest.raises(aiohttp.ClientPayloadError):
                            await shard.read()
                    folders.events.close()
    finally:
        held.close()


async def test_broken_pull_behind_nginx_does_not_end_cleanly(tmp_path: Path) -> None:
    large, store = random_bytes(1 << 20), CorruptAtEnd()
    await put_blobs(store, b"one", large)
    wanted = {payloads.sha256(blob): len(blob) for blob in (b"one", large)}
    async with running_archive(tmp_path, store) as node, http() as session, open_session() as own:
        with nginx.proxy(node.url, tmp_path / "nginx") as url:
            assert [one async for one in ArchiveClient(url, own).pull({payloads.sha256(b"one"): 3})]
            for headers in ({}, {"Accept-Encoding": "gzip"}):
                sent = session.post(f"{url}/v1/pull", data=pull_body([b"one", large]), headers=headers)
                async with sent as answer:
                    assert answer.status == 200
                    with pytest.raises(aiohttp.ClientPayloadError):
                        await answer.read()
            with pytest.raises(BadAnswer):
                _ = [one async for one in ArchiveClient(url, own).pull(wanted)]


async def test_broken_blob_behind_nginx_does_not_end_cleanly(tmp_path: Path) -> None:
    (key,) = fill(tmp_path / "blobs", random_bytes(8 * MB))
    words = ("store", "serve", str(tmp_path / "blobs"), "--port-range", "49152", "65535")
    with (
        processes.node(*words) as server,
        nginx.proxy(server.url, tmp_path / "nginx", SLOWLY) as url,
    ):
        async with open_session() as own, RemoteStore(url, own).open(key) as blob:
            assert blob.size == 8 * MB
            assert await blob.read(1000)
            server.kill()
            with pytest.raises(BadAnswer, match="cut off"):
                while await blob.read(1 << 20):
                    pass


async def test_members_of_a_swarm_are_found_through_nginx(tmp_path: Path) -> None:
    one = publish(tmp_path / "origin", random_bytes(3 * MB), MB)
    here = "127.0.7.1"  # not the proxy's address, which the origin sees
    forwarded = f'proxy_set_header Forwarded "for={here}";'
    trusting = Bounds(trusted=parse_networks("127.0.0.1"))
    async with Origin.running(one.data_dir, *HTTP, bounds=trusting) as origin:
        with nginx.proxy(origin.url, tmp_path / "nginx", forwarded) as url:
            version = version_of(one)
            async with (
                member(version, [url], host=here) as first,
                member(version, [url], host=here) as second,
                asyncio.timeout(60),
            ):
                while not (first.neighbours and second.neighbours):
                    await asyncio.sleep(0.02)
                named = first.neighbours + second.neighbours
                assert {other.place.host for other in named} == {here}
