"""Sharing clients: they get the payload from each other, and do without where servers or rights lack that."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import aiohttp
import pytest

from shardcast.access.client_access import ClientAccess
from shardcast.access.credentials import Credentials
from shardcast.access.scopes import Scope
from shardcast.access.secret import Secret
from shardcast.errors import AccessDenied, UsageError
from shardcast.nodes.origin import Origin
from shardcast.nodes.sharing import MAX_SHARED
from tests.support import legacy, nginx
from tests.support.access import TokensOnDisk
from tests.support.published import Published, publish, random_bytes
from tests.support.sharing import Sharer, sharer, slow_origin, until

MIB = 1 << 20


@pytest.fixture
async def published(tmp_path: Path) -> Published:
    return await asyncio.to_thread(publish, tmp_path / "origin", random_bytes(2 * MIB + 17), MIB // 2)


@pytest.fixture
async def origin(published: Published) -> AsyncIterator[Origin]:
    async with slow_origin(published.data_dir, MIB) as origin:
        yield origin


@pytest.fixture
async def seeder(published: Published, origin: Origin, tmp_path: Path) -> AsyncIterator[Sharer]:
    """A client that has the payload, and shares it."""
    async with sharer(origin.url, tmp_path / "seeder") as seeder:
        await seeder.have(published.payload)
        yield seeder


async def fetched(servers: list[str] | str, folder: Path, payload: bytes) -> int:
    """Download as a sharing client does, and return the bytes that came from neighbours."""
    async with sharer(servers, folder) as client:
        await client.download()
        assert client.path.read_bytes() == payload
        return client.from_neighbours


async def test_clients_get_most_of_the_payload_from_each_other(
    published: Published, origin: Origin, seeder: Sharer, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        others = [
            await stack.enter_async_context(sharer(origin.url, tmp_path / f"client {n}")) for n in range(3)
        ]
        releases = await asyncio.gather(*(other.download() for other in others))
        assert all(other.path.read_bytes() == published.payload for other in others)
        assert sum(other.from_neighbours for other in others) > len(published.payload)
        assert sum(release.received[origin.url] for release in releases) < 2 * len(published.payload)


@pytest.mark.parametrize("change", ["changed", "truncated", "replaced", "removed"])
async def test_output_that_is_not_what_was_verified_is_shared_no_more(
    change: str, published: Published, origin: Origin, seeder: Sharer, tmp_path: Path
) -> None:
    stamp = seeder.path.stat()
    if change == "changed":
        with seeder.path.open("r+b") as file:
            file.write(b"another")
        os.utime(seeder.path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    elif change == "truncated":
        os.truncate(seeder.path, MIB)
    elif change == "replaced":
        other = seeder.path.with_name("other")
        other.write_bytes(bytes(len(published.payload)))
        other.replace(seeder.path)
    else:
        seeder.path.unlink()
    assert await fetched(origin.url, tmp_path / "late", published.payload) == 0
    await asyncio.wait_for(seeder.client.seed(60), 20)  # nothing is shared any more


async def test_servers_without_swarms_are_used_without(published: Published, tmp_path: Path) -> None:
    with legacy.plain_server(published.data_dir) as server:
        assert await fetched(server.url, tmp_path / "first", published.payload) == 0


async def test_clients_behind_a_proxy_share(published: Published, tmp_path: Path) -> None:
    async with slow_origin(published.data_dir, MIB) as origin, AsyncExitStack() as stack:
        url = stack.enter_context(nginx.proxy(origin.url, tmp_path / "nginx"))
        first = await stack.enter_async_context(sharer(url, tmp_path / "first"))
        await first.have(published.payload)
        assert await fetched(url, tmp_path / "second", published.payload) > 0


async def test_only_clients_with_a_token_share(published: Published, tmp_path: Path) -> None:
    tokens = TokensOnDisk(tmp_path / "tokens")
    right = ClientAccess(Credentials.from_text(Secret(tokens.add([Scope.READ]).text), "the token"))
    async with (
        slow_origin(published.data_dir, MIB, access=tokens.access) as origin,
        sharer(origin.url, tmp_path / "one", access=right) as one,
        sharer(origin.url, tmp_path / "two", access=right) as two,
        sharer(origin.url, tmp_path / "none") as none,
    ):
        await one.have(published.payload)
        await two.download()
        assert two.from_neighbours > 0
        with pytest.raises(AccessDenied):
            await none.download()
        assert none.from_neighbours == 0


async def receive(client: Sharer, first: str, versions: int) -> list[bytes]:
    """Follow as ``--follow --keep 1`` does, and return the payloads of some versions."""
    found: list[bytes] = []
    async with aclosing(client.client.follow(first, watch=client.transfers.append)) as releases:
        async for release in releases:
            found.append(await asyncio.to_thread(release.path.read_bytes))
            for older in set(client.path.parent.glob("download_*.bin")) - {release.path}:
                older.unlink()
            if len(found) == versions:
                return found
    raise AssertionError("it followed no more")


async def broadcast(origin: Origin, payload: bytes, file: Path) -> None:
    file.write_bytes(payload)
    await (await origin.publish(file, MIB)).result()


async def test_followers_share_each_version_and_withdraw_removed_ones(
    published: Published, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "shardcast.nodes.shared_version")
    payloads = [published.payload, *(random_bytes(2 * MIB, seed) for seed in (2, 3))]
    async with (
        slow_origin(published.data_dir, 2 * MIB) as origin,
        sharer(origin.url, tmp_path / "one") as one,
        sharer(origin.url, tmp_path / "two") as two,
    ):
        both = asyncio.gather(receive(one, "v1", 3), receive(two, "v1", 3))
        for number, payload in enumerate(payloads[1:], 1):
            await until(lambda number=number: len(one.finished) == len(two.finished) == number)
            await broadcast(origin, payload, tmp_path / "payload")
        assert await both == [payloads, payloads]
        assert one.from_neighbours + two.from_neighbours > 0
    assert caplog.text.count("v1 is not shared any more: its files were changed or removed") == 2


@pytest.mark.timeout(60)  # an event loop that never turns again is ended by nothing else
async def test_follower_shares_the_newest_versions_of_many(tmp_path: Path) -> None:
    async with slow_origin(tmp_path / "data", None) as origin, sharer(origin.url, tmp_path / "one") as one:
        for number in range(MAX_SHARED + 2):
            await broadcast(origin, b"%d" % number, tmp_path / "payload")
        names: list[str] = []
        async with aclosing(one.client.follow("v1", every=True)) as releases:
            async for release in releases:
                names.append(release.version)
                if len(names) == MAX_SHARED + 2:
                    break
        async with asyncio.timeout(20):
            while await shared_versions(origin) != names[-MAX_SHARED:]:
                await asyncio.sleep(0.05)


async def shared_versions(origin: Origin) -> list[str]:
    """Return the versions with members of a swarm, as the origin tells them."""
    async with aiohttp.ClientSession() as session, session.get(f"{origin.url}/status") as answer:
        return [one["version"] for one in (await answer.json())["versions"] if one["members"]]


async def test_version_is_shared_while_it_is_being_made(origin: Origin, tmp_path: Path) -> None:
    payload, half = random_bytes(3 * MIB, 5), MIB // 2
    reader, writer = os.pipe()
    async with AsyncExitStack() as stack:
        source, sink = (
            stack.enter_context(os.fdopen(reader, "rb")),
            stack.enter_context(os.fdopen(writer, "wb")),
        )
        making = await origin.publish_stream(source, "live", MIB)
        clients = [
            await stack.enter_async_context(sharer(origin.url, tmp_path / f"client {n}")) for n in range(3)
        ]
        receiving = asyncio.gather(*(receive(client, "v2", 1) for client in clients))
        await asyncio.to_thread(sink.write, payload[:half])
        await asyncio.to_thread(sink.flush)
        await until(lambda: all(client.neighbours == 2 for client in clients))
        await asyncio.to_thread(sink.write, payload[half : 5 * half])
        await asyncio.to_thread(sink.flush)
        await until(lambda: sum(client.from_neighbours for client in clients) > 0)
        await asyncio.to_thread(sink.write, payload[5 * half :])
        sink.close()
        await making.result()
        assert await receiving == 3 * [[payload]]


async def test_port_that_is_taken_is_told(origin: Origin, tmp_path: Path) -> None:
    async with sharer(origin.url, tmp_path / "one") as one:
        port = one.client._downloads.sharing.identity.port  # type: ignore[union-attr]
        with pytest.raises(Exception, match=str(port)):
            async with sharer(origin.url, tmp_path / "two", port=port):
                pass


async def test_missing_library_is_told_with_what_to_install(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(UsageError, match=r"shardcast\[swarm\]"):
        async with sharer(origin.url, tmp_path / "one"):
            pass


async def test_upload_limit_holds(published: Published, origin: Origin, tmp_path: Path) -> None:
    async with sharer(origin.url, tmp_path / "seeder", upload=MIB // 2) as seeder:
        await seeder.have(published.payload)
        begun = time.monotonic()
        assert await fetched(origin.url, tmp_path / "other", published.payload) > 0
        assert seeder.client.given <= MIB // 2 * (time.monotonic() - begun) + MIB // 4


async def test_outputs_of_two_clients_at_one_path_end_whole(
    published: Published, origin: Origin, tmp_path: Path
) -> None:
    async with sharer(origin.url, tmp_path / "same") as one, sharer(origin.url, tmp_path / "same") as two:
        await asyncio.gather(one.download(), two.download())
        assert one.path.read_bytes() == published.payload


async def test_sharing_ends_after_its_time(published: Published, origin: Origin, tmp_path: Path) -> None:
    async with sharer(origin.url, tmp_path / "one", seed_for=0.2) as one:
        await one.have(published.payload)
        start = time.monotonic()
        await one.client.seed(60)
        assert time.monotonic() - start < 20
