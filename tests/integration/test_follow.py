"""Clients that stay and take each new version: ``shardcast-client --follow`` and ``Client.follow()``."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shardcast import Client, LocalDiskError, UsageError
from tests.support import bad_answers as bad
from tests.support import legacy, processes
from tests.support.bad_answers import gate
from tests.support.bad_servers import BadServer, dead_address
from tests.support.legacy import OldShardcast, listed
from tests.support.processes import processes_with_mark, wait_until
from tests.support.published import Published, publish, random_bytes, sha256

old = legacy.old

KB, MB = 1000, 1_000_000
ENDED, USAGE, DISK, INTERRUPTED = 0, 2, 6, 130
LIST, FEED = "/distribution.txt", "/feed"
ASKING = {"SHARDCAST_CHECK_INTERVAL": "0.1"}
"""For a follower of servers that have no feed."""
HASTY = {**ASKING, "SHARDCAST_RETRY_ATTEMPTS": "1"}
TOLD = {"SHARDCAST_CHECK_INTERVAL": "600"}
"""For one that must not need to ask."""
RARELY = ("--check-interval", "600")
SOON = 5.0  # "within a few seconds"
KILLS = 5


@dataclass
class Follower:
    """A following client as a process; what it wrote so far lies in files."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    @property
    def said(self) -> list[dict[str, Any]]:
        """What it wrote on stdout: nothing but lines of JSON."""
        return [
            json.loads(line) for line in self.out.read_text().splitlines(keepends=True) if line[-1] == "\n"
        ]

    @property
    def versions(self) -> list[str]:
        return [one["version"] for one in self.said]

    @property
    def log(self) -> str:
        return self.err.read_text()

    def wait_for(self, *versions: str, timeout: float = 30) -> None:
        """Wait until it told of this version; then it has told of these, and no others."""
        wait_until(
            lambda: versions[-1] in self.versions or self.process.poll() is not None,
            timeout,
            f"{versions[-1]} after {self.versions}:\n{self.log}",
        )
        assert self.versions == list(versions), self.log

    def wait_for_log(self, text: str) -> None:
        wait_until(
            lambda: text in self.log or self.process.poll() is not None, what=f"{text!r} in:\n{self.log}"
        )
        assert text in self.log

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


@contextlib.contextmanager
def follower(
    servers: str, folder: Path, *words: str, env: Mapping[str, str] = ASKING, cwd: Path | None = None
) -> Iterator[Follower]:
    """Follow the servers into a folder; at the end it must still run, unless it was ended."""
    place = folder.parent / f"said-{uuid.uuid4().hex[:8]}"
    place.mkdir(parents=True)
    out, err = place / "out", place / "err"
    arguments = ("client", "--follow", "--servers", servers, "--output-dir", str(folder), *words)
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = processes.Popen(
            processes.command(*arguments),
            env=processes.environment(**env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
        )
    one = Follower(process, out, err)
    try:
        yield one
        assert process.poll() in (None, ENDED, INTERRUPTED, -signal.SIGKILL), one.log
        assert "Traceback" not in one.log
    finally:
        process.kill()
        process.wait(30)


@dataclass
class Source:
    """A data directory to which versions are added, and a server without a feed over it."""

    data_dir: Path
    server: BadServer
    size: int = 300 * KB
    published: int = 0

    @property
    def url(self) -> str:
        return self.server.url

    def publish(self) -> Published:
        """The next version, in three shards."""
        self.published += 1
        return publish(self.data_dir, random_bytes(self.size, self.published), self.size // 3)

    def digest(self, number: int) -> str:
        """Of a version, also of one that is yet to come."""
        return hashlib.sha256(random_bytes(self.size, number)).hexdigest()

    def wait_for_looks(self, looks: int = 3) -> None:
        """Wait until whoever asks has read the list a few times more."""
        enough = self.server.requested(LIST) + looks
        wait_until(lambda: self.server.requested(LIST) >= enough, what="a few looks at the list")


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Source]:
    data_dir = tmp_path / "source"
    data_dir.mkdir()
    with BadServer(data_dir) as server:
        yield Source(data_dir, server)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "here" / "downloads"


@pytest.fixture
def port() -> Iterator[str]:
    """A port for an origin that comes, or comes back."""
    with processes.reserved_port() as port:
        yield str(port)


def broadcast(data_dir: Path, seed: int, size: int = 300 * KB) -> str:
    """Publish into a directory on which an origin may run; the digest."""
    file = data_dir.with_name(f"payload-{seed}.bin")
    file.write_bytes(random_bytes(size, seed))
    done = processes.run("broadcast", str(file), "--data-dir", str(data_dir), "--shard-size", "100kB")
    assert done.returncode == 0, done.stderr
    return sha256(file)


def files(folder: Path) -> set[str]:
    """Names in a folder, but for the records that a follower keeps there (test_outputs.py)."""
    names = {entry.name for entry in folder.iterdir()}
    kept = (".record", ".manifest")
    records = {f".{name}{end}" for name in names if name.startswith("download_") for end in kept}
    return names - records - {".shardcast-lines", ".shardcast-lines.lock", ".shardcast-hook.lock"}


@pytest.fixture
def mark() -> Iterator[str]:
    """A mark for processes of which none may be left."""
    if not Path("/proc/self/environ").exists():
        pytest.skip("without /proc nobody can tell which processes are left")
    mark = uuid.uuid4().hex
    yield mark
    for pid in processes_with_mark(mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


# What is done for a version ----------------------------------------------------------------------


def test_version_is_stored_linked_hooked_and_printed_in_order(
    source: Source, folder: Path, tmp_path: Path
) -> None:
    hooked = tmp_path / "hooked"
    look = (
        "echo noise; set -- $(sha256sum < {path}) $(readlink "
        f"{folder}/latest) $(cat {tmp_path}/here/said-*/out | wc -l); "
        f'echo {{version}} {{path}} "$1" "$3" "$4" >> {hooked}'
    )
    given = [source.publish()]
    with follower(source.url, folder, "--keep", "all", "--exec", look) as one:
        one.wait_for("v1")
        for versions in (("v1", "v2"), ("v1", "v2", "v3")):
            given.append(source.publish())
            one.wait_for(*versions)
    for number, (line, right) in enumerate(zip(hooked.read_text().splitlines(), given, strict=True)):
        name = f"download_{right.version}.bin"
        assert line == f"{right.version} {folder / name} {right.sha256} {name} {number}"
        assert sha256(folder / name) == right.sha256
        told = one.said[number]
        assert told.pop("seconds") >= 0
        assert told.pop("received") == {source.url: source.size}
        assert told == {
            "version": right.version, "path": str(folder / name), "name": "source.payload", "kind": "file",
            "size": source.size, "shards": 3, "sha256": right.sha256, "tags": [], "metadata": {},
            "origin": right.manifest.header.origin, "new_line": False,
        }  # fmt: skip
    assert one.log.count("noise\n") == 3
    assert (folder / "latest").readlink() == Path("download_v3.bin")
    assert files(folder) == {"download_v1.bin", "download_v2.bin", "download_v3.bin", "latest"}


def test_latest_is_unchanged_until_last_byte_is_verified(source: Source, folder: Path) -> None:
    source.publish()
    opened = threading.Event()
    with follower(source.url, folder) as one:
        one.wait_for("v1")
        source.server.set("/v2/shard_003.bin", gate(opened))
        source.publish()
        wait_until(lambda: source.server.requested("/v2/shard_003.bin") > 0, what="v2 to be under way")
        assert (folder / "latest").readlink() == Path("download_v1.bin")
        assert not (folder / "download_v2.bin").exists()
        opened.set()
        one.wait_for("v1", "v2")
        assert (folder / "latest").readlink() == Path("download_v2.bin")


@pytest.mark.parametrize(
    "name",
    ["-n it's \"quoted\"", "$(touch pwned) `touch pwned`; touch pwned", "two\nlines",
     "{version} {path} \\1 \\n %s *", "caf\udce9"],
    ids=["quotes", "commands", "newline", "placeholders", "not-utf-8"],
)  # fmt: skip
def test_output_folder_may_have_any_name(name: str, source: Source, tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    hook = (
        "printf %s {path} > path; printf %s {version} > version; pwd > cwd; printf %s '{} {x} {Path}' > rest"
    )
    source.publish()
    with follower(source.url, tmp_path / "out", "--output-dir", name, "--exec", hook, cwd=start) as one:
        one.wait_for("v1")
    path = start / name / "download_v1.bin"
    assert one.said[0]["path"] == str(path)
    assert (start / "path").read_bytes() == os.fsencode(path)
    assert (start / "version").read_text() == "v1"
    assert (start / "cwd").read_text() == f"{start}\n"
    assert (start / "rest").read_text() == "{} {x} {Path}"
    assert files(start) == {"path", "version", "cwd", "rest", name}, "the name was run as a command"


@pytest.mark.parametrize(
    ("hook", "told"),
    [
        ("exit 7", "exit code 7"),
        ("no-such-program-anywhere", "exit code 127"),
        ("kill -KILL $$", "SIGKILL"),
        ("kill -35 $$", "35"),
    ],
    ids=["exit-code", "missing", "killed", "real-time-signal"],
)
def test_failed_hook_is_logged_and_following_continues(
    hook: str, told: str, source: Source, folder: Path
) -> None:
    source.publish()
    with follower(source.url, folder, "--exec", hook) as one:
        one.wait_for("v1")
        assert "the hook for v1" in one.log
        assert told in one.log
        source.publish()
        one.wait_for("v1", "v2")
        assert "the hook for v2" in one.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("hook", ["exec sleep 600", "sleep 600; true"], ids=["one", "child-of-the-shell"])
def test_hanging_hook_ends_with_the_client(
    hook: str, number: signal.Signals, source: Source, folder: Path, mark: str
) -> None:
    source.publish()
    with follower(
        source.url, folder, "--exec", f"echo hanging >&2; {hook}", env={**ASKING, "MARK": mark}
    ) as one:  # fmt: skip
        one.wait_for_log("hanging")
        assert one.end(number) == (INTERRUPTED if number == signal.SIGINT else ENDED)
        assert one.said == []
        wait_until(lambda: not processes_with_mark(mark), what="the hook's processes to end")


@pytest.mark.parametrize("impatient", [False, True], ids=["asked-once", "asked-twice"])
def test_hook_ignoring_signals_is_killed(impatient: bool, source: Source, folder: Path, mark: str) -> None:
    source.publish()
    hook = "trap '' TERM INT; echo hanging >&2; while :; do sleep 0.2; done"
    with follower(source.url, folder, "--exec", hook, env={**ASKING, "MARK": mark}) as one:
        one.wait_for_log("hanging")
        one.process.send_signal(signal.SIGINT)
        if impatient:
            time.sleep(0.3)
            one.process.send_signal(signal.SIGINT)
        assert one.process.wait(30) == INTERRUPTED
        wait_until(lambda: not processes_with_mark(mark), what="the hook's processes to end")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("moment", ["waiting", "unreachable", "receiving"])
def test_follower_ends_on_signal(moment: str, number: signal.Signals, source: Source, folder: Path) -> None:
    with dead_address() as dead:
        if moment == "receiving":
            source.server.set("/v1/shard_003.bin", bad.stall(10))
            source.publish()
        servers = dead if moment == "unreachable" else source.url
        with follower(servers, folder) as one:
            if moment == "waiting":
                source.wait_for_looks()
            elif moment == "unreachable":
                one.wait_for_log("no server could be reached")
            else:
                wait_until(lambda: source.server.requested("/v1/shard_003.bin") > 0)
            begun = time.monotonic()
            assert one.end(number) == (INTERRUPTED if number == signal.SIGINT else ENDED), one.log
            assert time.monotonic() - begun < 3  # it waits longer for a server
    assert one.said == []


def test_keep_removes_only_older_versions(source: Source, folder: Path) -> None:
    folder.mkdir(parents=True)
    others = {
        "download_v1.bin.bak", "download_v01.bin", "download_vx.bin", "my_download_v1.bin", "download_v1.txt",
        "model.bin", ".hidden", "v1",
    }  # fmt: skip
    for name in others:
        (folder / name).touch()
    for _ in range(4):
        source.publish()
    with follower(source.url, folder, "--from", "v1", "--every", "--keep", "2") as one:
        one.wait_for("v1", "v2", "v3", "v4")
        assert files(folder) == others | {"download_v3.bin", "download_v4.bin", "latest"}
        right = source.publish()
        one.wait_for("v1", "v2", "v3", "v4", "v5")
    assert files(folder) == others | {"download_v4.bin", "download_v5.bin", "latest"}
    assert sha256(folder / "latest") == right.sha256


def test_keep_does_not_remove_folder_with_version_name(source: Source, folder: Path) -> None:
    (folder / "download_v1.bin").mkdir(parents=True)
    (folder / "download_v1.bin" / "mine").touch()
    for _ in range(3):
        source.publish()
    with follower(source.url, folder, "--from", "v2", "--every", "--keep", "1") as one:
        one.wait_for("v2", "v3")
    assert files(folder) == {"download_v1.bin", "download_v3.bin", "latest"}


# Which versions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), ("v3", "v4")),
        (("--from", "latest"), ("v3", "v4")),
        (("--from", "v2"), ("v3", "v4")),
        (("--from", "v2", "--every"), ("v2", "v3", "v4")),
        (("--from", "v4"), ("v4",)),
    ],
    ids=lambda value: "_".join(value).replace("--", ""),
)
def test_from_selects_the_first_version(
    words: tuple[str, ...], expected: tuple[str, ...], source: Source, folder: Path
) -> None:
    for _ in range(3):
        source.publish()
    with follower(source.url, folder, *words) as one:
        if expected[0] == "v4":
            source.wait_for_looks()
        else:
            one.wait_for(*expected[:-1])
        source.publish()
        one.wait_for(*expected)


def test_restarted_follower_continues_after_latest(source: Source, folder: Path) -> None:
    source.publish()
    with follower(source.url, folder) as one:
        one.wait_for("v1")
        assert one.end() == ENDED
    with follower(source.url, folder) as again:
        source.wait_for_looks()
        assert again.said == [], "it told of the same again"
        source.publish()
        again.wait_for("v2")
        assert again.end() == ENDED
    for _ in range(2):
        source.publish()
    with follower(source.url, folder, "--every") as late:
        late.wait_for("v3", "v4")
        assert late.end() == ENDED
    before = source.server.sent_bytes("/v4/shard_*")
    with follower(source.url, folder, "--from", "latest") as asked:
        asked.wait_for("v4")
    assert sha256(folder / "latest") == sha256(folder / "download_v4.bin")
    assert source.server.sent_bytes("/v4/shard_*") == before, "what is here was fetched again"


@pytest.mark.parametrize("lost", ["the file", "the link"])
def test_restarted_follower_without_latest_takes_newest(lost: str, source: Source, folder: Path) -> None:
    source.publish()
    with follower(source.url, folder) as one:
        one.wait_for("v1")
        assert one.end() == ENDED
    (folder / ("latest" if lost == "the link" else "download_v1.bin")).unlink()
    with follower(source.url, folder) as again:
        again.wait_for("v1")
    assert (folder / "latest").readlink() == Path("download_v1.bin")
    assert (folder / "download_v1.bin").is_file()


@pytest.mark.parametrize("every", [False, True], ids=["newest", "every"])
def test_started_version_is_finished_before_newer_ones(every: bool, source: Source, folder: Path) -> None:
    source.publish()
    opened = threading.Event()
    source.server.set("/v1/shard_003.bin", gate(opened))
    with follower(source.url, folder, *["--every"] * every) as one:
        wait_until(lambda: source.server.requested("/v1/shard_003.bin") > 0, what="v1 to be under way")
        for _ in range(3):
            source.publish()
        source.wait_for_looks()
        assert source.server.requested("/v4/*") == 0, "it began another one meanwhile"
        opened.set()
        one.wait_for("v1", *["v2", "v3"] * every, "v4")
    assert every or source.server.requested("/v[23]/*") == 0


def test_newer_versions_wait_while_hook_runs(source: Source, folder: Path, tmp_path: Path) -> None:
    source.publish()
    go_on = tmp_path / "go on"
    hook = f"echo hooked >&2; until test -e {shlex.quote(str(go_on))}; do sleep 0.05; done"
    with follower(source.url, folder, "--exec", hook) as one:
        one.wait_for_log("hooked")
        for _ in range(2):
            source.publish()
        source.wait_for_looks()
        assert (folder / "latest").readlink() == Path("download_v1.bin")
        assert one.said == []
        go_on.touch()
        one.wait_for("v1", "v3")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["told to end", "killed"])
def test_interrupted_hook_runs_again_but_finished_one_does_not(
    number: signal.Signals, source: Source, folder: Path, mark: str, tmp_path: Path
) -> None:
    """Whoever loads what is announced gets every version that ``latest`` names."""
    source.publish()
    env = {**ASKING, "MARK": mark}
    hook = f"echo $$ > {tmp_path}/pid; echo hooked >&2; exec sleep 600"
    with follower(source.url, folder, "--exec", hook, env=env) as one:
        one.wait_for_log("hooked")
        assert (folder / "latest").readlink() == Path("download_v1.bin")
        one.end(number)
        with contextlib.suppress(ProcessLookupError):  # it would keep the next one waiting
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        assert one.said == []
    sent = source.server.sent_bytes("/v1/shard_*")
    with follower(source.url, folder, "--exec", "echo hooked {version} {path} >&2; exit 7") as again:
        again.wait_for("v1")
        assert again.log.count(f"hooked v1 {folder}/download_v1.bin\n") == 1
        assert again.end() == ENDED
    assert source.server.sent_bytes("/v1/shard_*") == sent, "what is here was fetched again"
    with follower(source.url, folder, "--exec", "echo hooked {version} >&2") as last:
        source.wait_for_looks()
        assert last.log.count("hooked v1") == 0, "it had ended, though with an error"
        source.publish()
        last.wait_for("v2")
        assert last.log.count("hooked v2\n") == 1
    assert files(folder) == {"download_v1.bin", "download_v2.bin", "latest"}


# Servers that come, go and lie -------------------------------------------------------------------


def test_follower_may_start_before_servers_and_versions(folder: Path, tmp_path: Path, port: str) -> None:
    with (
        dead_address() as dead,
        follower(f"{dead},127.0.0.1:{port}", folder, env=TOLD) as one,
    ):
        one.wait_for_log("no server could be reached")
        with processes.origin(tmp_path / "data", "--port", port) as origin:
            # It reads the list once it is there, and follows from then on.
            assert listed(origin.url) == {}
            given = broadcast(tmp_path / "data", 1)
            one.wait_for("v1")
            assert sha256(folder / "latest") == given
            assert one.log.count("no server could be reached") == 1, "once is enough"


def test_no_version_is_lost_or_repeated_when_origin_restarts(folder: Path, tmp_path: Path, port: str) -> None:
    data_dir = tmp_path / "data"
    broadcast(data_dir, 1)
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(follower(f"127.0.0.1:{port}", folder, "--from", "v1", "--every", env=TOLD))
        for seed in (2, 4):
            with processes.origin(data_dir, "--port", port) as origin:
                one.wait_for(*(f"v{number}" for number in range(1, seed)))
                broadcast(data_dir, seed)
                one.wait_for(*(f"v{number}" for number in range(1, seed + 1)))
                origin.kill()
            newest = broadcast(data_dir, seed + 1)  # while none runs
        with processes.origin(data_dir, "--port", port):
            one.wait_for("v1", "v2", "v3", "v4", "v5")
    assert sha256(folder / "latest") == newest


def test_download_continues_when_origin_returns_after_death(folder: Path, tmp_path: Path, port: str) -> None:
    data_dir = tmp_path / "data"
    given = broadcast(data_dir, 1, 60 * MB)
    last, away = data_dir / "v1" / "shard_600.bin", tmp_path / "shard_600.bin"
    with contextlib.ExitStack() as stack:
        with processes.origin(data_dir, "--port", port) as origin:
            last.rename(away)  # nobody can be done before it dies
            one = stack.enter_context(follower(origin.url, folder, env=TOLD))
            part = folder / ".download_v1.bin.part"
            wait_until(lambda: part.exists() and part.stat().st_blocks * 512 > MB, what="v1 to be under way")
            origin.kill()
        assert one.said == [], "it was too fast to be interrupted"
        away.rename(last)
        with processes.origin(data_dir, "--port", port):
            one.wait_for("v1")
    assert sha256(folder / "latest") == given


@pytest.mark.legacy
def test_follower_polls_old_origin(old: OldShardcast, folder: Path, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    payloads = [tmp_path / f"payload-{number}.bin" for number in (1, 2)]
    for number, payload in enumerate(payloads):
        payload.write_bytes(random_bytes(300 * KB, number))
    old.broadcast(data_dir, payloads[0], shard_size=100 * KB)
    with old.origin(data_dir) as origin, follower(origin.url, folder) as one:
        one.wait_for("v1")
        old.broadcast(data_dir, payloads[1], shard_size=100 * KB)
        one.wait_for("v1", "v2")
        assert [sha256(folder / f"download_v{number}.bin") for number in (1, 2)] == [*map(sha256, payloads)]


@pytest.mark.parametrize("middles", [0, 2])
def test_news_comes_by_feed_through_middles(middles: int, folder: Path, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        nearest = stack.enter_context(processes.origin(tmp_path / "data"))
        for number in range(middles):
            again = processes.middle(nearest.url, tmp_path / f"middle-{number}", *RARELY)
            nearest = stack.enter_context(again)
        one = stack.enter_context(follower(nearest.url, folder, env=TOLD))
        for number in (1, 2):
            given = broadcast(tmp_path / "data", number)
            one.wait_for(*("v1", "v2")[:number], timeout=SOON)
            assert sha256(folder / "latest") == given


def test_feed_brings_news_beside_server_without_feed(source: Source, folder: Path, tmp_path: Path) -> None:
    with processes.origin(source.data_dir) as origin:
        with follower(f"{origin.url},{source.url}", folder, env=TOLD) as one:
            wait_until(lambda: source.server.requested(FEED) > 0, what="the static server to be asked")
            for number in (1, 2):
                broadcast(source.data_dir, number)
                one.wait_for(*("v1", "v2")[:number], timeout=SOON)
        assert source.server.requested(LIST) <= 2, "it was asked far too often"


@pytest.mark.parametrize("every", [False, True], ids=["newest", "every"])
def test_corrupt_version_does_not_end_following(every: bool, source: Source, folder: Path) -> None:
    source.publish()
    source.server.set("/v2/shard_002.bin", bad.flipped(7))
    with follower(source.url, folder, *["--every"] * every, env=HASTY) as one:
        one.wait_for("v1")
        source.publish()
        one.wait_for_log("v2")
        assert (folder / "latest").readlink() == Path("download_v1.bin")
        right = source.publish()
        one.wait_for("v1", "v3")
        assert sha256(folder / "latest") == right.sha256
        assert not (folder / "download_v2.bin").exists()


@pytest.mark.parametrize(("lie", "every"), [("lacking", False), ("lacking", True), ("silent", False)])
def test_server_listing_missing_versions_does_not_block_others(
    lie: str, every: bool, source: Source, folder: Path, tmp_path: Path
) -> None:
    """Its versions are newer than all that will ever be."""
    listed = "".join(f"v{10**17 + number}: {'ab' * 32}|3\n" for number in range(20))
    with BadServer(tmp_path) as liar:
        liar.set("*", bad.silent() if lie == "silent" else bad.error(404))
        liar.set(FEED, bad.error(404)).set(LIST, bad.replaced(listed.encode()))
        source.publish()
        patient = {**ASKING, "SHARDCAST_HTTP_TIMEOUT": "150"}  # nothing comes of waiting for the liar
        with follower(f"{source.url},{liar.url}", folder, *["--every"] * every, env=patient) as one:
            one.wait_for("v1")
            source.publish()
            one.wait_for("v1", "v2")


def test_repaired_version_is_fetched_without_news(source: Source, folder: Path) -> None:
    source.server.set("/v1/shard_002.bin", bad.flipped(7))
    right = source.publish()
    with follower(source.url, folder, env=HASTY) as one:
        wait_until(lambda: source.server.requested("/v1/shard_002.bin") > 3, what="it to be tried again")
        assert one.log.count("tried again") == 1, "once is enough"
        source.server.set("/v1/shard_002.bin", bad.good())
        one.wait_for("v1")
        assert sha256(folder / "latest") == right.sha256


# Kills -------------------------------------------------------------------------------------------


def test_latest_is_right_after_kill_at_any_moment(source: Source, folder: Path) -> None:
    source.size = 3 * MB
    source.server.set("/v*/shard_*", bad.throttled(8 * MB))
    right = {"download_v1.bin": source.publish().sha256}
    dice = random.Random(20240607)
    wrong: list[str] = []
    ended = threading.Event()

    def watch() -> None:
        link, name = folder / "latest", ""
        while not ended.wait(0.002):
            try:
                name = str(link.readlink())
                digest = sha256(link.parent / name)
            except FileNotFoundError:
                if not name or str(link.readlink()) != name:
                    continue  # there is no link yet, or it has moved on since it was read
                digest = "missing"
            if digest != right.get(name):
                wrong.append(f"{name}: {digest}")

    watcher = threading.Thread(target=watch)
    watcher.start()
    told: list[str] = []
    try:
        for _ in range(KILLS):
            with follower(source.url, folder, "--keep", "3") as one:
                at = time.monotonic() + dice.uniform(0.2, 1.2)
                while time.monotonic() < at:
                    number = len(right) + 1
                    right[f"download_v{number}.bin"] = source.digest(number)
                    source.publish()
                    time.sleep(dice.uniform(0.05, 0.4))
                one.process.kill()
                one.process.wait(10)
            told += one.versions
        newest = f"v{len(right) + 1}"
        right[f"download_{newest}.bin"] = source.digest(len(right) + 1)
        source.publish()
        with follower(source.url, folder, "--keep", "3") as last:
            wait_until(lambda: newest in last.versions, what=f"{newest} at the end")
        assert (folder / "latest").readlink() == Path(f"download_{newest}.bin")
        told += last.versions
    finally:
        ended.set()
        watcher.join(10)
    assert wrong == []
    numbers = [int(version[1:]) for version in told]
    assert numbers == sorted(set(numbers)), "told twice, or out of order"
    kept = sorted(files(folder))
    assert len([name for name in kept if name.startswith("download_")]) <= 3, kept
    for name in kept:
        if name.startswith("download_"):
            assert sha256(folder / name) == right[name]


ANNOUNCING = """
import os
import sys
from pathlib import Path
from shardcast.protocol.manifest import Header, Manifest
from shardcast.nodes.release_folder import finish_announcing, start_announcing
from shardcast.nodes.outputs import OutputFolder
from shardcast.nodes.release import Release

outputs = OutputFolder(Path(sys.argv[1]))
for number in range(1, 101):
    path, part = outputs.folder / f"download_v{number}.bin", outputs.folder / f"part-{os.getpid()}"
    outputs.begin(path, "line", number)
    part.touch()
    file = part.stat()
    part.rename(path)
    outputs.record(path, "line", number, "0" * 64, file=file)
    header = Header(f"v{number}", "line", "model.bin")
    release = Release(header.version, path, Manifest(header, (), {"sha256": "0" * 64}), 0, {})
    start_announcing(outputs, release)
    finish_announcing(outputs, release, 3)
"""


def test_several_followers_may_share_a_folder(folder: Path) -> None:
    """As they do where a machine has a worker for each device. They meet at ``latest``, again and again."""
    folder.mkdir(parents=True)
    arguments = [sys.executable, "-c", ANNOUNCING, str(folder)]
    env = processes.environment()
    those = [subprocess.Popen(arguments, env=env, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [one.communicate(timeout=120)[1] for one in those]
    for process, words in zip(those, said, strict=True):
        usual = ("waiting for process ", f"{folder}: left here")  # until the other one has recorded it
        wrong = [line for line in words.splitlines() if not line.startswith(usual)]
        assert (process.returncode, wrong) == (0, [])
    assert (folder / "latest").readlink() == Path("download_v100.bin")
    kept = {f"download_v{number}.bin" for number in (98, 99, 100)}
    assert files(folder) == kept | {"latest"}, "three were kept, and nothing is left of the others"


# Wrong input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--follow", "--version", "v1"), "--follow"),
        (("--follow", "--list"), "--follow"),
        (("--follow", "--output-file", "x.bin"), "--output-dir"),
        (("--follow", "--from", "nonsense"), "nonsense"),
        (("--follow", "--from", "v0"), "v0"),
        (("--follow", "--from", "v01"), "v01"),
        (("--follow", "--keep", "0"), "--keep"),
        (("--version", "v1", "--exec", "true"), "--exec"),
        (("--list", "--keep", "3"), "--keep"),
        (("--version", "v1", "--from", "v1"), "--from"),
        (("--version", "v1", "--every"), "--every"),
    ],
    ids=lambda value: "_".join(value).replace("--", "") if isinstance(value, tuple) else "",
)
def test_conflicting_options_are_usage_errors(
    words: tuple[str, ...], named: str, source: Source, tmp_path: Path
) -> None:
    source.publish()
    done = processes.run("client", "--servers", source.url, *words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (USAGE, ""), done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert named in last
    assert "Traceback" not in done.stderr
    assert files(tmp_path) <= {"source"}


@pytest.mark.parametrize(
    "obstacle", ["a file", "no folder can be made", "latest is a file", "latest is a folder"]
)
def test_unusable_folder_ends_following(obstacle: str, source: Source, folder: Path, tmp_path: Path) -> None:
    source.publish()
    in_the_way = folder
    if obstacle == "a file":
        folder.parent.mkdir()
        folder.write_text("mine")
    elif obstacle == "no folder can be made":
        in_the_way = folder = Path("/proc/nobody/makes/this")
    else:
        folder.mkdir(parents=True)
        in_the_way = folder / "latest"
        in_the_way.mkdir() if obstacle == "latest is a folder" else in_the_way.write_text("mine")
    words = ("client", "--follow", "--servers", source.url, "--output-dir", str(folder))
    done = processes.run(*words, "--exec", "echo hooked", env=ASKING)
    assert (done.returncode, done.stdout) == (DISK, ""), done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert str(in_the_way) in last
    assert "hooked" not in done.stderr
    assert "Traceback" not in done.stderr
    if in_the_way.is_file():
        assert in_the_way.read_text() == "mine"


# The library -------------------------------------------------------------------------------------


async def test_program_iterates_releases_and_stops(source: Source, folder: Path) -> None:
    given = source.publish()
    before = asyncio.all_tasks()
    async with Client([source.url], folder) as client:
        releases = client.follow(check_interval=0.1)
        seen = []
        async for release in releases:
            seen.append((release.version, release.path, release.manifest.size, release.received))
            assert sha256(release.path) == given.sha256
            if len(seen) == 2:
                break
            given = await asyncio.to_thread(source.publish)
        await releases.aclose()
        assert asyncio.all_tasks() == before
    assert seen == [
        (f"v{number}", folder / f"download_v{number}.bin", source.size, {source.url: source.size})
        for number in (1, 2)
    ]
    under_way = {".latest-under-way"}  # the second was not taken to its end
    assert files(folder) == {"download_v1.bin", "download_v2.bin", "latest"} | under_way


async def test_cancelled_follow_leaves_no_task(source: Source, folder: Path) -> None:
    source.server.set("/v1/shard_003.bin", bad.stall(10))
    source.publish()
    before = asyncio.all_tasks()

    async def take(client: Client) -> None:
        async for _ in client.follow("v1"):
            raise AssertionError("there is none")

    async with Client([source.url], folder) as client:
        taking = asyncio.ensure_future(take(client))
        while not source.server.requested("/v1/shard_003.bin"):
            await asyncio.sleep(0.02)
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        assert asyncio.all_tasks() == before


async def test_program_gets_disk_errors_and_its_own(source: Source, tmp_path: Path) -> None:
    source.publish()
    (tmp_path / "file").touch()
    before = asyncio.all_tasks()
    async with Client([source.url], tmp_path / "file") as client:
        with pytest.raises(LocalDiskError, match="file"):
            await anext(client.follow(check_interval=0.1))
        with pytest.raises(UsageError, match="nonsense"):
            await anext(client.follow("nonsense"))
        assert asyncio.all_tasks() == before
