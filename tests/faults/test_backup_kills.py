"""A backup, its server and a prune, killed at random moments: no acknowledged snapshot loses a byte.

``make test`` kills each a few times, ``make soak`` (``SHARDCAST_SOAK_KILLS``) a hundred times;
``SHARDCAST_SOAK_SEED`` repeats a run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from shardcast.access.secret import Secret
from shardcast.backup.client.registration import Registration, save_registration
from shardcast.backup.client.remote import BackupServer
from shardcast.backup.encoding import decode_chunk
from shardcast.backup.ids import ChunkKind, chunk_id
from shardcast.backup.server.backup_store import BackupStore
from shardcast.backup.server.checking import check_store
from shardcast.backup.server.management import StoreManager
from shardcast.backup.server.store_folder import StoreFolder
from shardcast.backup.wire import NOWHERE
from shardcast.cli.exit_codes import DONE
from shardcast.errors import ShardcastError
from tests.support import processes
from tests.support.backup_stores import pack_of, random_contents

KILLS = int(os.environ.get("SHARDCAST_SOAK_KILLS", "3"))
SEED = int(os.environ.get("SHARDCAST_SOAK_SEED", "9"))
HEAD: dict[str, Any] = {"host": "desk", "path": "/", "tags": [], "base": None}
LONGEST = 0.6
"""Seconds from the beginning of the work, or a process, to a kill."""
LISTEN = ("--host", "127.0.0.1", "--port", "0")
FILES, CHANGED, FILE_SIZE = 120, 100, 400_000
"""Each file is one chunk; those that change are three packs, so that a killed backup has sent a part."""
LISTINGS = 200_000
"""Bytes of listings and of the indexes of packs, at the most."""


@dataclass
class Account:
    """A client of the server.

    Attributes:
        key: the client's key.
        id_key: the key of ids.
        kept: the contents that each acknowledged snapshot needs.
        gone: snapshots that were to be forgotten: perhaps they are.
    """

    key: Secret
    id_key: bytes
    kept: dict[str, list[bytes]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)

    def verify(self, url: str) -> None:
        """Check that the acknowledged snapshots are there, whole."""
        for name in self.gone:
            self.kept.pop(name, None)
        with contextlib.closing(BackupServer(url, self.key)) as server:
            assert set(self.kept) <= {snapshot.id for snapshot in server.snapshots()}
            for contents in self.kept.values():
                places = server.locate(pack_of(contents, self.id_key)[1])
                assert NOWHERE not in places
                for place, content in zip(places, contents, strict=True):
                    encoded = server.read_range(place.pack, place.offset, place.length)
                    assert bytes(decode_chunk(encoded)) == content


class Writer(threading.Thread):
    """A client that makes snapshots, and forgets some, until its server is gone.

    All clients save the same contents, and share what another one has brought.
    """

    def __init__(self, url: str, account: Account, choose: random.Random, name: str) -> None:
        super().__init__(daemon=True)
        self._server = BackupServer(url, account.key, pause=_give_up)
        self._account, self._choose, self._name = account, choose, name

    def run(self) -> None:
        """Make snapshots until a request fails."""
        with contextlib.suppress(ShardcastError, TimeoutError), contextlib.closing(self._server):
            for number in range(10_000):
                self._back_up(number)

    def _back_up(self, number: int) -> None:
        run, account = self._server.begin_run("desk", b"/"), self._account
        contents = random_contents(f"{self._name}/{number}", 40, 5000)
        ids = pack_of(contents, account.id_key)[1]
        for start in range(0, 40, 10):
            part = dict(zip(ids[start : start + 10], contents[start : start + 10], strict=True))
            shared = run.share(part)
            if own := [content for chunk, content in part.items() if chunk not in shared]:
                run.put_pack(pack_of(own, account.id_key)[0])
        needed = self._choose.sample(contents, 15)
        name = run.commit(HEAD, f"{self._name}/{number}".encode(), pack_of(needed, account.id_key)[1])
        assert isinstance(name, str)
        account.kept[name] = needed
        run.end()
        if number % 2:
            forgotten = self._choose.choice(sorted(account.kept))
            del account.kept[forgotten]
            account.gone.add(forgotten)
            self._server.forget([forgotten])


def _give_up(seconds: float) -> None:
    """Try no request again."""
    raise TimeoutError


def register(url: str, folder: Path) -> Account:
    """Register a new client."""
    with StoreManager.opened(StoreFolder(folder)) as manager:
        invitation = manager.invite(100.0)
    with contextlib.closing(BackupServer(url)) as stranger:
        made = stranger.register(invitation, "desk", b"/")
    assert made.shares
    return Account(made.key, made.id_key)


def test_kills_of_server_and_prune_lose_nothing(tmp_path: Path) -> None:
    folder, choose = tmp_path / "store", random.Random(SEED)
    start = ("backup", "start", "--store_dir", str(folder), "--dedupe-clients", *LISTEN)
    accounts = list[Account]()
    for number in range(KILLS + 1):
        with processes.node(*start) as running:
            accounts = accounts or [register(running.url, folder) for _ in range(2)]
            for account in accounts:
                account.verify(running.url)
            if number == KILLS:
                break
            writers = [Writer(running.url, account, choose, f"{number}") for account in accounts]
            for writer in writers:
                writer.start()
            arguments = processes.command("backup", "prune", "--store_dir", str(folder), "--grace", "0s")
            quiet = subprocess.DEVNULL
            prune = processes.Popen(arguments, env=processes.environment(), stdout=quiet, stderr=quiet)
            time.sleep(choose.uniform(0.1, LONGEST))  # the moment of the kill
            if choose.random() < 0.5:
                prune.kill()
            prune.wait()
            running.kill()
            for writer in writers:
                writer.join(60)
                assert not writer.is_alive()
    check_whole(folder)


def check_whole(folder: Path) -> None:
    """Read every byte of a store, all of which must be right."""
    done = processes.run("backup", "check", "--store_dir", str(folder), "--read-data", "--json")
    assert done.returncode == DONE, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert (found["damaged"], found["lost"], found["hurt"], found["database"]) == ([], [], [], [])


class Home:
    """A user whose folder is saved at a server.

    Attributes:
        folder: the folder.
        store: the server's store.
        environment: of the user's commands.
    """

    def __init__(self, place: Path, rng: random.Random) -> None:
        self.folder = place / "work"
        self.store = place / "store"
        self.environment = {
            "XDG_CONFIG_HOME": str(place / "config"),
            "XDG_CACHE_HOME": str(place / "cache"),
        }
        self._rng = rng
        for number in range(FILES):
            self._write(number)

    def change(self) -> None:
        """Write other bytes into most files, make a new one, and remove one."""
        for number in self._rng.sample(range(FILES), CHANGED):
            self._write(number)
        self._write(FILES + self._rng.randrange(10**6))
        self._rng.choice(sorted(self.folder.glob("*/*"))).unlink()

    def _write(self, number: int) -> None:
        file = self.folder / f"part-{number % 7}" / f"{number}.bin"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(self._rng.randbytes(FILE_SIZE))

    def register(self, url: str) -> BackupServer:
        """Register the folder at a server, and return the server as this client sees it."""
        with StoreManager.opened(StoreFolder(self.store)) as manager:
            invitation = manager.invite(100.0)
        with contextlib.closing(BackupServer(url)) as stranger:
            made = stranger.register(invitation, "desk", os.fsencode(self.folder))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CONFIG_HOME", self.environment["XDG_CONFIG_HOME"])
            save_registration(Registration(os.fsencode(self.folder), url, made.client, made.key))
        return BackupServer(url, made.key)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command that succeeds."""
        done = processes.run("backup", *words, env=self.environment)
        assert done.returncode == DONE, f"{words}: {done.stderr}"
        return done

    def backup_killed_after(self, seconds: float) -> bool:
        """Begin a backup and kill it; return whether it had not ended by itself before."""
        words = processes.command("backup", "backup", "--dir", str(self.folder), "--quiet")
        null = subprocess.DEVNULL
        environment = processes.environment(**self.environment)
        with processes.Popen(words, env=environment, stdout=null, stderr=null) as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                assert process.wait(seconds) == DONE
                return False
            process.kill()
        return True

    def missing(self, server: BackupServer, key: bytes) -> set[bytes]:
        """Return the ids of files whose bytes the server does not have."""
        ids = [chunk_id(key, ChunkKind.DATA, data) for data in contents_of(self.folder).values()]
        return {chunk for chunk, place in zip(ids, server.locate(ids), strict=True) if place == NOWHERE}

    def check(self) -> None:
        """Read every byte of the store beside its server, all of which must be right."""

        async def found() -> bool:
            store = BackupStore(StoreFolder(self.store))
            try:
                return (await check_store(store, lambda number: True)).is_whole
            finally:
                await store.close()

        assert asyncio.run(found())


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    yield Home(tmp_path, random.Random(SEED))


@pytest.mark.timeout(120 + 20 * KILLS)
def test_next_backup_sends_only_the_rest_of_a_killed_one(home: Home) -> None:
    rng, kept = random.Random(SEED + 1), dict[str, dict[str, bytes]]()
    in_the_middle, duration = 0, 2.0
    start = ("backup", "start", "--store_dir", str(home.store), *LISTEN)
    with processes.node(*start) as node, contextlib.closing(home.register(node.url)) as server:
        key = server.facts().id_key
        for number in range(KILLS):
            home.change()
            before = len(home.missing(server, key))
            killed = home.backup_killed_after(rng.uniform(0.1, duration))
            missing = home.missing(server, key)
            in_the_middle += killed and 0 < len(missing) < before
            home.check()
            started = time.monotonic()
            done = json.loads(home.run("backup", "--dir", str(home.folder), "--json").stdout)
            duration = (duration + time.monotonic() - started) / 2
            least = len(missing) * FILE_SIZE
            assert least <= done["sent_bytes"] <= least + LISTINGS, f"{len(missing)} files were missing"
            assert home.missing(server, key) == set()
            if number % 20 == 0 or number == KILLS - 1:
                kept[done["snapshot"]] = contents_of(home.folder)
        home.run(
            "forget", "--dir", str(home.folder), *(one.id for one in server.snapshots() if one.id not in kept)
        )
        home.run("prune", "--store_dir", str(home.store), "--grace", "0s")
        check_whole(home.store)
        for name, contents in kept.items():
            back = home.folder.with_name(name)
            home.run("restore", name, "--dir", str(home.folder), "--dest", str(back))
            assert contents_of(back) == contents
        assert KILLS < 20 or in_the_middle, "no kill hit the middle of a backup"
    assert "Traceback" not in node.log


def contents_of(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
