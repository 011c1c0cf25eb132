"""Commands that look into snapshots and restore them, against a real server."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from shardcast.backup.server.management import StoreManager
from shardcast.backup.server.store_folder import StoreFolder
from tests.support.backup_clients import a_client
from tests.support.exact_trees import dress, read_exactly
from tests.support.forked import Popen
from tests.support.processes import command, environment


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a folder with some of everything."""
    folder = tmp_path / "source"
    (folder / "docs" / "old").mkdir(parents=True)
    (folder / "docs" / "a.txt").write_text("first\n")
    (folder / "docs" / "old" / "b.txt").write_text("second\n")
    (folder / "large").write_bytes(os.urandom(1 << 20))
    (folder / "link").symlink_to("docs/a.txt")
    dress(folder, 1)
    return folder


async def test_restore_gives_back_the_tree(tmp_path: Path, source: Path) -> None:
    async with a_client(tmp_path) as client:
        saved = await asyncio.to_thread(client.save, source)
        done = await client.run("restore", saved[:6], "--dest", str(tmp_path / "restored"), "--privileged")
        assert (done.returncode, done.stdout) == (0, "")
        assert read_exactly(tmp_path / "restored") == read_exactly(source)
        (again,) = await client.lines("restore", "latest", "--dest", str(tmp_path / "restored"), "--json")
        assert json.loads(again)["kept"] == 5 and json.loads(again)["files"] == 0


async def test_setuid_is_restored_on_demand(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "program").touch()
    (folder / "program").chmod(0o4755)
    async with a_client(tmp_path) as client:
        await asyncio.to_thread(client.save, folder)
        words = ("restore", "latest", "--dest", str(tmp_path / "restored"))
        done = await client.run(*words)
        assert (done.returncode, done.stdout) == (7, "")
        assert "restored 1 file (0 B) of " in done.stderr
        again = await client.run(*words)
        assert again.returncode == 7 and "program: setuid" in again.stderr
        assert "\n1 there already, equal\n" in again.stderr
        assert "program: setuid or setgid left out; --privileged restores it" in done.stderr
        assert (tmp_path / "restored" / "program").stat().st_mode & 0o7777 == 0o755
        assert (await client.run(*words, "--privileged", "--overwrite")).returncode == 0
        assert (tmp_path / "restored" / "program").stat().st_mode & 0o7777 == 0o4755


@pytest.mark.skipif(os.geteuid() != 0, reason="owners are for root")
async def test_root_restores_owners_unless_told_otherwise(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "program").touch()
    os.chown(folder / "program", 12345, 12345)
    (folder / "program").chmod(0o4755)
    async with a_client(tmp_path) as client:
        await asyncio.to_thread(client.save, folder)
        words = ("restore", "latest", "--privileged", "--dest")
        assert (await client.run(*words, str(tmp_path / "owned"))).returncode == 0
        assert (tmp_path / "owned" / "program").stat().st_uid == 12345
        done = await client.run(*words, str(tmp_path / "ours"), "--no-owner")
        found = (tmp_path / "ours" / "program").stat()
        assert (found.st_uid, found.st_mode & 0o7777) == (0, 0o755), "no program of root's is made"
        assert done.returncode == 7 and "owners were left out" not in done.stderr


async def test_snapshots_are_listed_searched_compared_and_printed(tmp_path: Path, source: Path) -> None:
    async with a_client(tmp_path) as client:
        first = await asyncio.to_thread(client.save, source, "good")
        (source / "docs" / "new.txt").write_text("new\n")
        (source / "docs" / "a.txt").write_text("changed\n")
        (source / "link").unlink()
        second = await asyncio.to_thread(client.save, source)
        listed = [json.loads(line) for line in await client.lines("snapshots", "--json")]
        assert [(one["id"], one["tags"]) for one in listed] == [(first, ["good"]), (second, [])]
        assert [line.split()[0] for line in await client.lines("snapshots", "--tag", "good")] == [first]
        names = [line.split()[-1] for line in await client.lines("ls", "latest", "docs")]
        assert names == ["docs/a.txt", "docs/new.txt", "docs/old/"]
        everything = [
            json.loads(line).get("path") for line in await client.lines("ls", first, "-R", "--json")
        ]
        assert "docs/old/b.txt" in everything
        assert await client.lines("diff", first, second) == ["M docs/a.txt", "+ docs/new.txt", "- link"]
        assert await client.lines("cat", first, "docs/a.txt") == ["first"]
        assert await client.lines("cat", second, "/docs/a.txt") == ["changed"]
        found = [json.loads(line) for line in await client.lines("find", "new.*", "--json")]
        assert [(one["snapshot"], one["path"]) for one in found] == [(second, "docs/new.txt")]


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["ls", "feed"], 3, "no snapshot feed"),
        (["ls", "x"], 2, "is no snapshot"),
        (["ls", "latest", "nowhere"], 3, "nowhere is not in snapshot "),
        (["cat", "latest", "docs"], 2, "is a folder"),
        (
            ["restore", "latest", "--dest", "x", "--include", "nothing", "--dry-run"],
            3,
            "matches the patterns",
        ),
        (["find", "nothing"], 3, "in none of 1 snapshot"),
        (["restore", "latest", "--dest", "/dev/null/x"], 6, "could not restore to"),
        (["restore", "latest", "--dest", "x", "--include", "/"], 2, "is no pattern"),
        (["forget"], 2, "no rule says what to keep"),
        (["forget", "latest", "--keep-last", "1"], 2, "not both"),
        (["check", "--read-data", "--read-data-subset", "1/2"], 2, "exclude each other"),
    ],
)
async def test_wrong_words_are_refused_in_words(
    tmp_path: Path, source: Path, words: list[str], code: int, text: str
) -> None:
    async with a_client(tmp_path) as client:
        await asyncio.to_thread(client.save, source)
        done = await client.run(*words)
        assert (done.returncode, done.stdout) == (code, "")
        assert text in done.stderr and "Traceback" not in done.stderr


async def test_new_machine_restores_by_an_invitation(tmp_path: Path, source: Path) -> None:
    async with a_client(tmp_path) as client:
        await asyncio.to_thread(client.save, source)
        facts = await asyncio.to_thread(client.server.facts)
        with StoreManager.opened(StoreFolder(tmp_path / "store")) as manager:
            invitation = manager.invite(100.0, facts.client)
        client.key_file = tmp_path / "new key"
        words = ("restore", "latest", "--dest", str(tmp_path / "restored"), "--privileged")
        words = (*words, "--invitation", invitation)
        done = await client.run(*words)
        assert done.returncode == 0, done.stderr
        assert read_exactly(tmp_path / "restored") == read_exactly(source)
        assert client.key_file.stat().st_mode & 0o777 == 0o600
        used = await client.run(*words)
        assert used.returncode == 2 and "has a key already" in used.stderr
        assert (await client.run("snapshots")).returncode == 0
        client.key_file = tmp_path / "third key"
        refused = await client.run(*words)
        assert refused.returncode == 8 and not client.key_file.exists()


async def test_forget_deletes_what_no_rule_keeps(tmp_path: Path, source: Path) -> None:
    async with a_client(tmp_path) as client:
        names = [await asyncio.to_thread(client.save, source, tag) for tag in ("a", "b", "a")]
        planned = await client.lines("forget", "--keep-last", "1", "--keep-tag", "b", "--dry-run")
        assert [line.split()[:2] for line in planned if line.startswith("would")] == [["would", "go"]]
        assert len(await client.lines("snapshots")) == 3
        gone = await client.run("forget", "--keep-last", "1", "--keep-tag", "b", "--json")
        assert json.loads(gone.stdout)["forgotten"] == [names[0]]
        left = [json.loads(line)["id"] for line in await client.lines("snapshots", "--json")]
        assert left == names[1:]
        await client.lines("forget", names[1])
        assert len(await client.lines("snapshots")) == 1


async def test_forget_is_refused_by_an_append_only_server(tmp_path: Path, source: Path) -> None:
    async with a_client(tmp_path, append_only=True) as client:
        for _ in range(2):
            await asyncio.to_thread(client.save, source)
        done = await client.run("forget", "--keep-last", "1")
        assert done.returncode == 8 and "append-only" in done.stderr
        key = tmp_path / "store" / "admin.key"
        done = await client.run("forget", "--keep-last", "1", "--admin-key-file", str(key))
        assert done.returncode == 0, done.stderr
        assert len(await client.lines("snapshots")) == 1


async def test_check_names_what_damage_hurts(tmp_path: Path, source: Path) -> None:
    async with a_client(tmp_path) as client:
        saved = await asyncio.to_thread(client.save, source)
        assert (await client.run("check", "--read-data")).returncode == 0
        store = tmp_path / "store"
        for pack in sorted(store.rglob("*"), key=lambda path: path.stat().st_size, reverse=True):
            if len(pack.name) == 64 and pack.stat().st_size > 1 << 20:
                pack.chmod(0o600)
                with pack.open("r+b") as file:
                    file.seek(1 << 19)
                    file.write(os.urandom(100))
                break
        done = await client.run("check", "--read-data")
        assert done.returncode == 5
        assert [line.split()[:2] for line in done.stdout.splitlines()] == [[saved, "large:"]]
        restored = await client.run("restore", "latest", "--dest", str(tmp_path / "restored"))
        assert restored.returncode == 5 and "large: " in restored.stderr
        assert not (tmp_path / "restored" / "large").exists()
        assert (tmp_path / "restored" / "docs" / "a.txt").exists()


async def test_killed_restore_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    for number in range(20):
        (folder / f"d{number}").mkdir(parents=True)
        for inner in range(50):
            (folder / f"d{number}" / f"{inner}").write_bytes(os.urandom(2000))
    (folder / "large").write_bytes(os.urandom(8 << 20))
    dress(folder, 3)
    target = tmp_path / "restored"
    async with a_client(tmp_path) as client:
        await asyncio.to_thread(client.save, folder)
        words = command("backup", "restore", "latest", "--dest", str(target), "--privileged")
        for delay in (0.0, 0.02, 0.05, 0.1, 0.15):
            process = Popen(words, env=environment(**client.environment), stderr=subprocess.DEVNULL)
            with process:
                deadline = time.monotonic() + 30
                while not target.exists() and process.poll() is None and time.monotonic() < deadline:
                    await asyncio.sleep(0.005)
                await asyncio.sleep(delay)
                process.send_signal(signal.SIGKILL)
            for path in target.rglob("*"):
                if path.is_file() and not path.name.startswith(".shardcast-restore-"):
                    assert path.read_bytes() == (folder / path.relative_to(target)).read_bytes()
        done = await client.run("restore", "latest", "--dest", str(target), "--privileged")
        assert done.returncode == 0, done.stderr
    assert read_exactly(target) == read_exactly(folder)


async def test_two_restores_to_one_folder_do_not_meet(tmp_path: Path, source: Path) -> None:
    async with a_client(tmp_path) as client:
        await asyncio.to_thread(client.save, source)
        (tmp_path / "restored").mkdir()
        held = os.open(tmp_path / "restored", os.O_RDONLY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            done = await client.run("restore", "latest", "--dest", str(tmp_path / "restored"))
        finally:
            os.close(held)
        assert done.returncode == 2 and "another restore works on" in done.stderr
        assert list((tmp_path / "restored").iterdir()) == []


async def test_full_disk_ends_a_restore_with_its_code(tmp_path: Path, source: Path) -> None:
    async with a_client(tmp_path) as client:
        await asyncio.to_thread(client.save, source)
        words = " ".join(command("backup", "restore", "latest", "--dest"))
        done = await asyncio.to_thread(
            subprocess.run,
            ["sh", "-c", f"ulimit -f 100; exec {words} {tmp_path}/r"],
            env=environment(**client.environment),
            capture_output=True,
            text=True,
        )
        assert done.returncode in (6, 7)
        assert "large" in done.stderr or "could not restore" in done.stderr
        assert not (tmp_path / "r" / "large").exists()
