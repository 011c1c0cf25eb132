"""Telling never decides about doing: each command works whatever became of stdin, stdout and stderr."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.maintenance import gc_roots as roots
from shardcast.blobs.server.status_file import StatusFile
from shardcast.cli.main import shardcast
from shardcast.cli.streams import guard_streams
from shardcast.store import pins
from shardcast.store.data_dir import DataDir
from tests.support import processes
from tests.support.blob_stores import digest_of
from tests.support.legacy import get
from tests.support.published import publish

PAYLOAD, MORE = b"payload", b"more"
BLOB, OTHER = digest_of(PAYLOAD), digest_of(MORE)
LISTEN = ["--host", "127.0.0.1", "--port", "{port}"]
NOTHING = subprocess.DEVNULL


@dataclass
class Scene:
    """A command, and what shows that it has done its work. ``{name}`` is a path in the folder of the test;
    {url} is an origin with v1. For those of ``backup`` see ``backups``."""

    words: list[str]
    made: str = ""
    """A file that is there then, and wasn't before."""
    gone: str = ""
    """A file that was there, and then isn't."""
    serves: str = ""
    """A path that it answers; it runs until it is told to end."""
    code: int = 0
    unlisted: str = ""
    """A version that the data directory doesn't list then."""


SCENES = {
    "origin": Scene(["--data-dir", "{new}", *LISTEN, "--broadcast", "{file}"], serves="/v1/shard_001.bin"),
    "middle": Scene(["--upstream", "{url}", "--data-dir", "{new}", *LISTEN], serves="/v1/shard_001.bin"),
    "client": Scene(["--servers", "{url}", "--version", "v1", "--output-file", "{new}"], made="new"),
    "broadcast": Scene(["{file}", "--data-dir", "{data}"], made="data/v3/shard_001.bin"),
    "pin": Scene(["v1", "--data-dir", "{data}"], made="data/.shardcast/pinned/v1"),
    "unpin": Scene(["v2", "--data-dir", "{data}"], gone="data/.shardcast/pinned/v2"),
    "withdraw": Scene(["v1", "--json", "--data-dir", "{data}"], unlisted="v1"),
    "status": Scene(["{url}"]),
    "cluster": Scene(["status", "--local", "--state-dir", "{new}"], code=1),
    "demo": Scene(["{file}"]),
    "archive serve": Scene(["{new}", *LISTEN], serves="/healthcheck"),
    "store serve": Scene(["{store}", "--port", "{port}"], serves=f"/{OTHER}"),
    "store ls": Scene(["{store}"]),
    "store stat": Scene([OTHER, "-d", "{store}"]),
    "store has": Scene([OTHER, BLOB, "-d", "{store}"], code=3),
    "store put": Scene(["{file}", "-d", "{store}"], made=f"store/{BLOB[:2]}/{BLOB}"),
    "store get": Scene([OTHER, "-d", "{store}", "-o", "{new}"], made="new"),
    "store pull": Scene(["{url}", BLOB, "-d", "{store}"], made=f"store/{BLOB[:2]}/{BLOB}"),
    "store push": Scene(["{url}", digest_of(b"none"), "-d", "{store}"], code=3),
    "store verify": Scene(["{store}"]),
    "store gc": Scene(["{store}", "--delete", "--unreferenced-older-than", "1s"]),
    "store pin": Scene([BLOB, "-d", "{store}"], made=f"store/.shardcast-store/pinned/{BLOB}"),
    "store unpin": Scene([OTHER, "-d", "{store}"], gone=f"store/.shardcast-store/pinned/{OTHER}"),
    "token new": Scene(["--scope", "read", "--append", "{new}"], made="new"),
    "backup start": Scene(["--store_dir", "{new}", *LISTEN], serves="/healthcheck"),
    "backup stop": Scene(["--store_dir", "{new}"]),
    "backup invite": Scene(["--store_dir", "{kept}"]),
    "backup clients": Scene(["--store_dir", "{kept}"]),
    "backup revoke": Scene(["{client}", "--store_dir", "{kept}"]),
    "backup prune": Scene(["--store_dir", "{kept}"]),
    "backup check": Scene(["--store_dir", "{kept}"]),
    "backup register": Scene(["--dir", "{data}", "--url", "{backup}", "--invitation", "{invitation}"]),
    "backup backup": Scene(["--dir", "{work}"]),
    "backup scan": Scene(["--dir", "{work}"]),
    "backup snapshots": Scene(["--dir", "{work}"]),
    "backup ls": Scene(["latest", "--dir", "{work}"]),
    "backup find": Scene(["file", "--dir", "{work}"]),
    "backup diff": Scene(["latest", "latest", "--dir", "{work}"]),
    "backup cat": Scene(["latest", "file", "--dir", "{work}"], code=2),
    "backup restore": Scene(["latest", "--dir", "{work}", "--dest", "{new}"], made="new/file"),
    "backup forget": Scene(["--keep-last", "1", "--dir", "{work}"]),
}


def leaves(command: click.Command, *names: str) -> Iterator[str]:
    """The names of all commands below a group."""
    if not isinstance(command, click.Group):
        yield " ".join(names)
        return
    with click.Context(command) as context:
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below
            yield from leaves(below, *names, name)


def test_every_command_is_tested_with_closed_streams() -> None:
    assert set(leaves(shardcast)) == set(SCENES)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An origin with a version."""
    data_dir = tmp_path_factory.mktemp("origin") / "data"
    publish(data_dir, PAYLOAD, 100)
    with processes.origin(data_dir) as origin:
        yield origin.url


@pytest.fixture(scope="module")
def backups(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A backup server, an invitation there, a registered folder with a snapshot, and an unserved store."""
    top = tmp_path_factory.mktemp("backups")
    work, kept, served = top / "work", top / "kept", top / "served"
    work.mkdir()
    (work / "file").write_bytes(PAYLOAD)
    variables = {"XDG_CONFIG_HOME": str(top / "config"), "XDG_CACHE_HOME": str(top / "cache")}

    def succeed(*words: str) -> str:
        done = processes.run("backup", *words, env=variables)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def invite(store: Path) -> str:
        return succeed("invite", "--store_dir", str(store))

    with processes.reserved_port() as port:
        listen = ("--host", "127.0.0.1", "--port", str(port))
        with processes.node("backup", "start", "--store_dir", str(kept), *listen) as server:
            address = server.url
            succeed("register", "--dir", str(work), "--url", address, "--invitation", invite(kept))
            succeed("backup", "--dir", str(work))
            assert server.stop() == 0
        client = json.loads(succeed("clients", "--json", "--store_dir", str(kept)))["name"]
        shutil.copytree(kept, served)
        with processes.node("backup", "start", "--store_dir", str(served), *listen):
            yield variables | {
                "work": str(work), "kept": str(kept), "client": client, "backup": address,
                "invitation": invite(served),
            }  # fmt: skip


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A file, a data directory with v1 and v2, which is pinned, and a store with a blob, which is pinned."""
    (tmp_path / "file").write_bytes(PAYLOAD)
    for payload in (b"one", b"two"):
        publish(tmp_path / "data", payload, 100)
    with contextlib.closing(DataDir(tmp_path / "data", "pin")) as data_dir:
        pins.pin(data_dir, "v2")
    blob = tmp_path / "store" / OTHER[:2] / OTHER
    blob.parent.mkdir(parents=True)
    blob.write_bytes(MORE)
    roots.pin(BlobDirectory(tmp_path / "store", writable=True).folder, OTHER)
    return tmp_path


@contextlib.contextmanager
def nobody_reads() -> Iterator[int]:
    """A pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        yield writer
    finally:
        os.close(writer)


def start(
    words: list[str], close: str, env: Mapping[str, str] | None = None, **streams: object
) -> subprocess.Popen[str]:
    """Start a command; ``close``: what the shell is told about its descriptors, ``<&- >&-``."""
    script = f'exec "$@" {close}'
    arguments = ["sh", "-c", script, "sh", *processes.command(*words)]
    return subprocess.Popen(arguments, env=processes.environment(**(env or {})), text=True, **streams)  # type: ignore[call-overload, no-any-return]


def answers(port: int, path: str) -> bool:
    try:
        return get(f"http://127.0.0.1:{port}", path)[0] == 200
    except OSError:
        return False


@pytest.mark.parametrize("name", SCENES)
def test_command_does_its_work_with_closed_streams(
    name: str, here: Path, url: str, request: pytest.FixtureRequest
) -> None:
    """Closed stdin and stdout, and a stderr whose reader has gone."""
    scene = SCENES[name]
    more = request.getfixturevalue("backups") if name.startswith("backup ") else {}
    with processes.reserved_port() as port, nobody_reads() as unread:
        paths = {one: str(here / one) for one in ("file", "data", "store", "new")}
        words = [word.format(url=url, port=port, **paths, **more) for word in scene.words]
        process = start([*name.split(), *words], "<&- >&-", more, stderr=unread)
        try:
            if scene.serves:
                processes.wait_until(
                    lambda: answers(port, scene.serves) or process.poll() is not None, what=scene.serves
                )
                process.send_signal(signal.SIGTERM)
            assert process.wait(60) == scene.code
        finally:
            process.kill()
            process.wait(10)
    assert not scene.made or (here / scene.made).exists()
    assert not scene.gone or not (here / scene.gone).exists()
    assert not scene.unlisted or f"{scene.unlisted}:" not in (here / "data" / "distribution.txt").read_text()


# Closed, full, without a reader ------------------------------------------------------------------

BROADCAST = ["broadcast", "{file}", "--data-dir", "{data}"]
DOWNLOAD = ["client", "--servers", "{url}", "--version", "v1", "--output-file", "{new}", "--json"]


def run(
    words: list[str], here: Path, redirect: str, url: str = "", **streams: object
) -> subprocess.CompletedProcess[str]:
    paths = {one: str(here / one) for one in ("file", "data", "store", "new")}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    with start([word.format(url=url, **paths) for word in words], redirect, **streams) as process:
        out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


@pytest.mark.parametrize("redirect", ["<&- >&- 2>&-", "2>&-", ">/dev/full 2>/dev/full"])
def test_download_with_closed_streams_succeeds(redirect: str, here: Path, url: str) -> None:
    """Without descriptors libuv used to abort the process after the download (134)."""
    assert run(DOWNLOAD, here, redirect, url).returncode == 0
    assert (here / "new").read_bytes() == PAYLOAD


def test_unprintable_result_is_a_warning(here: Path, url: str) -> None:
    done = run(DOWNLOAD, here, ">/dev/full", url)
    assert done.returncode == 0
    assert "Warning: the result could not be printed: No space left on device\n" in done.stderr


@pytest.mark.parametrize("words", [["store", "ls", "{store}"], ["store", "get", OTHER, "-d", "{store}"]])
def test_unprintable_answer_is_a_failure(words: list[str], here: Path) -> None:
    done = run(words, here, ">/dev/full")
    assert done.returncode == 6
    assert "No space left on device" in done.stderr


@pytest.mark.parametrize(
    ("words", "redirect", "why"),
    [
        (["broadcast", "-", "--data-dir", "{data}"], "<&-", "stdin is closed"),
        (["store", "put", "-", "-d", "{store}"], "<&-", "stdin is closed"),
        (["store", "has", "--from-file", "-", "-d", "{store}"], "<&-", "stdin is closed"),
        (["store", "get", OTHER, "-d", "{store}"], ">&-", "stdout is closed"),
    ],
)
def test_closed_stream_that_is_needed_is_usage_error(
    words: list[str], redirect: str, why: str, here: Path
) -> None:
    done = run(words, here, redirect)
    assert (done.returncode, done.stderr) == (2, f"Error: {why}\n")
    assert not (here / "data" / "v3").exists()


def test_stream_is_published_without_printable_progress(here: Path) -> None:
    with processes.origin(here / "data"), nobody_reads() as unread:
        words = ["broadcast", "-", "--data-dir", "{data}"]
        with (here / "file").open("rb") as stdin:
            done = run(words, here, "", stdin=stdin, stderr=unread)
    assert (done.returncode, done.stdout) == (0, "v3\n")
    assert (here / "data" / "v3" / "shard_001.bin").read_bytes() == PAYLOAD


def test_unwritable_status_file_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The error of a start is the one to be told, and a server that listens serves."""
    status = StatusFile(tmp_path / "gone" / "status", {})
    status.report_failed()
    status.report_running(80)
    assert [one.levelname for one in caplog.records] == ["ERROR", "ERROR"]
    assert "No such file or directory" in caplog.text


# Readers that stand still ------------------------------------------------------------------------


def test_node_survives_an_unread_log(here: Path) -> None:
    """Its event loop would wait in the middle of a write for ever."""
    reader, writer = os.pipe()
    try:
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"." * 4096)
        os.set_blocking(writer, True)
        with processes.reserved_port() as port:
            words = ["origin", "--data-dir", str(here / "data"), "--host", "127.0.0.1", "--port", str(port)]
            process = start(words, "", stderr=writer)
            try:
                processes.wait_until(lambda: answers(port, "/v1/shard_001.bin"), what="an answer")
                process.send_signal(signal.SIGTERM)
                assert process.wait(30) == 0
            finally:
                process.kill()
                process.wait(10)
    finally:
        os.close(reader)
        os.close(writer)


STANDING_STILL = """
import os, sys, time
import click
from shardcast.cli.streams import guard_streams
guard_streams()
begun = time.monotonic()
for number in range(20):
    click.echo("a line", err=True)
took = time.monotonic() - begun
os.read(int(sys.argv[1]), 1 << 20)
click.echo("the next", err=True)
click.echo("and one more", err=True)
print(took)
"""


def test_lines_for_a_stalled_reader_cost_a_second_and_are_counted() -> None:
    """It waits for the first of them; the first that comes through says how many were lost."""
    reader, writer = os.pipe()
    try:
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"." * 4096)
        os.set_blocking(writer, True)
        done = subprocess.run(
            [sys.executable, "-c", STANDING_STILL, str(reader)],
            stdout=subprocess.PIPE,
            stderr=writer,
            pass_fds=[reader],
            text=True,
            timeout=120,
        )
        assert float(done.stdout) < 10, "each line waited"
        told = os.read(reader, 1 << 20).decode()
    finally:
        os.close(reader)
        os.close(writer)
    assert told == "[lost: 20; it is not read]\nthe next\nand one more\n"


def test_stopped_terminal_does_not_block_a_command(here: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        termios.tcflow(theirs, termios.TCOOFF)
        assert run(BROADCAST, here, "", stderr=theirs).stdout == "v3\n"
    finally:
        os.close(theirs)
        os.close(ours)


FILLING = """
import sys
import click
from shardcast.cli.streams import guard_streams
guard_streams()
for _ in range(100):
    click.echo("x" * 4000, err=True)
sys.stdout.write("done")
"""


def test_unread_terminal_does_not_block_a_command() -> None:
    """While it is almost full it says that it takes more, and then waits in the middle of a line."""
    ours, theirs = pty.openpty()
    try:
        words = [sys.executable, "-c", FILLING]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=theirs, text=True, timeout=30)
        assert done.stdout == "done"
    finally:
        os.close(theirs)
        os.close(ours)


# Names and encodings -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "name", "printed"),
    [
        ("utf-8", b"n\xff\xc3\xbc", b"n\xff\xc3\xbc"),
        ("latin-1", b"n\xff\xc3\xbc\xd0\xb6", b"n\xff\xfc\\u0436"),
        ("ascii", b"n\xff\xc3\xbc", b"n\xff\xc3\xbc"),
    ],
)
def test_undecodable_name_is_printed_as_its_bytes(
    encoding: str, name: bytes, printed: bytes, here: Path, url: str
) -> None:
    folder = os.fsencode(here)
    words = processes.command("client", "--servers", url, "--version", "v1", "--output-file")
    done = subprocess.run(
        [*words, os.path.join(folder, name)],  # noqa: PTH118
        env=processes.environment(PYTHONIOENCODING=encoding, PYTHONUTF8="1"),
        capture_output=True,
    )
    assert (done.returncode, done.stdout) == (0, os.path.join(folder, printed) + b"\n"), done.stderr  # noqa: PTH118
    assert Path(os.fsdecode(folder + b"/" + name)).read_bytes() == PAYLOAD


def test_in_memory_streams_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = io.StringIO()
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(sys, "stdout", kept)
    monkeypatch.setattr(sys, "stderr", kept)
    guard_streams()
    assert sys.stdout is sys.stderr is kept
