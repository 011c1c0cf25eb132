"""A server with ``--dedupe-clients``: equal chunks are stored once, and no client reads what it never had."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shardcast.backup import wire
from shardcast.backup.client.remote import BackupServer
from shardcast.backup.proofs import proof_key, prove
from shardcast.backup.server.app import BackupServerNode
from shardcast.backup.server.pruning import prune
from shardcast.backup.snapshots import parse_snapshot
from shardcast.errors import AccessDenied, BadAnswer, ServerLacks
from tests.support import processes
from tests.support.backup_clients import save_folder
from tests.support.backup_stores import HEAD, call, pack_of, random_contents, registered, running_server, save
from tests.support.restores import Restored
from tests.support.saved_trees import SavedTree

SIZE = wire.MIN_SHARED + 1000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
async def node(folder: Path) -> AsyncIterator[BackupServerNode]:
    async with running_server(folder, dedupe_clients=True) as running:
        yield running


def proofs_of(run: str, chunks: dict[bytes, bytes]) -> bytes:
    """Return the body of a request to share chunks."""
    key = proof_key(run)
    return b"".join(chunk + prove(key, content) for chunk, content in chunks.items())


def stored_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in (folder / "packs").glob("??/*"))


async def test_second_client_sends_little_and_gets_its_files_back(
    node: BackupServerNode, folder: Path, tmp_path: Path
) -> None:
    sources = [tmp_path / name for name in ("one", "two")]
    for source in sources:
        source.mkdir()
        for number, content in enumerate(random_contents("a", 4, 1_500_000)):
            (source / f"{number}").write_bytes(content)
        (source / "small").write_text("a secret of one client\n")
    async with (
        registered(node.url, folder, "one") as (one, key),
        registered(node.url, folder, "two") as (two, same),
    ):
        assert key == same
        first = await call(save_folder, one, sources[0], tmp_path / "cache1")
        before = stored_bytes(folder)
        second = await call(save_folder, two, sources[1], tmp_path / "cache2")
        assert before > 6_000_000 and stored_bytes(folder) - before < 20_000
        assert await call(one.forget, [first]) == [first]
        await prune(node.state.store, 0.0)
        record = await call(two.record, second)
        saved = SavedTree(two, key, root=parse_snapshot(record).root)  # type: ignore[arg-type]
        back = tmp_path / "back"
        assert (await call(Restored, saved, back)).told == {}
        for file in sources[1].iterdir():
            assert (back / file.name).read_bytes() == file.read_bytes()


async def test_right_ids_open_nothing_of_another_client(node: BackupServerNode, folder: Path) -> None:
    contents = random_contents("a", 3, SIZE)
    async with (
        registered(node.url, folder, "one") as (one, key),
        registered(node.url, folder, "two") as (two, _),
    ):
        name, ids = await save(one, key, contents)
        [place, *_] = await call(one.locate, ids)
        run = await call(two.begin_run, "two", b"/")
        assert await call(run.missing, ids) == [True] * 3
        assert await call(two.locate, ids) == [wire.NOWHERE] * 3
        assert await call(run.commit, HEAD, b"record", ids) == ids
        for stolen in (lambda: two.record(name), lambda: two.read_range(place.pack, 0, 10)):
            with pytest.raises(ServerLacks):
                await call(stolen)
        other = await call(one.begin_run, "one", b"/")
        path = wire.run_path(run._run, "share")
        for body in (
            b"".join(chunk + bytes(32) for chunk in ids),
            proofs_of(other._run, dict(zip(ids, contents, strict=True))),
            proofs_of(run._run, dict(zip(ids, [*contents[1:], contents[0]], strict=True))),
        ):
            answer = await call(lambda body=body: two.ask("POST", path, body=(body,)))
            assert answer.body == b"\0"
        assert await call(two.locate, ids) == [wire.NOWHERE] * 3


async def test_pack_of_another_client_shows_only_what_was_proven(
    node: BackupServerNode, folder: Path
) -> None:
    contents = random_contents("a", 3, SIZE)
    async with (
        registered(node.url, folder, "one") as (one, key),
        registered(node.url, folder, "two") as (two, _),
    ):
        _, ids = await save(one, key, contents)
        pack, _ = pack_of(contents, key)
        run = await call(two.begin_run, "two", b"/")
        assert await call(run.share, {ids[1]: contents[1]}) == {ids[1]}
        [nowhere, place, _] = await call(two.locate, ids)
        assert nowhere == wire.NOWHERE and place.pack.hex() == pack.sha256
        whole = await call(two.read_range, place.pack, 0, len(pack.data))
        end = place.offset + place.length
        assert whole[place.offset : end] == bytes(pack.data[place.offset : end])
        assert not any(whole[: place.offset]) and not any(whole[end:])
        around = await call(two.read_range, place.pack, place.offset - 9, place.length + 18)
        assert around == bytes(9) + whole[place.offset : end] + bytes(9)
        assert await call(one.read_range, place.pack, 0, len(pack.data)) == bytes(pack.data)
        (folder / "packs" / pack.sha256[:2] / pack.sha256).unlink()
        with pytest.raises(ServerLacks, match="gone"):
            await call(two.read_range, place.pack, place.offset, place.length)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"i" * 63, "no whole number of ids"),
        (b"i" * 32, "no proof"),
        (b"i" * 64 * (wire.MAX_PROOFS + 1), "too large"),
    ],
)
async def test_malformed_proofs_are_refused(
    node: BackupServerNode, folder: Path, body: bytes, error: str
) -> None:
    async with registered(node.url, folder) as (client, _):
        run = await call(client.begin_run, "desk", b"/")
        with pytest.raises(BadAnswer, match=error):
            await call(lambda: client.ask("POST", wire.run_path(run._run, "share"), body=(body,)))


async def test_server_without_the_option_shares_no_more_and_restores_on(tmp_path: Path) -> None:
    folder, contents = tmp_path / "store", random_contents("a", 3, SIZE)
    async with contextlib.AsyncExitStack() as stack:
        node = await stack.enter_async_context(running_server(folder, dedupe_clients=True))
        one, key = await stack.enter_async_context(registered(node.url, folder, "one"))
        two, _ = await stack.enter_async_context(registered(node.url, folder, "two"))
        _, ids = await save(one, key, contents)
        run = await call(two.begin_run, "two", b"/")
        await call(run.share, {ids[0]: contents[0]})
        secret = two._connections._headers
    async with running_server(folder) as node, registered(node.url, folder, "three") as (_, other):
        assert other != key
        two = BackupServer(node.url)
        two._connections._headers |= secret
        [place] = await call(two.locate, ids[:1])
        assert (await call(two.read_range, place.pack, place.offset, place.length))[1:] == contents[0]
        later = await call(two.begin_run, "two", b"/")
        assert await call(later.share, {ids[1]: contents[1]}) == set()
        body = proofs_of(later._run, {ids[1]: contents[1]})
        with pytest.raises(AccessDenied, match="shares no chunks"):
            await call(lambda: two.ask("POST", wire.run_path(later._run, "share"), body=(body,)))
        two.close()


async def test_clients_and_operators_are_told(tmp_path: Path) -> None:
    folder, environment = tmp_path / "store", {"XDG_CONFIG_HOME": str(tmp_path / "config")}

    def work() -> None:
        words = ("--store_dir", str(folder))
        start = ("start", *words, "--dedupe-clients", "--host", "127.0.0.1", "--port", "0")
        with processes.node("backup", *start) as node:
            invitation = processes.run("backup", "invite", *words).stdout.strip()
            register = ("--dir", str(tmp_path), "--url", node.url, "--invitation", invitation)
            done = processes.run("backup", "register", *register, env=environment)
            assert done.returncode == 0 and "learn whether another one has the file" in done.stderr
            listed = processes.run("backup", "clients", *words, "--json").stdout
            assert json.loads(listed)["shares"] is True
            assert "shares chunks" in processes.run("backup", "clients", *words).stdout

    await asyncio.to_thread(work)
