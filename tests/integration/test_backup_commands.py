"""The commands of a backup server as processes: hashstore's flow, and what an operator does beside it."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from shardcast.backup.client.answers import RegisteredClient
from shardcast.backup.client.remote import BackupServer
from shardcast.cli.exit_codes import DONE, INTEGRITY, USAGE
from tests.support import processes
from tests.support.backup_stores import pack_of, random_contents
from tests.support.processes import Node

HEAD = {"host": "desk", "path": "/", "tags": [], "base": None}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def server(folder: Path) -> Iterator[Node]:
    words = ("start", "--store_dir", str(folder), "--host", "127.0.0.1", "--port", "0", "start")
    with processes.node("backup", *words) as running:
        yield running


def run(folder: Path, *words: str, code: int = DONE) -> str:
    """Run a command at the server, and return what it printed."""
    name, *rest = words
    done = processes.run("backup", name, *rest, "--store_dir", str(folder))
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def register(server: Node, folder: Path, *words: str) -> RegisteredClient:
    """Register as a client with a new invitation."""
    invitation = run(folder, "invite", *words)
    UUID(invitation.removesuffix("\n"))
    stranger = BackupServer(server.url)
    try:
        return stranger.register(invitation.strip(), "desk", b"/home/work")
    finally:
        stranger.close()


def back_up(client: BackupServer, key: bytes, seed: str) -> str:
    """Make a snapshot, and return its id."""
    backup = client.begin_run("desk", b"/")
    pack, ids = pack_of(random_contents(seed, 4), key)
    backup.put_pack(pack)
    name = backup.commit(HEAD, seed.encode(), ids)
    backup.end()
    assert isinstance(name, str)
    return name


def test_what_a_server_acknowledged_is_there_after_a_kill(server: Node, folder: Path) -> None:
    """Commands of other processes open and close the database while the server writes."""
    made = register(server, folder)
    client = BackupServer(server.url, made.key)
    first = back_up(client, made.id_key, "a")
    run(folder, "clients")
    second = back_up(client, made.id_key, "b")
    client.close()
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    words = ("start", "--store_dir", str(folder), "--host", "127.0.0.1", "--port", "0")
    with processes.node("backup", *words) as again:
        client = BackupServer(again.url, made.key)
        assert [listed.id for listed in client.snapshots()] == [first, second]
        client.close()
    run(folder, "check", "--read-data")


def test_operator_sees_and_changes_clients(server: Node, folder: Path) -> None:
    made = register(server, folder)
    client = BackupServer(server.url, made.key)
    name = back_up(client, made.id_key, "a")
    assert re.search(
        r"desk-work  desk:/home/work  \S+ kB of 5.0 GB  1 snapshot  last just now",
        run(folder, "clients", "desk-work", "--quota", "5GB"),
    )
    [facts] = map(json.loads, run(folder, "clients", "--json").splitlines())
    assert (facts["name"], facts["snapshots"], facts["quota"]) == ("desk-work", 1, 5_000_000_000)
    assert (
        "no client 'nobody'" in processes.run("backup", "revoke", "nobody", "--store_dir", str(folder)).stderr
    )
    client.forget([name])
    assert "1 pack" in run(folder, "prune", "--dry-run") and list(folder.glob("packs/??/*"))
    assert json.loads(run(folder, "prune", "--grace", "0s", "--json"))["deleted"]["packs"] == 1
    assert not list(folder.glob("packs/??/*"))
    assert "Revoked 1 key of desk-work." in run(folder, "revoke", "desk-work")
    actions = [line.split("  ")[3] for line in run(folder, "clients", "--log").splitlines()]
    assert actions == ["invite", "register", "snapshot", "quota", "forget", "prune", "revoke"]
    client.close()


def test_damage_has_its_exit_code(server: Node, folder: Path) -> None:
    made = register(server, folder)
    client = BackupServer(server.url, made.key)
    name = back_up(client, made.id_key, "a")
    client.close()
    assert json.loads(run(folder, "check", "--read-data", "--json"))["packs"] == 1
    [pack] = folder.glob("packs/??/*")
    pack.chmod(0o600)
    pack.write_bytes(pack.read_bytes()[:-1] + b"?")
    assert run(folder, "check") == ""
    text = run(folder, "check", "--read-data-subset", "1/1", code=INTEGRITY)
    assert text == f"damaged: {pack}\nsnapshot {name} of desk-work lacks 4 chunks\n"


@pytest.mark.parametrize("by", ["--store_dir", "--port"])
def test_stop_ends_the_server_and_only_it(server: Node, folder: Path, by: str) -> None:
    words = ("--store_dir", str(folder)) if by == "--store_dir" else ("--port", str(server.port))
    done = processes.run("backup", "stop", *words)
    assert done.returncode == DONE, done.stderr
    assert server.process.wait(timeout=10) == DONE
    again = processes.run("backup", "stop", "--store_dir", str(folder))
    assert again.returncode == DONE and "No backup server" in again.stderr


def test_stop_does_not_touch_a_server_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    with processes.node("store", "serve", str(tmp_path / "blobs"), "--port", "0") as other:
        done = processes.run("backup", "stop", "--port", str(other.port))
        assert done.returncode == DONE and "No backup server" in done.stderr
        assert other.process.poll() is None


def test_config_names_folder_and_port(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f'# hashstore\nstore_dir: "{tmp_path / "store"}"\nport: 0\nmounts:\n  a: /b\n')
    with processes.node("backup", "start", "--config", str(config), "--host", "127.0.0.1") as running:
        assert (tmp_path / "store" / "backup.sqlite3").exists()
        assert "mounts has no meaning here" in running.log


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("invite", "--read-only"), "name it by --for"),
        (("invite",), "no folder of a backup server"),
        (("prune",), "no folder of a backup server"),
        (("check", "--read-data-subset", "3/2"), "is no part"),
        (("clients", "--quota", "5GB"), "name of a CLIENT"),
        (("start", "again"), "'again' is not"),
    ],
)
def test_wrong_words_are_a_usage_error(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    name, *rest = words
    done = processes.run("backup", name, *rest, "--store_dir", str(tmp_path))
    assert done.returncode == USAGE and message in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
