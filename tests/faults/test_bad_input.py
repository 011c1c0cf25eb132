"""Commands on input, disks and ports that are not as they should be: a clear end, and going on works."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import shutil
import socket
import stat
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import bad_answers as bad
from tests.support import processes
from tests.support.bad_servers import BadServer, dead_address

FAILED, USAGE, UNREACHABLE, DISK = 1, 2, 4, 6
BOUND = 60.0
NO_SPACE = r"(?i)no space|disk|full"

Completed = subprocess.CompletedProcess[str]


def said(done: Completed) -> str:
    """What a command wrote on stderr, on one line, and nothing in it that only a developer can read."""
    return readable(done.stderr)


def readable(log: str) -> str:
    for noise in ("Traceback", "never retrieved", "never awaited", "Unclosed", "ResourceWarning"):
        assert noise not in log, log
    return " ".join(log.split())


def assert_failed(done: Completed, codes: set[int], *names: str) -> None:
    text = said(done)
    assert done.returncode in codes, f"exit {done.returncode}, not {codes}:\n{done.stderr}"
    assert done.stdout == "", "stdout is for results"
    for name in names:
        assert re.search(name, text), f"the error does not say {name}:\n{done.stderr}"


def broadcast(path: Path | str, data_dir: Path, *words: str, **env: str) -> Completed:
    return processes.run("broadcast", str(path), "--data-dir", str(data_dir), *words, env=env, timeout=BOUND)


def fetch(server: str, output: Path | str, *words: str, **env: str) -> Completed:
    return processes.run(
        "client", "--servers", server, "--version", "latest", "--output-file", str(output), *words,
        env={"SHARDCAST_HTTP_TIMEOUT": "5", **env}, timeout=BOUND,
    )  # fmt: skip


def versions(data_dir: Path) -> list[str]:
    """The versions that a data directory lists."""
    with contextlib.suppress(FileNotFoundError):
        return [line.partition(":")[0] for line in (data_dir / "distribution.txt").read_text().splitlines()]
    return []


def payload(path: Path, size: int, seed: int = 1) -> Path:
    path.write_bytes(random.Random(seed).randbytes(size))
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def get(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def assert_lives(node: processes.Node) -> None:
    assert node.process.poll() is None, node.log
    assert get(f"{node.url}/healthcheck") == (200, b"OK")
    readable(node.log)


@contextlib.contextmanager
def origin_or_none(with_origin: bool, data_dir: Path) -> Iterator[processes.Node | None]:
    """An origin on the data directory, or nobody: a broadcast goes through the one, or does it itself."""
    if not with_origin:
        yield None
        return
    with processes.origin(data_dir) as node:
        yield node
        assert_lives(node)


both_ways = pytest.mark.parametrize("with_origin", [False, True], ids=["alone", "through-an-origin"])


# What is broadcast -------------------------------------------------------------------------------


@both_ways
def test_broadcast_of_missing_path_fails(with_origin: bool, tmp_path: Path) -> None:
    with origin_or_none(with_origin, tmp_path / "data"):
        done = broadcast(tmp_path / "nothing.bin", tmp_path / "data")
        assert_failed(done, {DISK}, r"nothing\.bin")
        assert versions(tmp_path / "data") == []


@both_ways
def test_file_of_unknown_size_is_published_only_through_a_pipe(with_origin: bool, tmp_path: Path) -> None:
    file, data_dir = Path("/proc/version"), tmp_path / "data"
    if not file.exists():
        pytest.skip("there is no /proc here")
    with origin_or_none(with_origin, data_dir):
        done = broadcast(file, data_dir)
        assert_failed(done, {DISK}, r"/proc/version", r"cat … \| shardcast broadcast -")
        assert versions(data_dir) == []
        words = processes.command("broadcast", "-", "--data-dir", str(data_dir))
        piped = subprocess.run(
            words,
            input=file.read_bytes(),
            capture_output=True,
            env=processes.environment(),
            timeout=60,
            check=False,
        )
        assert piped.returncode == 0, piped.stderr
        assert versions(data_dir) == ["v2"]
        assert (data_dir / "v2" / "shard_001.bin").read_bytes() == file.read_bytes()


@both_ways
def test_broadcast_of_folder_with_a_fifo_is_refused_unread(with_origin: bool, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "folder" / "pipe")
    with origin_or_none(with_origin, tmp_path / "data"):
        done = broadcast(tmp_path / "folder", tmp_path / "data")
        assert_failed(done, {DISK}, r"'pipe' is a named pipe", r"--exclude")
        assert versions(tmp_path / "data") == []


@both_ways
@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_broadcast_of_fifo_or_device_is_refused_unread(kind: str, with_origin: bool, tmp_path: Path) -> None:
    """Neither may be read: a FIFO waits for a writer, and a device need not end."""
    path = Path("/dev/null")
    if kind == "fifo":
        path = tmp_path / "fifo"
        os.mkfifo(path)
    with origin_or_none(with_origin, tmp_path / "data"):
        done = broadcast(path, tmp_path / "data")
        assert_failed(done, {DISK}, re.escape(str(path)), r"(?i)not a .*file|no file|regular")
        assert versions(tmp_path / "data") == []


@pytest.mark.parametrize("kind", ["missing", "fifo"])
def test_origin_with_unusable_payload_does_not_start(kind: str, tmp_path: Path) -> None:
    path = tmp_path / kind
    if kind == "fifo":
        os.mkfifo(path)
    words = ("origin", "--data-dir", str(tmp_path / "data"), "--host", "127.0.0.1", "--port", "0")
    done = processes.run(*words, "--broadcast", str(path), timeout=BOUND)
    assert_failed(done, {DISK}, re.escape(str(path)))
    assert versions(tmp_path / "data") == []


def unprivileged(*words: str) -> Completed:
    """Run a command for which permission bits count, also where this is root."""
    prefix: list[str] = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("permission bits do not bind root, and there is no setpriv to give up its rights")
        # Another user could not reach the interpreter where that lies in root's home.
        prefix = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    return subprocess.run(
        [*prefix, *processes.command(*words)],
        env=processes.environment(),
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )


def test_broadcast_of_unreadable_file_fails(tmp_path: Path) -> None:
    path = payload(tmp_path / "secret.bin", 1000)
    path.chmod(0)
    done = unprivileged("broadcast", str(path), "--data-dir", str(tmp_path / "data"))
    assert_failed(done, {DISK}, r"secret\.bin", r"(?i)permission|readable|allowed")
    assert versions(tmp_path / "data") == []


@contextlib.contextmanager
def again_and_again(change: Callable[[], None]) -> Iterator[None]:
    """Make a change every millisecond or so while the block runs."""
    stop = threading.Event()

    def go_on() -> None:
        while not stop.wait(0.001):
            change()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@both_ways
@pytest.mark.parametrize("way", ["growing", "shrinking"])
def test_broadcast_of_changing_file_publishes_nothing(way: str, with_origin: bool, tmp_path: Path) -> None:
    """A trainer that still writes its checkpoint: half of it must not become a version."""
    data_dir = tmp_path / "data"
    path = payload(tmp_path / "checkpoint.bin", 48_000_000)

    def change() -> None:
        if way == "growing":
            with path.open("ab") as file:
                file.write(b"more")
        else:
            os.truncate(path, path.stat().st_size - 100)

    with origin_or_none(with_origin, data_dir):
        with again_and_again(change):
            done = broadcast(path, data_dir, "--shard-size", "1MB")
        assert_failed(
            done, {FAILED, DISK}, r"checkpoint\.bin", r"(?i)chang|gr[eo]w|shr[aiu]nk|shorter|longer"
        )
        assert versions(data_dir) == []
        processes.wait_until(
            lambda: not list(data_dir.rglob("shard_*.bin")), what="the shards of the failed broadcast to go"
        )
        # It stands still now. Its number is not the one that was given to what failed.
        again = broadcast(path, data_dir, "--shard-size", "1MB")
        assert (again.returncode, again.stdout) == (0, "v2\n"), again.stderr
        assert (data_dir / "distribution.txt").read_text().startswith(f"v2: {sha256(path)}|")


# Shard sizes and other numbers -------------------------------------------------------------------

NO_SIZES = ["0", "-1", "-50MB", "many", "50XB", "", "MB", "nan"]


@pytest.mark.parametrize("size", NO_SIZES)
def test_malformed_shard_size_is_usage_error(size: str, tmp_path: Path) -> None:
    path = payload(tmp_path / "file.bin", 1000)
    done = broadcast(path, tmp_path / "data", "--shard-size", size)
    assert_failed(done, {USAGE}, "--shard-size")
    assert versions(tmp_path / "data") == []


@pytest.mark.parametrize("command", ["broadcast", "origin"])
def test_malformed_shard_size_in_environment_is_usage_error(command: str, tmp_path: Path) -> None:
    path = payload(tmp_path / "file.bin", 1000)
    words = [str(path)] if command == "broadcast" else ["--port", "0", "--host", "127.0.0.1"]
    done = processes.run(
        command,
        *words,
        "--data-dir",
        str(tmp_path / "data"),
        env={"SHARDCAST_SHARD_SIZE": "50XB"},
        timeout=BOUND,
    )
    assert_failed(done, {USAGE}, "(?i)shard[-_]size", "50XB")


@pytest.mark.parametrize(
    ("option", "value"),
    [("--shard-size", "0"), ("--port", "99999"), ("--port", "http"), ("--keep", "-3"),
     ("--keep", "all"), ("--first-version", "0"), ("--first-version", "1" + "0" * 18),
     ("--first-version", "some")],
)  # fmt: skip
def test_origin_refuses_numbers_out_of_range(option: str, value: str, tmp_path: Path) -> None:
    done = processes.run(
        "origin", "--data-dir", str(tmp_path), "--host", "127.0.0.1", option, value, timeout=BOUND
    )
    assert_failed(done, {USAGE}, re.escape(option))


@pytest.mark.parametrize(
    "name",
    ["SHARDCAST_HTTP_PORT", "SHARDCAST_MAX_CONCURRENT_DOWNLOADS", "SHARDCAST_HTTP_TIMEOUT"],
)  # fmt: skip
def test_malformed_setting_in_environment_is_named(name: str, tmp_path: Path) -> None:
    with dead_address() as dead:
        node = ("middle", "--upstream", dead, "--data-dir", str(tmp_path), "--host", "127.0.0.1")
        reader = ("client", "--servers", dead, "--list")
        words = node if name.endswith("PORT") else reader
        assert_failed(processes.run(*words, env={name: "ten"}, timeout=BOUND), {USAGE}, "ten")


def test_port_variable_of_kubernetes_is_ignored(tmp_path: Path) -> None:
    with processes.origin(tmp_path, env={"SHARDCAST_PORT": "tcp://10.0.0.1:80"}) as node:
        assert_lives(node)


# Ports and data directories ----------------------------------------------------------------------


@pytest.mark.parametrize("role", ["origin", "middle"])
def test_taken_port_is_named(role: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, dead_address() as dead:
        port = str(taken.getsockname()[1])
        upstream = ("--upstream", dead) if role == "middle" else ()
        done = processes.run(
            role, *upstream, "--data-dir", str(tmp_path), "--host", "127.0.0.1", "--port", port, timeout=BOUND
        )
    assert_failed(done, {FAILED}, rf"\b{port}\b")


@pytest.mark.parametrize("role", ["origin", "middle", "broadcast"])
def test_unwritable_data_directory_is_local_disk_error(role: str, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    path = payload(tmp_path / "file.bin", 1000)
    try:
        # A middle's is made below it, as it is where nothing was made by hand.
        data_dir = locked / "below" if role == "middle" else locked
        assert_failed(on_data_dir(role, data_dir, path), {DISK}, re.escape(str(locked)))
    finally:
        locked.chmod(0o755)


@pytest.mark.parametrize("role", ["origin", "middle", "broadcast"])
def test_data_directory_that_is_a_file_is_refused(role: str, tmp_path: Path) -> None:
    path = payload(tmp_path / "file.bin", 1000)
    before = sha256(path)
    data_dir = path / "below" if role == "middle" else path
    assert_failed(on_data_dir(role, data_dir, path), {DISK}, re.escape(str(path)))
    assert sha256(path) == before


def on_data_dir(role: str, data_dir: Path, path: Path) -> Completed:
    with dead_address() as dead:
        listen = ("--host", "127.0.0.1", "--port", "0")
        words = {
            "origin": ("origin", *listen),
            "middle": ("middle", "--upstream", dead, *listen),
            "broadcast": ("broadcast", str(path)),
        }[role]
        return unprivileged(*words, "--data-dir", str(data_dir))


@pytest.mark.parametrize("role", ["origin", "middle"])
def test_data_directory_in_use_is_refused(role: str, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with processes.origin(data_dir) as node:
        assert_failed(
            on_data_dir(role, data_dir, tmp_path), {FAILED}, re.escape(str(data_dir)), "(?i)in use|another"
        )
        assert_lives(node)
        node.kill()
    # A crash frees it.
    with processes.origin(data_dir) as node:
        assert_lives(node)


# Outputs -----------------------------------------------------------------------------------------

SIZE = 2_500_000


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a version of three shards; the payload lies beside it."""
    where = tmp_path_factory.mktemp("published")
    done = broadcast(payload(where / "payload.bin", SIZE), where / "data", "--shard-size", "1MB")
    assert (done.returncode, done.stdout) == (0, "v1\n"), done.stderr
    return where / "data"


@pytest.fixture
def server(published: Path) -> Iterator[BadServer]:
    """A plain web server in front of it, which counts."""
    with BadServer(published) as running:
        yield running


def want(published: Path) -> str:
    return sha256(published.parent / "payload.bin")


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("kind", ["folder", "below-a-file", "fifo"])
def test_unusable_output_is_refused_before_any_fetch(kind: str, server: BadServer, tmp_path: Path) -> None:
    """Known before the first byte, so said before it."""
    place = tmp_path / "place"
    if kind == "folder":
        place.mkdir()
    elif kind == "below-a-file":
        place.write_bytes(b"mine")
    else:
        os.mkfifo(place)
    before = place.stat()
    output = place / "x.bin" if kind == "below-a-file" else place
    assert_failed(fetch(server.address, output), {USAGE, DISK}, re.escape(str(place)))
    assert server.sent_bytes("/v1/shard*") == 0, "fetched what there is no place for"
    assert names(tmp_path) == ["place"]
    assert (place.stat().st_ino, place.stat().st_mode) == (before.st_ino, before.st_mode)
    assert kind != "folder" or not list(place.iterdir())


@pytest.mark.parametrize("exists", [True, False], ids=["there", "missing"])
def test_output_ending_with_slash_is_a_folder(
    exists: bool, server: BadServer, published: Path, tmp_path: Path
) -> None:
    """As with ``cp``: the version names the file in it."""
    place = tmp_path / "place"
    if exists:
        place.mkdir()
    done = fetch(server.address, f"{place}/")
    assert done.returncode == 0, done.stderr
    assert names(place) == ["download_v1.bin"]
    assert sha256(place / "download_v1.bin") == want(published)


def test_unwritable_output_directory_is_local_disk_error(server: BadServer, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    try:
        done = unprivileged(
            "client", "--servers", server.address, "--version", "v1", "--output-file", str(locked / "x.bin")
        )
    finally:
        locked.chmod(0o755)
    assert_failed(done, {DISK}, re.escape(str(locked)))
    assert names(locked) == []


def test_missing_directory_of_output_is_made(server: BadServer, published: Path, tmp_path: Path) -> None:
    output = tmp_path / "a" / "b" / "got.bin"
    done = fetch(server.address, output)
    assert done.returncode == 0, done.stderr
    assert sha256(output) == want(published)
    assert names(output.parent) == ["got.bin"]


def test_default_output_is_named_by_version(server: BadServer, published: Path, tmp_path: Path) -> None:
    done = processes.run(
        "client", "--servers", server.address, "--version", "latest", "--output-dir", str(tmp_path / "d"),
        timeout=BOUND,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert names(tmp_path / "d") == ["download_v1.bin"]
    assert sha256(tmp_path / "d" / "download_v1.bin") == want(published)


def test_existing_output_is_replaced_atomically(server: BadServer, published: Path, tmp_path: Path) -> None:
    """Who has the old one open reads the old one to its end: its bytes are not written over."""
    output = payload(tmp_path / "got.bin", 5_000_000, seed=9)
    old = output.read_bytes()
    with output.open("rb") as reader:
        done = fetch(server.address, output)
        assert done.returncode == 0, done.stderr
        assert reader.read() == old
    assert sha256(output) == want(published)
    assert names(tmp_path) == ["got.bin"]


def test_existing_output_stays_when_transfer_fails(server: BadServer, tmp_path: Path) -> None:
    output = payload(tmp_path / "got.bin", 5000, seed=9)
    before = sha256(output)
    server.set("/v1/shard_003.bin", bad.flipped(1))
    done = fetch(server.address, output, SHARDCAST_RETRY_ATTEMPTS="2")
    assert_failed(done, {5}, "v1")
    assert sha256(output) == before


def test_output_has_the_mode_of_a_new_file(server: BadServer, tmp_path: Path) -> None:
    """The inference workers that open it often run as somebody else."""
    plain = payload(tmp_path / "plain.bin", 1)
    assert fetch(server.address, tmp_path / "got.bin").returncode == 0
    mode = stat.S_IMODE((tmp_path / "got.bin").stat().st_mode)
    assert oct(mode) == oct(stat.S_IMODE(plain.stat().st_mode))


def test_two_clients_with_one_output_both_succeed(published: Path, tmp_path: Path) -> None:
    output = tmp_path / "got.bin"
    with BadServer(published) as server:
        # Slow enough that both are under way at the same time.
        server.set("/v1/shard*", bad.throttled(3e6))
        clients = [
            processes.Popen(
                processes.command(
                    "client", "--servers", server.address, "--version", "v1", "--output-file", str(output)
                ),
                env=processes.environment(),
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
            )
            for _ in range(2)
        ]
        try:
            for client in clients:
                stderr = client.communicate(timeout=BOUND)[1]
                assert client.returncode == 0, stderr
                readable(stderr)
        finally:
            for client in clients:
                client.kill()
                client.communicate()
    assert sha256(output) == want(published)
    assert names(tmp_path) == ["got.bin"], "something was left behind"


# A full disk -------------------------------------------------------------------------------------


class Disk:
    """A small disk of its own, which can be made larger."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def grow(self, size: str = "100m") -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.path)], check=True)

    @property
    def used(self) -> int:
        counts = os.statvfs(self.path)
        return (counts.f_blocks - counts.f_bfree) * counts.f_frsize


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of 12 MB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"can't mount a small disk here: {mounted.stderr.strip()}")
    try:
        yield Disk(path)
    finally:
        # Lazily, so that a process that a failed test left behind can't keep it.
        subprocess.run(["umount", "-l", str(path)], check=True)


SMALL, LARGE = 2_000_000, 20_000_000


@pytest.mark.root
@both_ways
def test_disk_full_while_publishing_publishes_nothing(with_origin: bool, disk: Disk, tmp_path: Path) -> None:
    data_dir = disk.path / "data"
    small, large = payload(tmp_path / "small.bin", SMALL), payload(tmp_path / "large.bin", LARGE, seed=2)
    with origin_or_none(with_origin, data_dir) as node:
        assert broadcast(small, data_dir, "--shard-size", "1MB").stdout == "v1\n"
        assert_failed(
            broadcast(large, data_dir, "--shard-size", "1MB"), {DISK}, NO_SPACE, re.escape(str(disk.path))
        )
        assert versions(data_dir) == ["v1"]
        assert disk.used < 2 * SMALL, "what can't be used fills the disk"
        if node:
            assert_lives(node)
            assert get(f"{node.url}/v1/shard_001.bin") == (200, small.read_bytes()[:1_000_000])
        disk.grow()
        done = broadcast(large, data_dir, "--shard-size", "1MB")
        assert (done.returncode, done.stdout) == (0, "v3\n"), done.stderr
        assert versions(data_dir) == ["v1", "v3"]
    shards = sorted((data_dir / "v3").glob("shard_*.bin"))
    assert b"".join(shard.read_bytes() for shard in shards) == large.read_bytes()


@pytest.mark.root
@both_ways
def test_full_disk_loses_no_list(with_origin: bool, disk: Disk, tmp_path: Path) -> None:
    data_dir = disk.path / "data"
    small = payload(tmp_path / "small.bin", SMALL)
    with origin_or_none(with_origin, data_dir):
        assert broadcast(small, data_dir).stdout == "v1\n"
        listing = (data_dir / "distribution.txt").read_bytes()
        ballast = disk.path / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        assert_failed(broadcast(payload(tmp_path / "other.bin", 5000, seed=3), data_dir), {DISK}, NO_SPACE)
        assert (data_dir / "distribution.txt").read_bytes() == listing, "the list was lost to a full disk"
        ballast.unlink()
        done = broadcast(small, data_dir)
        assert done.returncode == 0, done.stderr
        assert versions(data_dir) == ["v1", done.stdout.strip()]


@pytest.mark.root
def test_disk_full_while_relaying_makes_room(disk: Disk, tmp_path: Path) -> None:
    source, data_dir = tmp_path / "data", disk.path / "data"
    small, large = payload(tmp_path / "small.bin", SMALL), payload(tmp_path / "large.bin", LARGE, seed=2)
    assert broadcast(small, source, "--shard-size", "1MB").stdout == "v1\n"
    with BadServer(source) as upstream, processes.middle(upstream.address, data_dir) as node:
        processes.wait_until(lambda: versions(data_dir) == ["v1"], what="v1 at the middle")
        assert broadcast(large, source, "--shard-size", "1MB").stdout == "v2\n"
        processes.wait_until(
            lambda: re.search(NO_SPACE, node.log) or node.process.poll() is not None,
            what="the full disk in the log",
        )
        assert re.search(NO_SPACE, node.log)
        assert_lives(node)
        assert get(f"{node.url}/distribution.txt")[1] == f"v1: {sha256(small)}|2\n".encode()
        assert get(f"{node.url}/v1/shard_002.bin") == (200, small.read_bytes()[1_000_000:])
        disk.grow()
        processes.wait_until(
            lambda: versions(data_dir) == ["v1", "v2"], timeout=BOUND, what="v2 at the middle"
        )
        done = fetch(node.url, tmp_path / "got.bin")
        assert done.returncode == 0, done.stderr
        assert_lives(node)
        assert node.log.count("\n") < 200, "a full disk fills the log too"
    assert sha256(tmp_path / "got.bin") == sha256(large)


@pytest.mark.root
def test_disk_full_while_downloading_resumes_later(disk: Disk, tmp_path: Path) -> None:
    source = tmp_path / "data"
    large = payload(tmp_path / "large.bin", LARGE, seed=2)
    assert broadcast(large, source, "--shard-size", "1MB").stdout == "v1\n"
    output = disk.path / "out" / "got.bin"
    with BadServer(source) as server:
        done = fetch(server.address, output)
        assert_failed(done, {DISK}, NO_SPACE, re.escape(str(disk.path)))
        assert not output.exists()
        assert server.sent_bytes("/v1/shard*") < 2 * LARGE, "fetched again and again what does not fit"
        disk.grow()
        done = fetch(server.address, output)
        assert done.returncode == 0, done.stderr
    assert sha256(output) == sha256(large)
    assert names(output.parent) == ["got.bin"]


@pytest.mark.parametrize("words", [["broadcast", "file"], ["origin", "--port", "0"]])
def test_removed_current_directory_is_local_disk_error(words: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", 'rmdir "$0"; exec "$@"', str(tmp_path), *processes.command(*words)],
        env=processes.environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=BOUND,
    )
    assert (done.returncode, done.stdout) == (DISK, "")
    assert done.stderr == "Error: the current directory was removed; change to another one\n"
