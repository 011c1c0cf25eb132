"""A backup server over HTTP: what each key may do, and what hostile requests get."""

from __future__ import annotations

import asyncio
import io
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shardcast.access import wrong_tokens
from shardcast.access.secret import Secret
from shardcast.backup import wire
from shardcast.backup.client.remote import BackupServer
from shardcast.backup.server.app import BackupServerNode
from shardcast.backup.server.management import StoreManager
from shardcast.backup.server.pruning import prune
from shardcast.backup.server.runs import LEASE_SECONDS
from shardcast.backup.server.state import MAX_UPLOADS
from shardcast.backup.server.store_folder import StoreFolder
from shardcast.errors import AccessDenied, BadAnswer, DataDirInUse, ServerLacks, UploadRefused, WrongStore
from tests.support.backup_stores import call, pack_of, random_contents, registered, running_server

HEAD = {"host": "desk", "path": "/home/me", "tags": [], "base": None}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(wrong_tokens, "FIRST_DELAY", 0.0)
    return tmp_path / "store"


@pytest.fixture
async def node(folder: Path) -> AsyncIterator[BackupServerNode]:
    async with running_server(folder) as running:
        yield running


async def back_up(
    client: BackupServer, key: bytes, seed: object, record: bytes = b"record"
) -> tuple[str, list[bytes]]:
    """Make a snapshot of three chunks, and return its id and the chunks' ids."""
    run = await call(client.begin_run, "desk", b"/home/me")
    pack, ids = pack_of(random_contents(seed, 3), key)
    await call(run.put_pack, pack)
    name = await call(run.commit, HEAD, record, ids)
    await call(run.end)
    assert isinstance(name, str)
    return name, ids


async def request(
    url: str, method: str, path: str, key: str | None = None, body: bytes | None = None, **headers: str
) -> tuple[int, bytes]:
    """Send a request, and return the status and the body of the answer."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    given |= {"Authorization": f"Bearer {key}"} if key is not None else {}
    data = None if body is None else io.BytesIO(body)
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url.rstrip("/") + path, data=data, headers=given) as answer,
    ):
        return answer.status, await answer.read()


def port_of(node: BackupServerNode) -> int:
    """Return the port of a server."""
    return int(node.url.rsplit(":", 1)[1].strip("/"))


async def raw_key(node: BackupServerNode, folder: Path, **words: Any) -> str:
    """Register, and return the text of the key."""
    with StoreManager.opened(StoreFolder(folder)) as manager:
        invitation = manager.invite(100.0, **words)
    body = json.dumps({"invitation": invitation, "host": "raw", "path": "/"}).encode()
    status, answer = await request(node.url, "POST", wire.REGISTER_PATH, body=body)
    assert status == 201
    return str(json.loads(answer)["key"])


async def test_snapshot_is_made_listed_read_and_forgotten(node: BackupServerNode, folder: Path) -> None:
    async with registered(node.url, folder) as (client, key):
        await call(client.check)
        name, ids = await back_up(client, key, "a")
        [listed] = await call(client.snapshots)
        assert (listed.id, listed.host, listed.path) == (name, "desk", b"/home/me")
        assert await call(client.record, name) == b"record"
        places = await call(client.locate, ids)
        data = [await call(client.read_range, place.pack, place.offset, place.length) for place in places]
        assert [content[1:] for content in data] == random_contents("a", 3)
        assert await call(client.forget, [name]) == [name]
        assert await call(client.snapshots) == []


async def test_commit_names_missing_chunks_and_repeats_its_answer(
    node: BackupServerNode, folder: Path
) -> None:
    async with registered(node.url, folder) as (client, key):
        run = await call(client.begin_run, "desk", b"/")
        pack, ids = pack_of(random_contents("a", 3), key)
        assert await call(run.missing, ids) == [True] * 3
        assert await call(run.commit, HEAD, b"record", ids) == ids
        await call(run.put_pack, pack)
        assert await call(run.missing, [*ids, b"?" * 32]) == [False, False, False, True]
        name = await call(run.commit, HEAD, b"record", ids)
        assert await call(run.commit, HEAD, b"record", ids) == name
        assert len(await call(client.snapshots)) == 1
        delta = await call(run.commit, {**HEAD, "base": name}, b"next", [], ids[:1])
        assert isinstance(delta, str) and delta != name
        with pytest.raises(ServerLacks):
            await call(run.commit, {**HEAD, "base": "0" * 16}, b"next", [])


async def test_clients_see_and_change_only_their_own(node: BackupServerNode, folder: Path) -> None:
    async with (
        registered(node.url, folder, "one") as (one, key),
        registered(node.url, folder, "two") as (two, other),
    ):
        assert key != other
        name, ids = await back_up(one, key, "a")
        [place, *_] = await call(one.locate, ids)
        run = await call(two.begin_run, "two", b"/")
        assert await call(two.snapshots) == []
        assert await call(run.missing, ids) == [True] * 3
        assert await call(two.locate, ids) == [wire.NOWHERE] * 3
        assert await call(run.commit, HEAD, b"record", ids) == ids
        for stolen in (
            lambda: two.record(name),
            lambda: two.damaged(name),
            lambda: two.forget([name]),
            lambda: two.read_range(place.pack, 0, 10),
            lambda: run.commit({**HEAD, "base": name}, b"record", []),
        ):
            with pytest.raises(ServerLacks):
                await call(stolen)
        assert [listed.id for listed in await call(one.snapshots)] == [name]


async def test_run_of_another_client_takes_nothing(node: BackupServerNode, folder: Path) -> None:
    async with registered(node.url, folder, "one") as (one, _):
        status, answer = await request(
            node.url, "POST", wire.RUNS_PATH, await raw_key(node, folder), b'{"host": "h", "path": "/"}'
        )
        assert status == 201
        path = wire.run_path(json.loads(answer)["run"], "missing")
        with pytest.raises(ServerLacks):
            await call(lambda: one.ask("POST", path, body=(b"i" * 32,)))


async def test_same_pack_of_two_clients_stays_for_the_other(node: BackupServerNode, folder: Path) -> None:
    """A client could learn of another's pack only if its own upload were treated otherwise."""
    async with (
        registered(node.url, folder, "one") as (one, key),
        registered(node.url, folder, "two") as (two, _),
    ):
        pack, ids = pack_of(random_contents("a", 3), key)
        for client in (one, two):
            run = await call(client.begin_run, "h", b"/")
            assert await call(run.missing, ids) == [True] * 3
            await call(run.put_pack, pack)
            await call(run.commit, HEAD, b"record", ids)
            await call(run.end)
        [listed] = await call(one.snapshots)
        await call(one.forget, [listed.id])
        await prune(node.state.store, 0.0)
        [place, *_] = await call(two.locate, ids)
        assert len(await call(two.read_range, place.pack, place.offset, place.length)) == place.length


async def test_wrong_revoked_and_replaced_keys_are_refused(node: BackupServerNode, folder: Path) -> None:
    key = await raw_key(node, folder)
    assert (await request(node.url, "GET", wire.CLIENT_PATH, key))[0] == 200
    for wrong in (None, "", "password", key[:-1], key + "x", "shardcast_00000000_" + "A" * 43):
        status, body = await request(node.url, "GET", wire.CLIENT_PATH, wrong)
        assert status == 401 and "error" in json.loads(body)
    with StoreManager.opened(StoreFolder(folder)) as manager:
        [account] = manager.clients()
    new = await raw_key(node, folder, client=account.name, replaces=True)
    assert (await request(node.url, "GET", wire.CLIENT_PATH, key))[0] == 401
    with StoreManager.opened(StoreFolder(folder)) as manager:
        assert manager.revoke(account.name) == 1
    assert (await request(node.url, "GET", wire.CLIENT_PATH, new))[0] == 401


async def test_two_authorization_headers_are_refused(node: BackupServerNode, folder: Path) -> None:
    key = await raw_key(node, folder)
    async with aiohttp.ClientSession() as session:
        headers = [("Authorization", f"Bearer {key}")] * 2
        async with session.get(node.url.rstrip("/") + wire.CLIENT_PATH, headers=headers) as answer:
            assert answer.status == 401


async def test_read_only_key_only_reads(node: BackupServerNode, folder: Path) -> None:
    async with registered(node.url, folder) as (client, key):
        name, ids = await back_up(client, key, "a")
        facts = await call(client.facts)
        async with registered(node.url, folder, client=facts.client, read_only=True) as (reader, same):
            assert same == key and (await call(reader.facts)).read_only
            assert await call(reader.record, name) == b"record"
            assert wire.NOWHERE not in await call(reader.locate, ids)
            for writing in (lambda: reader.begin_run("h", b"/"), lambda: reader.forget([name])):
                with pytest.raises(AccessDenied, match="only reads"):
                    await call(writing)


async def test_append_only_server_forgets_with_its_admin_key_only(folder: Path) -> None:
    async with (
        running_server(folder, append_only=True) as node,
        registered(node.url, folder) as (client, key),
    ):
        name, _ = await back_up(client, key, "a")
        for wrong in (None, "guess", ""):
            with pytest.raises(AccessDenied):
                await call(client.forget, [name], wrong)
        assert len(await call(client.snapshots)) == 1
        assert await call(client.forget, [name], StoreFolder(folder).read_admin_key()) == [name]


async def test_young_snapshots_are_not_forgotten_even_with_the_admin_key(folder: Path) -> None:
    async with (
        running_server(folder, append_only=True, min_age=1000.0) as node,
        registered(node.url, folder) as (client, key),
    ):
        old, _ = await back_up(client, key, "a")
        young, _ = await back_up(client, key, "b")
        assert (await call(client.facts)).min_age == 1000.0
        await node.state.store.database.write(
            lambda database: database.execute("UPDATE snapshot SET arrived = 0 WHERE id = ?", (old,))
        )
        admin = StoreFolder(folder).read_admin_key()
        with pytest.raises(BadAnswer, match="min-age"):
            await call(client.forget, [old, young], admin)
        assert len(await call(client.snapshots)) == 2, "all or none"
        assert await call(client.forget, [old], admin) == [old]


async def test_quota_ends_uploads_in_words(folder: Path) -> None:
    async with running_server(folder, quota=2000) as node, registered(node.url, folder) as (client, key):
        await back_up(client, key, "a")
        with pytest.raises(UploadRefused, match=r"quota of 2\.0 kB"):
            await back_up(client, key, "b")
        facts = await call(client.facts)
        assert facts.quota == 2000 and 0 < (facts.used or 0) <= 2000
        with StoreManager.opened(StoreFolder(folder)) as manager:
            manager.set_quota(facts.client, 1_000_000)
        await back_up(client, key, "b")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", wire.REGISTER_PATH, b"", 400),
        ("POST", wire.REGISTER_PATH, b"[" * 100_000, 400),
        ("POST", wire.REGISTER_PATH, b'{"invitation": 1, "host": "h", "path": "/"}', 400),
        ("POST", wire.REGISTER_PATH, b'{"invitation": "x", "host": "h", "path64": "?"}', 400),
        ("POST", wire.REGISTER_PATH, b'{"invitation": "x", "host": "h", "path": "/"}', 403),
        ("POST", wire.REGISTER_PATH, b" " * (wire.MAX_JSON + 1), 413),
        ("POST", wire.RUNS_PATH, b'{"host": "\\ud800", "path": "/"}', 400),
        ("POST", wire.RUNS_PATH, b"{}", 400),
        ("POST", wire.LOCATE_PATH, b"i" * 33, 400),
        ("POST", wire.LOCATE_PATH, b"i" * (wire.MAX_IDS + 1) * 32, 413),
        ("POST", wire.FORGET_PATH, b'{"snapshots": []}', 400),
        ("POST", wire.FORGET_PATH, b'{"snapshots": [{"$gt": ""}]}', 400),
        ("POST", wire.FORGET_PATH, b'{"snapshots": ["\' OR 1=1 --"]}', 404),
        ("GET", wire.PACKS_PATH + "/" + "a" * 64, b"", 404),
        ("GET", wire.PACKS_PATH + "/../backup.sqlite3", b"", 404),
        ("GET", wire.PACKS_PATH + "/..%2f..%2fbackup.sqlite3", b"", 404),
        ("GET", wire.SNAPSHOTS_PATH + "/%00", b"", 404),
        ("PUT", wire.run_path("0" * 32, "packs/" + "a" * 64), b"x", 404),
        ("POST", wire.run_path("0" * 32, "snapshots"), b"\xff" * 8, 404),
        ("DELETE", wire.CLIENT_PATH, b"", 405),
    ],
)
async def test_malformed_request_is_answered_in_words(
    node: BackupServerNode, folder: Path, method: str, path: str, body: bytes, status: int
) -> None:
    got, answer = await request(node.url, method, path, await raw_key(node, folder), body)
    assert got == status and b"Traceback" not in answer


@pytest.mark.parametrize(
    ("part", "body", "headers", "status"),
    [
        ("packs/" + "a" * 64, b"x" * 100, {}, 422),
        ("packs/" + "a" * 64, b"", {}, 422),
        ("packs/" + "A" * 64, b"x", {}, 404),
        ("packs/" + "a" * 64, None, {"Content_Length": str(wire.MAX_PACK + 1)}, 413),
        ("missing", b"i" * 31, {}, 400),
        ("missing", b"", {}, 200),
        ("snapshots", b"", {}, 400),
        ("snapshots", b"\xff\xff\xff\xff", {}, 413),
        ("snapshots", b"\x02\0\0\0{}\xff\xff\xff\xff", {}, 413),
        ("snapshots", b"\x02\0\0\0{}\x01\0\0\0ri", {}, 400),
    ],
)
async def test_malformed_bodies_of_a_run_are_refused(
    node: BackupServerNode, folder: Path, part: str, body: bytes | None, headers: dict[str, str], status: int
) -> None:
    key = await raw_key(node, folder)
    _, answer = await request(node.url, "POST", wire.RUNS_PATH, key, b'{"host": "h", "path": "/"}')
    path = wire.run_path(json.loads(answer)["run"], part)
    method = "PUT" if part.startswith("packs") else "POST"
    if body is None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(node))
        lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {key}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        got = int((await reader.readline()).split()[1])
        writer.close()
    else:
        got, _ = await request(node.url, method, path, key, body)
    assert got == status
    assert list(folder.joinpath("packs").glob("??/*")) == []


async def test_upload_that_breaks_off_leaves_nothing(node: BackupServerNode, folder: Path) -> None:
    key = await raw_key(node, folder)
    _, answer = await request(node.url, "POST", wire.RUNS_PATH, key, b'{"host": "h", "path": "/"}')
    path = wire.run_path(json.loads(answer)["run"], "packs/" + "a" * 64)
    _, writer = await asyncio.open_connection("127.0.0.1", port_of(node))
    writer.write(
        f"PUT {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n".encode()
        + b"Content-Length: 9000\r\n\r\n"
        + b"x" * 4000
    )
    await writer.drain()

    async def announced() -> int:
        found = await node.state.store.database.read(
            lambda database: database.execute("SELECT count(*) FROM pack").fetchone()
        )
        return int(found[0])

    async with asyncio.timeout(20):
        while not await announced():
            await asyncio.sleep(0.01)
        writer.transport.abort()
        while await announced():
            await asyncio.sleep(0.01)


async def test_body_is_not_asked_for_with_a_wrong_key(node: BackupServerNode, folder: Path) -> None:
    await raw_key(node, folder)
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(node))
    path = wire.run_path("0" * 32, "packs/" + "a" * 64)
    writer.write(
        f"PUT {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer no\r\nContent-Length: 9000\r\n"
        "Expect: 100-continue\r\n\r\n".encode()
    )
    async with asyncio.timeout(20):
        assert (await reader.readline()).split()[1] == b"401"
    writer.close()


async def test_lease_of_a_run_ends(node: BackupServerNode, folder: Path) -> None:
    async with registered(node.url, folder) as (client, _):
        run = await call(client.begin_run, "desk", b"/")
        await node.state.store.database.write(
            lambda database: database.execute("UPDATE run SET expires = expires - ?", (LEASE_SECONDS,))
        )
        with pytest.raises(ServerLacks, match="begin a new one"):
            await call(run.missing, [])


async def test_many_uploads_at_once_all_arrive(node: BackupServerNode, folder: Path) -> None:
    async with registered(node.url, folder) as (client, key):
        run = await call(client.begin_run, "desk", b"/")
        packs = [pack_of(random_contents(seed, 3), key) for seed in range(MAX_UPLOADS + 4)]
        await asyncio.gather(*(call(run.put_pack, pack) for pack, _ in packs))
        ids = [chunk for _, ids in packs for chunk in ids]
        assert isinstance(await call(run.commit, HEAD, b"record", ids), str)


async def test_unusual_number_of_snapshots_is_told(
    node: BackupServerNode, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with registered(node.url, folder) as (client, key):
        run = await call(client.begin_run, "desk", b"/")
        _, ids = await back_up(client, key, "a")
        for number in range(25):
            await call(run.commit, HEAD, b"%d" % number, ids)
        facts = await call(client.facts)
        assert facts.unusual and "26 snapshots" in facts.unusual
        assert "more snapshots than usual" in caplog.text
        with StoreManager.opened(StoreFolder(folder)) as manager:
            [account] = manager.clients()
            assert account.unusual == facts.unusual
            assert {entry.action for entry in manager.log()} == {"invite", "register", "snapshot", "unusual"}


async def test_folder_is_served_by_one_server_and_no_other_door(node: BackupServerNode, folder: Path) -> None:
    from shardcast.blobs.server.archive_server import ArchiveNode
    from shardcast.blobs.server.hash_server import StoreServer, StoreSettings
    from shardcast.cli.blobs.options import open_store

    with pytest.raises(DataDirInUse, match=r"backup server .*--store_dir"):
        async with running_server(folder):
            pass
    other = folder.parent / "other"
    other.mkdir()
    packs = folder / "packs"
    for settings in (StoreSettings(packs), StoreSettings(other, extra=(str(packs),))):
        with pytest.raises(WrongStore, match="belongs to a backup server"):
            async with StoreServer.running(settings):
                pass
    with pytest.raises(WrongStore, match="belongs to a backup server"):
        async with ArchiveNode.on_directory(packs, host="127.0.0.1", port=0):
            pass
    with pytest.raises(WrongStore, match="belongs to a backup server"):
        open_store(packs)


async def test_secrets_are_for_the_owner_only(node: BackupServerNode, folder: Path) -> None:
    assert folder.stat().st_mode & 0o077 == 0
    for name in ("backup.sqlite3", "admin.key"):
        assert (folder / name).stat().st_mode & 0o077 == 0
    assert (folder / "packs").stat().st_mode & 0o077 == 0


async def test_full_database_disk_is_answered_507(node: BackupServerNode, folder: Path) -> None:
    async with registered(node.url, folder) as (client, key):
        run = await call(client.begin_run, "desk", b"/")
        await node.state.store.database.write(_let_grow_no_more)
        pack, _ = pack_of(random_contents("a", 3000, 20), key)
        with pytest.raises(UploadRefused, match="disk of the backup server is full"):
            await call(run.put_pack, pack)
    assert list(folder.joinpath("packs").glob("??/*")) == []


def _let_grow_no_more(database: sqlite3.Connection) -> None:
    """Have SQLite find its disk full."""
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    database.execute(f"PRAGMA max_page_count = {pages}")


async def test_key_is_in_no_log(
    node: BackupServerNode, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    key = await raw_key(node, folder)
    await request(node.url, "GET", wire.CLIENT_PATH, key)
    with StoreManager.opened(StoreFolder(folder)) as manager:
        assert key not in caplog.text + repr(manager.log())
    with closing(sqlite3.connect(folder / "backup.sqlite3")) as database:
        assert key.rpartition("_")[2] not in "\n".join(database.iterdump())
    assert repr(Secret(key)) == "Secret(…)"
