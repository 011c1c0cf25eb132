"""Backups from the first command to the last: hashstore's flow, and trees that come back entirely."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardcast.backup.client.remote import BackupServer
from shardcast.backup.snapshots import parse_snapshot
from tests.support import processes
from tests.support.backup_clients import save_folder
from tests.support.exact_trees import dress, read_exactly
from tests.support.folder_trees import FolderTree, folder_trees
from tests.support.restores import Restored
from tests.support.saved_trees import SavedTree

STARTED = "start --store_dir {home}/store --port 0 start"


class Machine:
    """A home folder, and commands in it.

    Attributes:
        home: the folder.
        url: of the backup server.
    """

    def __init__(self, home: Path, url: str) -> None:
        self.home = home
        self.url = url

    def run(self, line: str, folder: str = ".") -> str:
        """Run a line of hashstore's README in a folder; return what it prints on stdout."""
        words = line.replace("~", str(self.home)).replace("http://backup-host:9753/", f"{self.url}/").split()
        assert words.pop(0) == "shash"
        env = {"HOME": str(self.home), "XDG_CONFIG_HOME": "", "XDG_CACHE_HOME": ""}
        done = processes.run("backup", *words, env=env, cwd=self.home / folder)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Run the server of the README, and yield the machine that it saves."""
    (tmp_path / "work" / "notes").mkdir(parents=True)
    (tmp_path / "work" / "notes" / "a.txt").write_text("a\n")
    (tmp_path / "work" / "big").write_bytes(os.urandom(3 << 20))
    with processes.node("backup", *STARTED.format(home=tmp_path).split()) as server:
        yield Machine(tmp_path, server.url)


def test_flow_of_the_readme_of_hashstore(machine: Machine) -> None:
    invitation = machine.run("shash invite --store_dir ~/store")
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\n", invitation)
    register = f"shash register --dir ~/work --url http://backup-host:9753/ --invitation {invitation}"
    assert machine.run(register) == ""
    first = machine.run("shash backup --dir ~/work")
    again = machine.run("shash backup", "work")
    below = machine.run("shash backup", "work/notes")
    assert re.fullmatch(r"([0-9a-f]{16}\n){3}", first + again + below)
    listed = machine.run("shash snapshots --dir ~/work").splitlines()
    host = socket.gethostname()
    assert [(line.split()[0], line.split()[-1]) for line in listed] == [
        (first.strip(), f"{host}:{machine.home}/work"),
        (again.strip(), f"{host}:{machine.home}/work"),
        (below.strip(), f"{host}:{machine.home}/work/notes"),
    ]
    machine.run("shash restore latest --dir ~/work --dest ~/back")
    assert read_exactly(machine.home / "back") == read_exactly(machine.home / "work")
    machine.run("shash restore latest --dest ~/below", "work/notes")
    assert read_exactly(machine.home / "below") == read_exactly(machine.home / "work" / "notes")
    assert machine.run("shash cat latest notes/a.txt --dir ~/work") == "a\n"
    assert machine.run("shash check --read-data --dir ~/work") == ""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BackupServer, bytes]]:
    """Run a server, register a client there, and yield the server and the key of ids."""
    folder = tmp_path_factory.mktemp("backup")
    words = ("start", "--store_dir", str(folder / "store"), "--host", "127.0.0.1", "--port", "0")
    with processes.node("backup", *words) as node:
        invitation = processes.run("backup", "invite", "--store_dir", str(folder / "store")).stdout.strip()
        with contextlib.closing(BackupServer(node.url)) as stranger:
            made = stranger.register(invitation, "desk", b"/home/me")
        with contextlib.closing(BackupServer(node.url, made.key)) as server:
            yield server, made.id_key


@settings(max_examples=25, deadline=None)
@given(folder_trees(large=1 << 20), st.integers(0, 1 << 32), st.integers(0, 1 << 32))
def test_saved_tree_comes_back_to_the_last_attribute(
    tmp_path_factory: pytest.TempPathFactory,
    client: tuple[BackupServer, bytes],
    tree: FolderTree,
    seed: int,
    later: int,
) -> None:
    """The second backup goes by the cache of the first."""
    folder = tmp_path_factory.mktemp("trees")
    source = tree.write(folder / "source")
    dress(source, seed)
    restore_and_compare(client, source, folder / "first")
    (source / os.fsdecode(b"fifo \xff")).unlink()
    dress(source, later)
    restore_and_compare(client, source, folder / "second")


def restore_and_compare(client: tuple[BackupServer, bytes], source: Path, destination: Path) -> None:
    """Save a folder, restore it, and compare the two."""
    server, key = client
    record = server.record(save_folder(server, source, source.with_name("cache")))
    saved = SavedTree(server, key, root=parse_snapshot(record).root)  # type: ignore[arg-type]
    assert Restored(saved, destination).told == {}
    assert read_exactly(destination) == read_exactly(source)
