"""What the commands print, where, with which exit code, and what they leave behind."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import stat
import struct
import subprocess
import sys
import termios
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import click
import pytest
from blake3 import blake3

from shardcast.control.client import publish as hand_over
from shardcast.control.writer import BroadcastWriter
from shardcast.store.data_dir import DataDir
from tests.support import bad_answers as bad
from tests.support import processes
from tests.support.bad_servers import BadServer, dead_address
from tests.support.legacy import get, listed
from tests.support.published import Published, publish, random_bytes, sha256

MB = 1_000_000
DONE, OTHER, USAGE, NOT_OFFERED, NO_SERVER, INTEGRITY, DISK, INTERRUPTED = 0, 1, 2, 3, 4, 5, 6, 130
COMMANDS = ("origin", "middle", "client", "broadcast", "demo")
SHARDS = "/v1/shard_*"
LISTEN = ("--host", "127.0.0.1", "--port", "0")


@dataclass
class Running:
    """A command under way; what it wrote so far lies in files."""

    process: subprocess.Popen[bytes]
    stdout: Path
    stderr: Path

    @property
    def out(self) -> str:
        return self.stdout.read_text()

    @property
    def err(self) -> str:
        return self.stderr.read_text()

    def wait_for(self, text: str, timeout: float = 60) -> None:
        """Wait until it said so on stderr."""
        processes.wait_until(
            lambda: text in self.err or self.process.poll() is not None, timeout, f"{text!r} on stderr"
        )
        assert text in self.err, f"ended with {self.process.poll()} before {text!r}:\n{self.err}"

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@contextlib.contextmanager
def running(where: Path, *words: str, **env: str) -> Iterator[Running]:
    """Start ``shardcast WORDS…``; it is killed at the end if it still runs."""
    where.mkdir(parents=True, exist_ok=True)
    name = uuid.uuid4().hex[:8]
    stdout, stderr = where / f"{name}.out", where / f"{name}.err"
    with stdout.open("wb") as out, stderr.open("wb") as err:
        process = processes.Popen(
            processes.command(*words), env=processes.environment(**env), stdout=out, stderr=err
        )
    try:
        yield Running(process, stdout, stderr)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)


def payload(path: Path, size: int, seed: int = 1) -> Path:
    path.write_bytes(random_bytes(size, seed))
    return path


def versions(data_dir: Path) -> list[str]:
    return [line.partition(":")[0] for line in (data_dir / "distribution.txt").read_text().splitlines()]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """20 MB in 20 shards."""
    return publish(tmp_path_factory.mktemp("published") / "data", random_bytes(20 * MB), MB)


@pytest.fixture
def server(published: Published) -> Iterator[BadServer]:
    with BadServer(published.data_dir) as one:
        yield one


# The commands themselves -------------------------------------------------------------------------


def test_commands_run_by_each_of_their_names() -> None:
    """``python -m shardcast``, ``shardcast``, and the three by names of their own."""
    version = processes.run("--version")
    assert (version.returncode, version.stderr) == (0, "")
    assert re.fullmatch(r"shardcast, version \d+\.\d+\.\d+\n", version.stdout)
    scripts = Path(sys.executable).parent
    same = subprocess.run([scripts / "shardcast", "--version"], capture_output=True, text=True, check=True)
    assert same.stdout == version.stdout
    for role in ("origin", "middle", "client", "store", "backup"):
        command = [scripts / f"shardcast-{role}", "--version"]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == version.stdout
    for role in ("origin", "middle", "client"):
        own = subprocess.run([scripts / f"shardcast-{role}", "--help"], capture_output=True, text=True)
        assert own.returncode == 0, own.stderr
        assert own.stdout.startswith(f"Usage: shardcast-{role} [OPTIONS]\n")


LOADED = """
import atexit, sys
from shardcast.cli.main import main
heavy = {"aiohttp", "aiohttp.web", "multiprocessing", "rich", "shardcast.swarm", "tenacity", "uvloop"}
atexit.register(lambda: print(*sorted(heavy & set(sys.modules)), file=sys.stderr))
main()
"""


def loaded(*words: str) -> list[str]:
    """Which of the modules that take long to import a command imports, to its end."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *words], env=processes.environment(), capture_output=True, text=True
    )
    assert done.returncode == DONE, done.stderr
    return done.stderr.splitlines()[-1].split()


def test_commands_import_only_what_they_use(tmp_path: Path) -> None:
    file, data_dir, blobs = payload(tmp_path / "x.bin", 1000), str(tmp_path / "data"), tmp_path / "blobs"
    blobs.mkdir()
    assert loaded("--help") == []
    assert loaded("client", "--help") == []
    assert loaded("store", "put", str(file), "-d", str(blobs)) == []
    with processes.origin(tmp_path / "data") as origin:
        assert loaded("broadcast", str(file), "--data-dir", data_dir) == []
        assert loaded("pin", "v1", "--data-dir", data_dir) == []
        words = ("client", "--servers", origin.url, "--version", "v1", "--output-file", str(tmp_path / "got"))
        assert not {"aiohttp.web", "rich", "shardcast.swarm"} & set(loaded(*words))


def test_origin_imports_nothing_that_fetches() -> None:
    code = "import sys, shardcast.nodes.origin; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"shardcast.transfer", "shardcast.upstream", "tenacity"} & set(done.stdout.split())


def test_help_names_every_command() -> None:
    done = processes.run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", done.stdout, re.MULTILINE), f"{name} is not in:\n{done.stdout}"
    bare = processes.run()
    assert bare.returncode == USAGE
    assert "Commands:" in bare.stdout + bare.stderr


# A hook finds the metadata of its version in its environment, and may broadcast itself.
OF_ONE_VERSION = {"tags", "pairs"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_variable_and_help(name: str) -> None:
    command = getattr(import_module(f"shardcast.cli.{name}"), name)
    shown = processes.run(name, "--help").stdout
    options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    assert {"--log-level", "--quiet"} <= {word for one in options for word in one.opts}
    for one in options:
        assert one.help, f"{one.opts} is not explained"
        assert one.opts[0] in shown
        if one.name in OF_ONE_VERSION:
            assert not one.envvar, f"{one.opts} would pass from a hook's environment to its broadcasts"
            continue
        variables = [one.envvar] if isinstance(one.envvar, str) else one.envvar
        assert variables, f"{one.opts} has no variable"
        assert all(re.fullmatch(r"SHARDCAST_[A-Z_]+", variable) for variable in variables), one.opts
        assert "SHARDCAST_PORT" not in variables
        assert all(variable in shown for variable in variables), one.opts


@pytest.mark.parametrize("quiet", [False, True], ids=["", "quiet"])
@pytest.mark.parametrize("role", ["origin", "middle"])
def test_server_prints_its_address_once_even_when_quiet(role: str, quiet: bool, tmp_path: Path) -> None:
    with dead_address() as dead:
        upstream = ("--upstream", dead) if role == "middle" else ()
        words = (role, *upstream, "--data-dir", str(tmp_path / "data"), *LISTEN, *(["--quiet"] * quiet))
        with running(tmp_path, *words) as node:
            node.wait_for("Listening on ")
            found = re.search(r"^Listening on (http://127\.0\.0\.1:[1-9]\d*)$", node.err, re.MULTILINE)
            assert found, node.err
            assert get(found[1], "/healthcheck") == (200, b"OK")
            assert node.end(signal.SIGINT) == DONE
            assert node.err.count("Listening on") == 1
            assert node.out == "", "stdout is for results"
            if quiet:
                assert node.err == f"{found[0]}\n"


# The environment ---------------------------------------------------------------------------------


@pytest.fixture
def port() -> Iterator[int]:
    with processes.reserved_port() as port:
        yield port


def test_origin_reads_all_options_from_environment(port: int, tmp_path: Path) -> None:
    files = [payload(tmp_path / f"{seed}.bin", 2500, seed) for seed in (1, 2, 3)]
    env = {
        "SHARDCAST_DATA_DIR": str(tmp_path / "data"),
        "SHARDCAST_HOST": "127.0.0.1",
        "SHARDCAST_HTTP_PORT": str(port),
        "SHARDCAST_PORT": "tcp://10.0.0.1:8000",
        "SHARDCAST_BROADCAST": os.pathsep.join(map(str, files)),
        "SHARDCAST_SHARD_SIZE": "1kB",
        "SHARDCAST_MAX_DISTRIBUTION_FOLDERS": "2",
        "SHARDCAST_FIRST_VERSION": "7",
        "SHARDCAST_LEGACY_DIGEST": "blake3",
        "SHARDCAST_JSON": "1",
        "SHARDCAST_QUIET": "1",
    }
    with running(tmp_path, "origin", **env) as origin:
        processes.wait_until(lambda: origin.out.count("\n") == 3, what="three versions on stdout")
        said = [json.loads(line) for line in origin.out.splitlines()]
        assert said == [{"version": f"v{7 + n}", "path": str(file)} for n, file in enumerate(files)]
        digests = [blake3(file.read_bytes()).hexdigest() for file in files]
        url = f"http://127.0.0.1:{port}"
        assert listed(url) == {"v8": f"{digests[1]}|3", "v9": f"{digests[2]}|3"}
        assert origin.err == f"Listening on {url}\n"


def test_middle_and_client_read_all_options_from_environment(tmp_path: Path) -> None:
    data_dir, downloads = tmp_path / "data", tmp_path / "downloads"
    for seed in (1, 2):
        publish(data_dir, random_bytes(1000, seed), MB)
    with BadServer(data_dir) as upstream:
        env = {
            "SHARDCAST_UPSTREAM": upstream.address,
            "SHARDCAST_DATA_DIR": str(tmp_path / "middle"),
            "SHARDCAST_HOST": "127.0.0.1",
            "SHARDCAST_HTTP_PORT": "0",
            "SHARDCAST_CHECK_INTERVAL": "0.1",
            "SHARDCAST_MAX_DISTRIBUTION_FOLDERS": "1",
            "SHARDCAST_LOG_LEVEL": "error",
        }
        with processes.node("middle", env=env) as middle:
            processes.wait_until(lambda: list(listed(middle.url)) == ["v2"], what="v2 alone")
            publish(data_dir, random_bytes(1000, 3), MB)
            processes.wait_until(lambda: list(listed(middle.url)) == ["v3"], 20, "v3 alone, and soon")
            assert middle.log == f"Listening on {middle.url}\n"
            from_it = {"SHARDCAST_SERVERS": middle.url, "SHARDCAST_QUIET": "1"}
            image = {"SHARDCAST_VERSION": "0.4.0"}
            offered = processes.run("client", env={**from_it, **image, "SHARDCAST_LIST": "1"})
            assert offered.stdout.startswith("v3 "), offered.stderr
            env = {"SHARDCAST_VERSION": "v3", "SHARDCAST_OUTPUT_DIR": str(downloads), "SHARDCAST_JSON": "1"}
            done = processes.run("client", env={**from_it, **env})
            assert json.loads(done.stdout)["path"] == str(downloads / "download_v3.bin"), done.stderr
            # What stands on the command line goes before it.
            done = processes.run(
                "client", "--version", "latest", "--output-file", str(tmp_path / "x.bin"),
                env={**from_it, "SHARDCAST_FETCH_VERSION": "v99"},
            )  # fmt: skip
            assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'x.bin'}\n"), done.stderr


# What is on offer --------------------------------------------------------------------------------


def test_list_is_oldest_first_and_latest_is_newest(tmp_path: Path) -> None:
    one = publish(tmp_path / "data", random_bytes(1000, 1), MB)
    two = publish(tmp_path / "data", random_bytes(2500, 2), 1000)
    held = DataDir(tmp_path / "data", "broadcast")
    held.mark_used(9)
    held.close()
    ten = publish(tmp_path / "data", b"", 1000)
    sizes = {one: (1, 1000), two: (3, 2500), ten: (1, 0)}
    with BadServer(tmp_path / "data") as server:
        text = processes.run("client", "--servers", server.address, "--list")
        heading = ["VERSION", "DIGEST", "SHARDS", "SIZE", "NAME", "TAGS"]
        assert (text.returncode, text.stderr.split()) == (0, heading)
        assert [line.split() for line in text.stdout.splitlines()] == [
            [made.version, made.sha256, str(shards), str(size), "data.payload", "-"]
            for made, (shards, size) in sizes.items()
        ]
        as_json = processes.run("client", "--servers", server.address, "--list", "--json")
        found = json.loads(as_json.stdout)
        assert [row["version"] for row in found] == ["v1", "v2", "v10"]
        for row, (made, (shards, size)) in zip(found, sizes.items(), strict=True):
            assert (row["digest"], row["shards"], row["size"]) == (made.sha256, shards, size)
            assert (row["name"], row["metadata"]) == ("data.payload", {})
            assert abs(row["created"] - time.time()) < 600
        # Without a word about where to, it goes into ./downloads.
        done = processes.run("client", "--servers", server.address, "--version", "latest", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert Path(done.stdout.removesuffix("\n")) == tmp_path / "downloads" / "download_v10.bin"
        assert (tmp_path / "downloads" / "download_v10.bin").read_bytes() == b""
        done = processes.run("client", "--servers", server.address, "--version", "v1", cwd=tmp_path)
        assert (tmp_path / "downloads" / "download_v1.bin").read_bytes() == one.payload, done.stderr


def test_list_has_the_size_of_a_streamed_version(tmp_path: Path) -> None:
    with processes.origin(tmp_path / "data") as origin:
        words = [
            *processes.command("broadcast", "-", "--data-dir", str(tmp_path / "data"), "--shard-size", "1000")
        ]
        subprocess.run(words, input=b"x" * 2500, env=processes.environment(), check=True)
        with processes.middle(origin.url, tmp_path / "middle") as middle:
            middle.wait_for_log("fetching v1 (2.5 kB)")
            middle.wait_for_log("v1 is complete")
            for url in (origin.url, middle.url):
                shown = processes.run("client", "--servers", url, "--list", "--quiet")
                assert (shown.stdout.split()[3], shown.stderr) == ("2500", "")
                as_json = processes.run("client", "--servers", url, "--list", "--json")
                assert json.loads(as_json.stdout)[0]["size"] == 2500


def test_list_is_empty_without_versions(tmp_path: Path) -> None:
    with processes.origin(tmp_path / "data") as origin:
        text = processes.run("client", "--servers", origin.url, "--list")
        assert (text.returncode, text.stdout, text.stderr) == (0, "", "there are no versions yet\n")
        as_json = processes.run("client", "--servers", origin.url, "--list", "--json")
        assert (as_json.returncode, json.loads(as_json.stdout)) == (0, []), as_json.stderr
        newest = processes.run("client", "--servers", origin.url, "--version", "latest")
        assert (newest.returncode, newest.stdout) == (NOT_OFFERED, "")


# Broadcasting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("through_an_origin", [False, True], ids=["directly", "through-an-origin"])
def test_broadcast_prints_the_version_alone(through_an_origin: bool, tmp_path: Path) -> None:
    file, data_dir = payload(tmp_path / "x.bin", 2500), tmp_path / "data"
    words = ("broadcast", str(file), "--data-dir", str(data_dir))
    with contextlib.ExitStack() as stack:
        if through_an_origin:
            origin = stack.enter_context(processes.origin(data_dir, "--shard-size", "500"))
        done = processes.run(*words)
        assert (done.returncode, done.stdout) == (0, "v1\n"), done.stderr
        quiet = processes.run(*words, "--quiet", "--shard-size", "1kB")
        assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "v2\n", "")
        as_json = processes.run(*words, "--json")
        assert json.loads(as_json.stdout) == {"version": "v3", "path": str(file)}
        digest = sha256(file)
        # The origin's shard size unless the command says another.
        usual = 5 if through_an_origin else 1
        assert (data_dir / "distribution.txt").read_text() == "".join(
            f"{version}: {digest}|{shards}\n" for version, shards in [("v1", usual), ("v2", 3), ("v3", usual)]
        )
        if through_an_origin:
            assert list(listed(origin.url)) == ["v1", "v2", "v3"]
            origin.wait_for_log("v2 is complete")


def test_origin_publishes_files_named_at_start(tmp_path: Path) -> None:
    files = [payload(tmp_path / f"{seed}.bin", 1000, seed) for seed in (1, 2)]
    words = [word for file in files for word in ("--broadcast", str(file))]
    origin = ("origin", "--data-dir", str(tmp_path / "data"), *LISTEN, *words)
    with running(tmp_path, *origin, "--first-version", "5") as node:
        processes.wait_until(lambda: node.out == "v5\nv6\n", what="the versions on stdout")
        assert node.end() == DONE
    assert versions(tmp_path / "data") == ["v5", "v6"]
    # The least number, not the next one: what was given is not given again.
    with running(tmp_path, *origin, "--first-version", "3") as node:
        processes.wait_until(lambda: node.out == "v7\nv8\n", what="the versions on stdout")


@pytest.mark.parametrize("through_an_origin", [False, True], ids=["directly", "through-an-origin"])
def test_concurrent_broadcasts_get_distinct_numbers(through_an_origin: bool, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    files = [payload(tmp_path / f"{seed}.bin", 100_000, seed) for seed in range(4)]
    with contextlib.ExitStack() as stack:
        if through_an_origin:
            stack.enter_context(processes.origin(data_dir))
        commands = [
            stack.enter_context(running(tmp_path, "broadcast", str(file), "--data-dir", str(data_dir)))
            for file in files
        ]
        for one in commands:
            assert one.process.wait(60) == 0, one.err
        given = {one.out.strip(): file for one, file in zip(commands, files, strict=True)}
    assert sorted(given) == ["v1", "v2", "v3", "v4"]
    rows = dict(line.split(": ") for line in (data_dir / "distribution.txt").read_text().splitlines())
    assert {v: row.partition("|")[0] for v, row in rows.items()} == {v: sha256(f) for v, f in given.items()}


def test_queued_broadcasts_get_numbers_at_once(tmp_path: Path) -> None:
    file, data_dir = payload(tmp_path / "file.bin", 8000), tmp_path / "data"
    with processes.origin(data_dir) as origin, contextlib.ExitStack() as stack:
        # The first one has its turn until its writer says that this was all.
        first = stack.enter_context(contextlib.closing(BroadcastWriter(data_dir, "first.bin")))
        queued = []
        for _ in range(2):
            saying = hand_over(data_dir, file, 10)
            stack.callback(saying.close)  # type: ignore[attr-defined]
            queued.append(saying)
        given = [first.version, *(next(saying)["version"] for saying in queued)]
        assert given == ["v1", "v2", "v3"]
        assert listed(origin.url) == {}
        assert next(queued[1])["progress"]["size"] is None, "it did not wait for its turn"
        first.complete()
        rest = [stack.enter_context(ThreadPoolExecutor(1)).submit(list, saying) for saying in queued]
        done = processes.run("broadcast", str(file), "--data-dir", str(data_dir), "--shard-size", "8000")
        assert (done.returncode, done.stdout) == (0, "v4\n"), done.stderr
        assert [one.result(30)[-1] for one in rest] == [{"complete": "v2"}, {"complete": "v3"}]
        # In the order of their numbers, so the last one has waited for all before it.
        assert list(listed(origin.url)) == ["v1", "v2", "v3", "v4"]


def test_direct_broadcast_waits_for_another_one(tmp_path: Path) -> None:
    file, data_dir = payload(tmp_path / "x.bin", 1000), tmp_path / "data"
    other = DataDir(data_dir, "broadcast")
    with running(tmp_path, "broadcast", str(file), "--data-dir", str(data_dir)) as waiting:
        try:
            waiting.wait_for("waiting for another broadcast")
            assert waiting.process.poll() is None
            assert waiting.out == ""
        finally:
            other.close()
        assert waiting.process.wait(30) == DONE, waiting.err
        assert waiting.out == "v1\n"
        assert waiting.err.count("waiting for") == 1


def test_broadcast_into_middle_directory_is_refused(tmp_path: Path) -> None:
    file, data_dir = payload(tmp_path / "x.bin", 1000), tmp_path / "middle"
    with dead_address() as dead, processes.middle(dead, data_dir) as middle:
        done = processes.run("broadcast", str(file), "--data-dir", str(data_dir))
        assert (done.returncode, done.stdout) == (OTHER, "")
        assert str(data_dir) in done.stderr
        assert "middle" in done.stderr
        assert "Traceback" not in done.stderr
        assert listed(middle.url) == {}
        assert get(middle.url, "/healthcheck")[0] == 200


def test_control_socket_is_private_even_with_long_path(tmp_path: Path) -> None:
    data_dir = tmp_path.joinpath(*["a-folder-with-a-long-name"] * 6, "data")
    assert len(os.fsencode(data_dir)) > 108
    with processes.origin(data_dir) as origin:
        socket = data_dir / ".shardcast" / "socket"
        assert stat.S_ISSOCK(socket.stat().st_mode)
        assert oct(stat.S_IMODE(socket.stat().st_mode)) == "0o600"
        file = payload(tmp_path / "x.bin", 1000)
        done = processes.run("broadcast", str(file), "--data-dir", str(data_dir))
        assert (done.returncode, done.stdout) == (0, "v1\n"), done.stderr
        origin.wait_for_log("v1 is complete")  # it went through the origin
        assert origin.stop() == 0, origin.log
        assert not socket.exists()


# How a command ends ------------------------------------------------------------------------------


def usage(server: BadServer, tmp_path: Path) -> tuple[str, ...]:
    return ("--list", "--version", "v1")


def not_offered(server: BadServer, tmp_path: Path) -> tuple[str, ...]:
    return ("--version", "v2")


def no_server(server: BadServer, tmp_path: Path) -> tuple[str, ...]:
    return ("--servers", "127.0.0.1:1", "--version", "v1")


def integrity(server: BadServer, tmp_path: Path) -> tuple[str, ...]:
    server.set("/v1/shard_003.bin", bad.flipped(7))
    return ("--version", "v1", "--output-file", str(tmp_path / "x.bin"))


def local_disk(server: BadServer, tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "file").touch()
    return ("--version", "v1", "--output-file", str(tmp_path / "file" / "x.bin"))


@pytest.mark.parametrize(
    ("way", "code"),
    [(usage, USAGE), (not_offered, NOT_OFFERED), (no_server, NO_SERVER), (integrity, INTEGRITY),
     (local_disk, DISK)],
)  # fmt: skip
def test_each_kind_of_failure_has_exit_code(
    way: Callable[[BadServer, Path], tuple[str, ...]], code: int, server: BadServer, tmp_path: Path
) -> None:
    env = {"SHARDCAST_RETRY_ATTEMPTS": "2", "SHARDCAST_QUIET": "1"}
    if way is no_server:
        env["SHARDCAST_UNREACHABLE_AT_START"] = "1"
    words = way(server, tmp_path)
    done = processes.run("client", "--servers", server.address, *words, env=env, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: "), "a quiet command tells its errors"
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.bin"))


def test_ctrl_c_keeps_pieces_and_next_run_resumes(published: Published, tmp_path: Path) -> None:
    output = tmp_path / "out" / "got.bin"
    with BadServer(published.data_dir).set(SHARDS, bad.throttled(10 * MB)) as server:
        words = ("client", "--servers", server.address, "--version", "v1", "--output-file", str(output))
        few = {"SHARDCAST_MAX_CONCURRENT_DOWNLOADS": "2"}
        with running(tmp_path, *words, **few) as client:
            processes.wait_until(lambda: server.sent_bytes(SHARDS) > 12 * MB, what="half of the payload")
            assert client.end(signal.SIGINT) == INTERRUPTED, client.err
            assert client.out == ""
            assert "Traceback" not in client.err
        assert not output.exists()
        assert list(output.parent.iterdir()), "what was here was thrown away"
        before = server.sent_bytes(SHARDS)
        server.set(SHARDS, bad.good())
        done = processes.run(*words, env=few)
        assert (done.returncode, done.stdout) == (0, f"{output}\n"), done.stderr
        assert server.sent_bytes(SHARDS) - before < 11 * MB, "what was here was fetched again"
    assert output.read_bytes() == published.payload
    assert list(output.parent.iterdir()) == [output]


# What is told ------------------------------------------------------------------------------------


def test_download_prints_json_or_nothing_else_when_quiet(
    server: BadServer, published: Published, tmp_path: Path
) -> None:
    output = tmp_path / "got.bin"
    words = ("client", "--servers", server.address, "--version", "v1", "--output-file", str(output))
    done = processes.run(*words, "--json")
    found = json.loads(done.stdout)
    assert found.pop("seconds") >= 0
    assert found.pop("received") == {server.url: 20 * MB}
    assert found == {
        "version": "v1", "path": str(output), "name": "data.payload", "kind": "file", "size": 20 * MB,
        "shards": 20, "sha256": published.sha256, "tags": [], "metadata": {},
    }  # fmt: skip
    output.unlink()
    quiet = processes.run(*words, "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, f"{output}\n", "")


def test_progress_is_plain_lines_without_terminal(published: Published, tmp_path: Path) -> None:
    seen: list[tuple[float, str]] = []
    with BadServer(published.data_dir).set(SHARDS, bad.throttled(1.75 * MB)) as server:
        words = ("client", "--servers", server.address, "--version", "v1")
        process = processes.Popen(
            processes.command(*words, "--output-file", str(tmp_path / "got.bin")),
            env=processes.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        reader = threading.Timer(120, process.kill)
        reader.start()
        try:
            with process:
                assert process.stdout and process.stderr
                seen.extend((time.monotonic(), line) for line in process.stderr)
                assert process.stdout.read() == f"{tmp_path / 'got.bin'}\n"
        finally:
            reader.cancel()
        assert process.returncode == 0, seen
    text = "".join(line for _, line in seen)
    assert "\x1b" not in text
    assert "\r" not in text
    told = [(at, line) for at, line in seen if "v1:" in line]
    assert len(told) >= 2, text
    for _, line in told:
        assert re.search(r"\d+% of 20\.0 MB at [\d.]+ [kM]?B/s, shard \d+/20", line), line
        assert server.address in line
    assert min(later[0] - sooner[0] for sooner, later in pairwise(told)) > 3, told


def on_a_terminal(columns: int, *words: str) -> tuple[int, str, str]:
    """Run a command with stderr on a terminal of this width: its exit code, stdout, and what was seen."""
    ours, theirs = pty.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        process = processes.Popen(
            processes.command(*words),
            env=processes.environment(TERM="xterm-256color", COLUMNS="", LINES=""),
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
            text=True,
        )
    finally:
        os.close(theirs)
    giving_up = threading.Timer(120, process.kill)
    giving_up.start()
    seen = bytearray()
    try:
        with contextlib.suppress(OSError):  # the terminal ends with the last who has it open
            while part := os.read(ours, 65536):
                seen += part
        stdout, _ = process.communicate()
    finally:
        giving_up.cancel()
        os.close(ours)
    return process.returncode, stdout, seen.decode()


@pytest.mark.parametrize("columns", [160, 80])
def test_bar_shows_bytes_rate_shards_and_servers_on_terminal(
    columns: int, published: Published, tmp_path: Path
) -> None:
    with BadServer(published.data_dir).set(SHARDS, bad.throttled(10 * MB)) as server:
        output = tmp_path / "got.bin"
        words = ("client", "--servers", server.address, "--version", "v1", "--output-file", str(output))
        code, stdout, seen = on_a_terminal(columns, *words)
    assert (code, stdout) == (0, f"{output}\n"), seen
    assert "\x1b[" in seen, "no bar"
    frames = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen))
    assert max(map(len, frames)) <= columns
    bar = r"v1 \[#*-*\] +\d+% of 20\.0 MB +[\d.]+ [kM]B/s .*shard \d+/20 +1 server"
    assert any(re.search(bar, frame) for frame in frames), "\n".join(frames)
    assert any(re.search(rf"{re.escape(server.address)} [\d.]+ [kM]B/s", frame) for frame in frames)


def test_broadcast_on_terminal_shows_bar_and_prints_version(tmp_path: Path) -> None:
    file = payload(tmp_path / "model.bin", 20 * MB)
    words = ("broadcast", str(file), "--data-dir", str(tmp_path / "data"), "--shard-size", "100kB")
    code, stdout, seen = on_a_terminal(160, *words)
    assert (code, stdout) == (0, "v1\n"), seen
    assert re.search(r"v1 model\.bin", seen), seen
    assert re.search(r"100% of 20\.0 MB .*200 shards", seen), seen
    assert on_a_terminal(160, *words, "--quiet") == (0, "v2\n", "")


# The demo ----------------------------------------------------------------------------------------


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment for a demo that must leave nothing behind: neither files nor processes."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("without /proc nobody can tell which processes are left")
    temporary, mark = tmp_path / "temporary", uuid.uuid4().hex
    temporary.mkdir()
    yield {"TMPDIR": str(temporary), "SHARDCAST_TEST_MARK": mark}
    try:
        processes.wait_until(
            lambda: not processes.processes_with_mark(mark), what="all processes of the demo to end"
        )
        assert list(temporary.iterdir()) == [], "files were left behind"
    finally:
        for pid in processes.processes_with_mark(mark):
            os.kill(pid, signal.SIGKILL)


def test_demo_makes_equal_copies_and_leaves_nothing_behind(demo: dict[str, str], tmp_path: Path) -> None:
    file = payload(tmp_path / "x.bin", 3 * MB)
    with running(tmp_path, "demo", str(file), "--json", SHARDCAST_TOKENS="/none", **demo) as shown:
        assert shown.process.wait(120) == DONE, shown.err
        results = json.loads(shown.out)
    assert (results["file"], results["size"], results["sha256"]) == (str(file), 3 * MB, sha256(file))
    assert [one["sha256"] for one in results["clients"]] == [sha256(file)] * 3
    assert [one["version"] for one in results["clients"]] == ["v1"] * 3
    for who in ("origin", "middle 1", "middle 2", "client 1", "client 2", "client 3"):
        assert re.search(rf"\b{who}\b", shown.err), f"{who} is not in:\n{shown.err}"
    assert file.exists()


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, "Listening on"),
        (signal.SIGINT, "fetching v1"),
        (signal.SIGINT, "client 3"),
        (signal.SIGINT, "has v1"),
        (signal.SIGTERM, "client 3"),
    ],
)
def test_interrupted_demo_leaves_nothing_behind(
    number: signal.Signals, moment: str, demo: dict[str, str], tmp_path: Path
) -> None:
    file = payload(tmp_path / "x.bin", 20 * MB)
    with running(tmp_path, "demo", str(file), **demo) as shown:
        shown.wait_for(moment)
        assert shown.end(number) == INTERRUPTED, shown.err
        assert shown.out == ""
        assert "Traceback" not in shown.err


def test_log_goes_to_a_file_as_json_with_requests_at_debug(tmp_path: Path) -> None:
    path = tmp_path / "log"
    words = ("--log-format", "json", "--log-file", str(path), "--log-level", "debug")
    with processes.origin(tmp_path / "data", *words) as origin:
        assert processes.run("client", "--servers", origin.url, "--list").returncode == 0
        assert "DEBUG" not in origin.log
        assert origin.stop() == 0
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    requests = [row["message"] for row in rows if row["logger"] == "shardcast.access_log"]
    assert any("GET /feed: 200" in message for message in requests), rows
