"""Clients killed in the middle of a backup: the store stays whole, and the next backup only does the rest.

``make test`` kills a few times, ``make soak`` a hundred times. ``SHARDCAST_SOAK_SEED`` repeats a run."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardcast.backup.client.registration import registered
from shardcast.backup.client.remote import BackupServer
from shardcast.backup.ids import ChunkKind, chunk_id
from shardcast.backup.wire import NOWHERE
from tests.support import processes

KILLS = int(os.environ.get("SHARDCAST_SOAK_KILLS", "4"))
SEED = int(os.environ.get("SHARDCAST_SOAK_SEED", "9"))
FILES, FILE_SIZE = 160, 400_000
"""Each file is one chunk; all are four packs, so that a killed backup has sent a part."""
LISTINGS = 200_000
"""Bytes that listings and the indexes of packs take at the most."""


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
            "HOME": str(place),
            "XDG_CONFIG_HOME": str(place / "config"),
            "XDG_CACHE_HOME": str(place / "cache"),
        }
        self._rng = rng
        for number in range(FILES):
            self._write(number)

    def change(self) -> None:
        """Write other bytes into some files, and make a new one."""
        for number in self._rng.sample(range(FILES), FILES // 2):
            self._write(number)
        self._write(FILES + self._rng.randrange(10**6))

    def _write(self, number: int) -> None:
        file = self.folder / f"part-{number % 7}" / f"{number}.bin"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(self._rng.randbytes(FILE_SIZE))

    def register(self, url: str) -> BackupServer:
        """Register the folder at a server, and return the server as this client sees it."""
        invitation = self.run("invite", "--store_dir", str(self.store)).stdout.strip()
        self.run("register", "--dir", str(self.folder), "--url", url, "--invitation", invitation)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CONFIG_HOME", self.environment["XDG_CONFIG_HOME"])
            found = registered(os.fsencode(self.folder))
        return BackupServer(found.url, found.key)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command that succeeds."""
        done = processes.run("backup", *words, env=self.environment)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done

    def backup_killed_after(self, seconds: float) -> bool:
        """Begin a backup and kill it; return whether it had not ended by itself before."""
        words = processes.command("backup", "backup", "--dir", str(self.folder), "--quiet")
        null = subprocess.DEVNULL
        environment = processes.environment(**self.environment)
        with processes.Popen(words, env=environment, stdout=null, stderr=null) as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                assert process.wait(seconds) == 0
                return False
            process.kill()
        return True

    def missing(self, server: BackupServer, key: bytes) -> set[bytes]:
        """Return the ids of files whose bytes the server does not have."""
        files = [file for file in self.folder.rglob("*") if file.is_file()]
        ids = [chunk_id(key, ChunkKind.DATA, file.read_bytes()) for file in files]
        return {chunk for chunk, place in zip(ids, server.locate(ids), strict=True) if place == NOWHERE}

    def contents(self, folder: Path) -> dict[str, bytes]:
        """Return the files of a folder."""
        files = (file for file in folder.rglob("*") if file.is_file())
        return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    yield Home(tmp_path, random.Random(SEED))


@pytest.mark.timeout(120 + 20 * KILLS)
def test_killed_backups_leave_the_store_whole_and_the_next_one_does_the_rest(home: Home) -> None:
    words = ("start", "--store_dir", str(home.store), "--host", "127.0.0.1", "--port", "0")
    rng = random.Random(SEED + 1)
    in_the_middle, duration = 0, 2.0
    with processes.node("backup", *words) as node, contextlib.closing(home.register(node.url)) as server:
        key = server.facts().id_key
        for _ in range(KILLS):
            home.change()
            before = len(home.missing(server, key))
            killed = home.backup_killed_after(rng.uniform(0.1, duration))
            missing = home.missing(server, key)
            in_the_middle += killed and 0 < len(missing) < before
            home.run("check", "--store_dir", str(home.store), "--read-data")
            started = time.monotonic()
            done = home.run("backup", "--dir", str(home.folder), "--json")
            duration = (duration + time.monotonic() - started) / 2
            sent = json.loads(done.stdout)["sent_bytes"]
            least = len(missing) * FILE_SIZE
            assert least <= sent <= least + LISTINGS, f"{len(missing)} files were missing"
            assert home.missing(server, key) == set()
        home.run("check", "--store_dir", str(home.store), "--read-data")
        out = home.folder.with_name("out")
        home.run("restore", "latest", "--dir", str(home.folder), "--dest", str(out))
        assert home.contents(out) == home.contents(home.folder)
        assert KILLS < 20 or in_the_middle, "no kill hit the middle of a backup"
    assert "Traceback" not in node.log
