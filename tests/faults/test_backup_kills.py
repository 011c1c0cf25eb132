"""A backup, its server and a prune, killed at random moments: no snapshot that was acknowledged loses a byte.

``make test`` kills each a few times, ``make soak`` (``SHARDCAST_SOAK_KILLS``) a hundred times;
``SHARDCAST_SOAK_SEED`` repeats a run.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import threading
import time
from pathlib import Path

from shardcast.access.secret import Secret
from shardcast.backup.client.remote import BackupServer
from shardcast.backup.encoding import decode_chunk
from shardcast.backup.wire import NOWHERE
from shardcast.cli.exit_codes import DONE
from shardcast.errors import ShardcastError
from tests.support import processes
from tests.support.backup_stores import pack_of, random_contents

KILLS = int(os.environ.get("SHARDCAST_SOAK_KILLS", "3"))
SEED = int(os.environ.get("SHARDCAST_SOAK_SEED", "9"))
HEAD = {"host": "desk", "path": "/", "tags": [], "base": None}
LONGEST = 0.6
"""Seconds from the beginning of the work, or a process, to a kill."""
LISTEN = ("--host", "127.0.0.1", "--port", "0")


class Writer(threading.Thread):
    """A client that makes snapshots, and forgets some, until its server is gone.

    Attributes:
        kept: the contents that each acknowledged snapshot needs.
        gone: snapshots that were to be forgotten: perhaps they are.
    """

    def __init__(self, url: str, key: Secret, id_key: bytes, choose: random.Random, name: str) -> None:
        super().__init__(daemon=True)
        self._server = BackupServer(url, key, pause=_give_up)
        self._id_key, self._choose, self._name = id_key, choose, name
        self.kept: dict[str, list[bytes]] = {}
        self.gone: set[str] = set()

    def run(self) -> None:
        """Make snapshots until a request fails."""
        with contextlib.suppress(ShardcastError, TimeoutError), contextlib.closing(self._server):
            for number in range(10_000):
                self._back_up(number)

    def _back_up(self, number: int) -> None:
        run = self._server.begin_run("desk", b"/")
        contents = random_contents(f"{self._name}/{number}", 40, 5000)
        for start in range(0, 40, 10):
            run.put_pack(pack_of(contents[start : start + 10], self._id_key)[0])
        needed = self._choose.sample(contents, 15)
        name = run.commit(HEAD, f"{self._name}/{number}".encode(), pack_of(needed, self._id_key)[1])
        assert isinstance(name, str)
        self.kept[name] = needed
        run.end()
        if number % 2:
            forgotten = self._choose.choice(sorted(self.kept))
            del self.kept[forgotten]
            self.gone.add(forgotten)
            self._server.forget([forgotten])


def _give_up(seconds: float) -> None:
    """Try no request again."""
    raise TimeoutError


def verify(server: BackupServer, id_key: bytes, kept: dict[str, list[bytes]], gone: set[str]) -> None:
    """Check that the acknowledged snapshots are there, whole."""
    listed = {snapshot.id for snapshot in server.snapshots()}
    assert set(kept) <= listed and not server.facts().read_only
    assert not (gone & set(kept))
    for contents in kept.values():
        _, ids = pack_of(contents, id_key)
        places = server.locate(ids)
        assert NOWHERE not in places
        for place, content in zip(places, contents, strict=True):
            assert bytes(decode_chunk(server.read_range(place.pack, place.offset, place.length))) == content


def test_kills_of_server_and_prune_lose_nothing(tmp_path: Path) -> None:
    folder, choose = tmp_path / "store", random.Random(SEED)
    start = ("backup", "start", "--store_dir", str(folder), *LISTEN)
    kept: dict[str, list[bytes]] = {}
    gone: set[str] = set()
    key, id_key = Secret(""), b""
    for number in range(KILLS + 1):
        with processes.node(*start) as running:
            if not id_key:
                invited = processes.run("backup", "invite", "--store_dir", str(folder))
                with contextlib.closing(BackupServer(running.url)) as stranger:
                    made = stranger.register(invited.stdout.strip(), "desk", b"/")
                key, id_key = made.key, made.id_key
            server = BackupServer(running.url, key)
            verify(server, id_key, kept, gone)
            server.close()
            if number == KILLS:
                break
            writer = Writer(running.url, key, id_key, choose, f"{number}")
            writer.start()
            arguments = processes.command("backup", "prune", "--store_dir", str(folder), "--grace", "0s")
            quiet = subprocess.DEVNULL
            prune = processes.Popen(arguments, env=processes.environment(), stdout=quiet, stderr=quiet)
            time.sleep(choose.uniform(0.1, LONGEST))  # the moment of the kill
            if choose.random() < 0.5:
                prune.kill()
            prune.wait()
            running.kill()
            writer.join(60)
            assert not writer.is_alive()
            kept |= writer.kept
            gone |= writer.gone
    for name in gone:
        kept.pop(name, None)
    check_whole(folder)


def check_whole(folder: Path) -> None:
    """Read every byte of a store, all of which must be right."""
    done = processes.run("backup", "check", "--store_dir", str(folder), "--read-data", "--json")
    assert done.returncode == DONE, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert (found["damaged"], found["lost"], found["hurt"], found["database"]) == ([], [], [], [])


def test_next_backup_completes_after_killed_ones(tmp_path: Path) -> None:
    folder, work, choose = tmp_path / "store", tmp_path / "work", random.Random(SEED)
    work.mkdir()
    kept: dict[str, dict[str, bytes]] = {}
    with processes.node("backup", "start", "--store_dir", str(folder), *LISTEN) as running:
        invited = processes.run("backup", "invite", "--store_dir", str(folder))
        words = ("--dir", str(work), "--url", running.url, "--invitation", invited.stdout.strip())
        assert processes.run("backup", "register", *words, env=own_files(tmp_path)).returncode == DONE
        for number in range(KILLS):
            change(work, choose, number)
            kill_one(work, tmp_path, choose)
            if number % 10 == 9 or number == KILLS - 1:
                done = processes.run("backup", "backup", "--dir", str(work), env=own_files(tmp_path))
                assert done.returncode == DONE, done.stderr
                kept[done.stdout.strip()] = contents_of(work)
        for name, contents in kept.items():
            back = tmp_path / name
            words = (name, "--dir", str(work), "--dest", str(back))
            assert processes.run("backup", "restore", *words, env=own_files(tmp_path)).returncode == DONE
            assert contents_of(back) == contents
        check_whole(folder)
        leftovers = processes.run("backup", "prune", "--store_dir", str(folder), "--grace", "0s", "--json")
        assert leftovers.returncode == DONE, leftovers.stderr
        check_whole(folder)


def own_files(folder: Path) -> dict[str, str]:
    """Return the variables by which a client keeps its files below a folder."""
    return {
        "HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }


def change(work: Path, choose: random.Random, number: int) -> None:
    """Change a folder: some files are new, some others than before, one goes."""
    for name in choose.sample(range(60), 20):
        file = work / f"{name % 6}" / f"{name}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(random.Random(f"{number}/{name}").randbytes(choose.choice((10, 40_000, 900_000))))
    choose.choice(sorted(work.glob("?/*"))).unlink()


def kill_one(work: Path, own: Path, choose: random.Random) -> None:
    """Begin a backup, and kill it at some moment."""
    arguments = processes.command("backup", "backup", "--dir", str(work))
    quiet, variables = subprocess.DEVNULL, processes.environment(**own_files(own))
    with processes.Popen(arguments, env=variables, stdout=quiet, stderr=quiet) as process:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(choose.uniform(0.0, LONGEST))
        process.kill()


def contents_of(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
