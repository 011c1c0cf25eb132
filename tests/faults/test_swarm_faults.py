"""Sharing clients among neighbours that lie, stall, die and flood, and at the ends of their processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shardcast.errors import LocalDiskError, VersionWithdrawn
from shardcast.nodes.origin import Origin
from shardcast.nodes.shared_version import SharedVersion
from shardcast.protocol.distribution import Withdrawal
from shardcast.swarm.links import GivenPiece
from tests.support import processes
from tests.support.certificates import Certificates
from tests.support.published import Published, publish, random_bytes
from tests.support.sharing import Sharer, sharer, slow_origin, until
from tests.support.small_disks import small_disk

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


def shared_by(client: Sharer) -> SharedVersion:
    """Return the version that a client shares."""
    sharing = client.client._downloads.sharing
    assert sharing
    return next(iter(sharing._parts))


def is_sharing(client: Sharer) -> bool:
    """Return whether a client shares anything."""
    sharing = client.client._downloads.sharing
    return bool(sharing and sharing._tasks)


def tasks_of_clients() -> int:
    """Return how many tasks there are beside those of servers, which end when they next write."""
    return sum("RequestHandler" not in str(task.get_coro()) for task in asyncio.all_tasks())


# Neighbours --------------------------------------------------------------------------------------


async def test_neighbour_with_wrong_bytes_is_left_for_the_version(
    published: Published,
    origin: Origin,
    seeder: Sharer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_bytes(bytes(len(published.payload)))
    with garbage.open("rb", buffering=0) as file:

        def find(shard: int, start: int, length: int) -> GivenPiece:
            return GivenPiece(file, start, length)

        monkeypatch.setattr(shared_by(seeder).pieces, "find", find)
        async with sharer(origin.url, tmp_path / "honest") as honest:
            await honest.download()
            assert honest.path.read_bytes() == published.payload
            assert honest.from_neighbours == 0
    assert caplog.text.count("sent a wrong piece") == 1


async def test_output_that_changes_while_a_piece_waits_to_be_sent_sends_no_wrong_piece(
    published: Published, origin: Origin, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with sharer(origin.url, tmp_path / "seeder", upload=64 * 1024) as seeder:
        await seeder.have(published.payload)
        async with sharer(origin.url, tmp_path / "other") as other:
            downloading = asyncio.ensure_future(other.download())
            await until(lambda: shared_by(seeder).exchange.gifts._tasks)
            with seeder.path.open("r+b") as file:
                file.write(bytes(len(published.payload)))
            await downloading
            assert other.path.read_bytes() == published.payload
    assert "wrong piece" not in caplog.text


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
async def test_output_that_changed_since_the_last_look_sends_no_wrong_piece(
    secure: bool,
    published: Published,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def look_no_more(self: SharedVersion) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(SharedVersion, "_watch_pieces", look_no_more)
    certificates = Certificates(tmp_path / "tls")
    served, trusted = (certificates.server(), certificates.client()) if secure else (None, None)
    async with (
        slow_origin(published.data_dir, MIB, access=served) as origin,
        sharer(origin.url, tmp_path / "seeder", upload=256 * 1024, access=trusted) as seeder,
        sharer(origin.url, tmp_path / "other", access=trusted) as other,
    ):
        await seeder.have(published.payload)
        downloading = asyncio.ensure_future(other.download())
        await until(lambda: shared_by(seeder).exchange.gifts._tasks)
        with seeder.path.open("r+b") as file:
            file.write(bytes(len(published.payload)))
        await downloading
        assert other.path.read_bytes() == published.payload
    assert "wrong piece" not in caplog.text


async def test_neighbour_that_offers_what_it_lacks_costs_little(
    published: Published, origin: Origin, seeder: Sharer, tmp_path: Path
) -> None:
    shared = shared_by(seeder)
    shared.exchange.chooser.held = 0  # told already, and refused from now on
    async with sharer(origin.url, tmp_path / "honest") as honest:
        await asyncio.wait_for(honest.download(), 20)
        assert honest.path.read_bytes() == published.payload


async def test_neighbour_that_gives_nothing_is_asked_elsewhere(
    published: Published, origin: Origin, seeder: Sharer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_by(seeder).exchange, "wanted", lambda link, number: None)
    async with sharer(origin.url, tmp_path / "honest") as honest:
        await asyncio.wait_for(honest.download(), 30)
        assert honest.path.read_bytes() == published.payload


async def test_connections_that_say_nothing_or_nonsense_cost_a_sharing_client_nothing(
    published: Published, origin: Origin, seeder: Sharer, tmp_path: Path
) -> None:
    sharing = seeder.client._downloads.sharing
    assert sharing and sharing.identity.port
    upgrade = b"GET /swarm HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: shardcast-swarm\r\n\r\n"
    writers = []
    for start in (b"", upgrade, upgrade + os.urandom(100_000), os.urandom(50_000), upgrade + b"\0" * 100_000):
        for _ in range(5):
            _, writer = await asyncio.open_connection("127.0.0.1", sharing.identity.port)
            writer.write(start)
            writers.append(writer)
    async with sharer(origin.url, tmp_path / "honest") as honest:
        await honest.download()
        assert honest.from_neighbours > 0
    for writer in writers:
        writer.close()


async def test_origin_that_starts_again_finds_its_swarm_anew(published: Published, tmp_path: Path) -> None:
    with processes.reserved_port() as port:
        async with slow_origin(published.data_dir, MIB // 2, port=port) as origin:
            url = origin.url
            async with contextlib.AsyncExitStack() as stack:
                clients = [
                    await stack.enter_async_context(sharer(url, tmp_path / f"client {n}")) for n in range(2)
                ]
                downloads = [asyncio.ensure_future(client.download()) for client in clients]
                await until(lambda: all(c.transfers and c.transfers[0].progress.done for c in clients))
                stack.push_async_callback(asyncio.gather, *downloads)
                restarted = stack.pop_all()
        async with slow_origin(published.data_dir, MIB, port=port), restarted:
            await asyncio.wait_for(asyncio.gather(*downloads), 40)
            assert all(client.path.read_bytes() == published.payload for client in clients)
            async with sharer(url, tmp_path / "late") as late:
                await until(lambda: shared_by(clients[0]).exchange is not None)
                await late.download()
                assert late.path.read_bytes() == published.payload


async def test_nothing_is_left_of_versions_that_were_shared(
    published: Published, origin: Origin, tmp_path: Path
) -> None:
    async with sharer(origin.url, tmp_path / "one") as one, sharer(origin.url, tmp_path / "two") as two:
        counts = []
        for _ in range(6):
            for client in (one, two):
                await client.have(published.payload)
                client.path.unlink()
            await until(lambda: not is_sharing(one) and not is_sharing(two))
            counts.append((tasks_of_clients(), sum(1 for _ in Path("/proc/self/fd").iterdir())))
        assert counts[-1] <= counts[1]


async def test_version_that_is_withdrawn_is_shared_by_who_has_it_and_fetched_no_more(
    published: Published, origin: Origin, seeder: Sharer, tmp_path: Path
) -> None:
    async with sharer(origin.url, tmp_path / "late", upload=64 * 1024) as late:
        downloading = asyncio.ensure_future(late.download())
        await until(lambda: late.transfers)
        await origin.folders.withdraw(Withdrawal("v1", published.sha256, "wrong weights"))
        with pytest.raises(VersionWithdrawn, match="wrong weights"):
            await asyncio.wait_for(downloading, 20)
        await until(lambda: not is_sharing(late))
        assert not late.path.exists()
        assert seeder.path.read_bytes() == published.payload


async def test_full_disk_ends_the_download_with_what_to_do(
    origin: Origin, seeder: Sharer, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk:
        async with sharer(origin.url, disk.path / "folder") as other:
            disk.fill(leaving=MIB // 2)
            with pytest.raises(LocalDiskError, match="No space left"):
                await asyncio.wait_for(other.download(), 30)
            await until(lambda: not is_sharing(other))


async def test_thirty_clients_in_one_process_all_get_the_payload(tmp_path: Path) -> None:
    published = await asyncio.to_thread(publish, tmp_path / "origin", random_bytes(MIB + 17), MIB // 2)
    async with slow_origin(published.data_dir, MIB) as origin, contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(sharer(origin.url, tmp_path / f"client {n}")) for n in range(30)
        ]
        await clients[0].have(published.payload)
        await asyncio.wait_for(asyncio.gather(*(one.download() for one in clients[1:])), 120)
        for one in clients:
            assert one.path.read_bytes() == published.payload
        assert sum(one.from_neighbours for one in clients) > 0


# Processes ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def client(url: str, output: Path, *words: str) -> Iterator[processes.Node]:
    """Run a sharing client."""
    arguments = processes.command(
        "client", "--servers", url, "--version", "latest", "--output-file", str(output), "--share",
        "--share-host", "127.0.0.1", "--log-level", "debug", *words,
    )  # fmt: skip
    with processes.started(arguments, timeout=0) as running:
        yield running


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_ends_a_client_that_only_shares(
    number: signal.Signals, published: Published, origin: Origin, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    with client(origin.url, output, "--seed-for", "10m") as running:
        await until(output.exists, 60)
        await asyncio.to_thread(running.wait_for_log, "v1", 60)
        running.process.send_signal(number)
        code = await asyncio.to_thread(running.process.wait, 20)
    assert "Traceback" not in running.log
    assert code == 130
    assert output.read_bytes() == published.payload


async def test_client_that_was_killed_resumes_and_shares(
    published: Published, origin: Origin, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    async with sharer(origin.url, tmp_path / "other") as other:
        downloading = asyncio.ensure_future(other.download())
        with client(origin.url, output) as running:
            await until(lambda: any(p.stat().st_blocks > 1024 for p in tmp_path.glob("*output*")), 60)
            running.kill()
        await downloading
        with client(origin.url, output) as running:
            assert await asyncio.to_thread(running.process.wait, 60) == 0, running.log
        assert output.read_bytes() == published.payload
        assert other.path.read_bytes() == published.payload


async def test_stopped_neighbour_costs_a_moment(published: Published, origin: Origin, tmp_path: Path) -> None:
    output = tmp_path / "seeder"
    output.write_bytes(published.payload)
    with client(origin.url, output, "--seed-for", "10m") as running:
        async with sharer(origin.url, tmp_path / "folder") as other:
            downloading = asyncio.ensure_future(other.download())
            await until(lambda: other.neighbours, 60)
            running.process.send_signal(signal.SIGSTOP)
            try:
                await asyncio.wait_for(downloading, 60)
            finally:
                running.process.send_signal(signal.SIGCONT)
            assert other.path.read_bytes() == published.payload
