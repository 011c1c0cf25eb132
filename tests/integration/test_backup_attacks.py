"""Attacks on a backup server: invitations and keys replayed, raced and guessed, and a client taken over."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path

import aiohttp
import pytest

from shardcast.access import wrong_tokens
from shardcast.backup import wire
from shardcast.backup.encoding import encode_chunk
from shardcast.backup.packs import PackWriter
from shardcast.backup.server.app import BackupServerNode
from shardcast.backup.server.checking import check_store
from shardcast.backup.server.management import StoreManager
from shardcast.backup.server.store_folder import StoreFolder
from shardcast.errors import AccessDenied, BadAnswer
from tests.support.backup_stores import HEAD, call, pack_of, random_contents, registered, running_server, save

Answer = tuple[int, bytes]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(wrong_tokens, "FIRST_DELAY", 0.0)
    return tmp_path / "store"


async def register(node: BackupServerNode, invitation: object) -> Answer:
    """Try to register, and return the status and the body of the answer."""
    fields = {"invitation": invitation, "host": "raw", "path": "/"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(node.url.rstrip("/") + wire.REGISTER_PATH, json=fields) as answer,
    ):
        return answer.status, await answer.read()


async def ask_own_facts(node: BackupServerNode, key: str) -> int:
    """Return the status of a client's request with a key."""
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session,
        session.get(node.url.rstrip("/") + wire.CLIENT_PATH) as answer,
    ):
        return answer.status


def invite(folder: Path, seconds: float = 100.0, **words: object) -> str:
    with StoreManager.opened(StoreFolder(folder)) as manager:
        return manager.invite(seconds, **words)  # type: ignore[arg-type]


async def test_one_of_many_at_once_registers_with_an_invitation(folder: Path) -> None:
    async with running_server(folder) as node:
        invitation = invite(folder)
        answers = await asyncio.gather(*(register(node, invitation) for _ in range(8)))
        assert sorted(status for status, _ in answers) == [201] + [403] * 7
        [name] = [json.loads(body)["client"] for status, body in answers if status == 201]
        replacing = invite(folder, client=name, replaces=True)
        again = await asyncio.gather(*(register(node, replacing) for _ in range(8)))
        assert sorted(status for status, _ in again) == [201] + [403] * 7
        with StoreManager.opened(StoreFolder(folder)) as manager:
            assert [(one.name, one.keys) for one in manager.clients() if one.name == name] == [(name, 1)]


async def test_no_answer_tells_why_an_invitation_is_worthless(folder: Path) -> None:
    async with running_server(folder) as node:
        used, revoked, late = invite(folder), "", invite(folder, 0.001)
        status, body = await register(node, f" {used.upper()}\n")
        assert status == 201, "people copy it with spaces, and in capitals"
        name = json.loads(body)["client"]
        revoked = invite(folder, client=name)
        with StoreManager.opened(StoreFolder(folder)) as manager:
            manager.revoke(name)
        unknown = "9d739ff3-c218-4a52-a6c3-22fb669c74df"
        answers = {
            await register(node, text) for text in (used, revoked, late, unknown, used[:-1], "' OR 1=1", "")
        }
        [(status, body)] = answers
        assert status == 403 and "does not know the invitation" in json.loads(body)["error"]


@pytest.mark.parametrize("invitation", [None, 7, True, [], {}, "x" * 9000, "\ud800"])
async def test_malformed_invitation_is_refused_in_words(folder: Path, invitation: object) -> None:
    async with running_server(folder) as node:
        status, body = await register(node, invitation)
        assert status == 400 and "'invitation'" in json.loads(body)["error"]


@pytest.mark.parametrize("by", ["invitation", "key"])
async def test_guesses_are_slowed_and_right_keys_are_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    async with running_server(folder) as node:
        status, body = await register(node, invite(folder))
        key = json.loads(body)["key"]
        monkeypatch.setattr(wrong_tokens, "FIRST_DELAY", 60.0)

        async def guess() -> int:
            if by == "key":
                return await ask_own_facts(node, f"shardcast_{'0' * 8}_{'A' * 43}")
            return (await register(node, "guess"))[0]

        guesses = [asyncio.create_task(guess()) for _ in range(wrong_tokens.MAX_WAITING_OF_ADDRESS + 1)]
        try:
            done, waiting = await asyncio.wait(guesses, timeout=30, return_when=asyncio.FIRST_COMPLETED)
            assert [one.result() for one in done] == [429] and len(waiting) == len(guesses) - 1
            assert status == 201 and await ask_own_facts(node, key) == 200
        finally:
            for one in guesses:
                one.cancel()
            await asyncio.gather(*guesses, return_exceptions=True)


async def test_taken_over_client_changes_no_snapshot_of_an_append_only_server(folder: Path) -> None:
    contents = random_contents("good", 3)
    async with (
        running_server(folder, append_only=True) as node,
        registered(node.url, folder) as (client, key),
    ):
        name, ids = await save(client, key, contents)
        good, _ = pack_of(contents, key)
        places = await call(client.locate, ids)
        for admin_key in (None, "guess", base64.urlsafe_b64encode(bytes(32)).decode()):
            with pytest.raises(AccessDenied):
                await call(client.forget, [name], admin_key)
        run = await call(client.begin_run, "desk", b"/")
        poison = PackWriter()
        for chunk in ids:
            poison.add(chunk, encode_chunk(b"other bytes"))
        await call(run.put_pack, poison.finish())
        for method, path, body in (
            ("PUT", wire.run_path(run._run, f"packs/{good.sha256}"), b"x" * len(good.data)),
            ("DELETE", wire.snapshot_path(name), b""),
            ("PUT", wire.snapshot_path(name), b"record"),
            ("DELETE", wire.pack_path(good.sha256), b""),
            ("POST", wire.snapshot_path(name, "damaged"), ids[0]),
        ):
            with pytest.raises(BadAnswer):
                await call(lambda method=method, path=path, body=body: client.ask(method, path, body=(body,)))
        other = await call(run.commit, {**HEAD, "base": name}, b"wrong", [], ids)
        assert other != name
        await call(run.end)
        assert await call(client.record, name) == b"record"
        assert await call(client.locate, ids) == places
        for place, content in zip(places, contents, strict=True):
            assert (await call(client.read_range, place.pack, place.offset, place.length))[1:] == content
        assert (await check_store(node.state.store, lambda number: True)).is_whole
