"""Hooks and retention of ``shardcast-client --follow``, and of the library's follow."""

from __future__ import annotations

import asyncio
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

import pytest

from shardcast import Client, ClientNode, Release, UsageError
from tests.support import processes

Publish = Callable[..., str]


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[processes.Node]:
    with processes.origin(tmp_path / "data") as running:
        yield running


@pytest.fixture
def publish(origin: processes.Node, tmp_path: Path) -> Publish:
    def publish(content: str, *words: str, name: str = "model.pt") -> str:
        file = tmp_path / name
        file.write_text(content)
        done = processes.run("broadcast", str(file), "--data-dir", str(tmp_path / "data"), *words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return publish


@contextmanager
def follower(origin: processes.Node, out: Path, *words: str, fork: bool = True) -> Iterator[processes.Node]:
    arguments = processes.command(
        "client", "--servers", origin.url, "--output-dir", str(out), "--follow", *words
    )
    with processes.started(arguments, timeout=0.01, fork=fork) as running:
        yield running


def wait_for(gate: Path) -> str:
    """Return the shell's words for a wait until a file exists, which ends in any case."""
    return f"for _ in $(seq 600); do [ -e {gate} ] && break; sleep 0.05; done"


def versions(out: Path) -> list[str]:
    return sorted(path.name for path in out.glob("download_*.bin"))


def wait(condition: Callable[[], object], what: str) -> None:
    processes.wait_until(condition, what=what)


def test_follower_keeps_two_and_only_removes_what_followers_made(
    origin: processes.Node, publish: Publish, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    publish("1")
    processes.run("client", "--servers", origin.url, "--output-dir", str(out), "--version", "v1")
    (out / "download_v99.bin").write_text("a file of somebody's")
    with follower(origin, out) as running:
        for number in range(2, 6):  # v1 is fetched again, in its place, or overtaken
            publish(str(number))
            wait(lambda: (out / f"download_v{number}.bin").exists(), "the version")  # noqa: B023
        expected = [f"download_v{number}.bin" for number in (1, 4, 5, 99)]
        wait(lambda: versions(out) == expected, "the older ones to go")
        assert (
            running.log.count("no record says that a follower made them: download_v1.bin, download_v99.bin")
            == 1
        ), running.log
        assert running.stop() == 0, "SIGTERM is how a service ends"
    assert (out / "latest").readlink() == Path("download_v5.bin")


def test_hook_finds_what_it_needs_and_empty_stdin(
    origin: processes.Node, publish: Publish, tmp_path: Path
) -> None:
    out, seen = tmp_path / "out", tmp_path / "seen"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    script = (
        f"{{ env | grep ^SHARDCAST_ | sort; ulimit -Sn; cat; echo end; }} > {seen}.part; "
        f'cat "$SHARDCAST_PREVIOUS_PATH" >> {seen}.part 2>/dev/null; mv {seen}.part {seen}'
    )
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    try:
        with follower(origin, out, "--keep", "1", "--exec", script, fork=False):
            publish("one", "--tag", "best", "--metadata", "loss=0.1", name="model.pt")
            wait(seen.exists, "the hook")
            *variables, limit, end = seen.read_text().splitlines()
            assert (limit, end) == (str(min(soft, 512)), "end")
            assert variables == [
                "SHARDCAST_IN_HOOK=1",
                'SHARDCAST_METADATA={"loss": "0.1", "tags": ["best"]}',
                "SHARDCAST_NAME=model.pt",
                f"SHARDCAST_PATH={out}/download_v1.bin",
                "SHARDCAST_PREVIOUS_PATH=",
                "SHARDCAST_VERSION=v1",
            ]
            seen.unlink()
            publish("two")
            wait(seen.exists, "the hook")
            assert seen.read_text().endswith("end\none"), "the version before was gone while the hook ran"
            wait(lambda: versions(out) == ["download_v2.bin"], "it to go then")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("words", [(), ("--on-hook-failure", "stop")])
def test_failing_hook_goes_on_or_stops(
    words: tuple[str, ...], origin: processes.Node, publish: Publish, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    publish("1")
    with follower(origin, out, "--exec", "exit 7", *words) as running:
        if words:
            assert running.process.wait(30) == 1
            wait(lambda: "ended with exit code 7" in running.log, "the reason")
            assert (out / ".latest-under-way").is_symlink(), "the next run does not begin with it"
        else:
            running.wait_for_log("ended with exit code 7")
            publish("2")
            running.wait_for_log("the hook for v2 ended with exit code 7")


def test_hook_of_a_killed_follower_is_waited_for(
    origin: processes.Node, publish: Publish, tmp_path: Path
) -> None:
    out, log, gate = tmp_path / "out", tmp_path / "log", tmp_path / "gate"
    script = f"echo begin >> {log}; {wait_for(gate)}; echo end >> {log}"
    publish("1")
    # The first is left last: its log ends with the hook, which has it open.
    with follower(origin, out, "--exec", script) as first:
        wait(log.exists, "the hook")
        first.process.kill()
        with follower(origin, out, "--exec", script) as second:
            second.wait_for_log("waiting for a hook that runs for")
            assert log.read_text() == "begin\n"
            gate.touch()
            wait(lambda: log.read_text().count("end") == 2, "both")
            assert log.read_text().split() == ["begin", "end", "begin", "end"]


def test_process_that_a_hook_leaves_behind_keeps_no_other_waiting(
    origin: processes.Node, publish: Publish, tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    publish("1")
    with follower(origin, out, "--exec", f"sleep 20 >/dev/null 2>&1 & echo {{version}} >> {log}") as running:
        wait(log.exists, "the hook")
        publish("2")
        wait(lambda: log.read_text() == "v1\nv2\n", "the next hook")
        assert running.stop() == 0


async def test_library_keeps_versions_and_the_latest_link(
    origin: processes.Node, publish: Publish, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    async with Client(origin.url, out) as client:
        with pytest.raises(UsageError, match="keep=0"):
            await anext(client.follow(keep=0))
        async with asyncio.timeout(60), aclosing(client.follow(keep=1)) as releases:
            for number in range(1, 4):
                await asyncio.to_thread(publish, str(number))
                release = await anext(releases)
                assert (out / "latest").resolve() == release.path
            assert versions(out) == ["download_v2.bin", "download_v3.bin"], "v2 stays while v3 is taken"


def test_blocking_follow_keeps_versions(origin: processes.Node, publish: Publish, tmp_path: Path) -> None:
    out, taken = tmp_path / "out", list[Release]()
    for wrong in (0, -1, True, "2", 1.5):
        with pytest.raises(UsageError, match="keep="):
            ClientNode(origin.url, out).follow(taken.append, keep=wrong)  # type: ignore[arg-type]
    with ClientNode(origin.url, out).follow(taken.append, keep=1):
        for number in range(1, 4):
            publish(str(number))
            wait(lambda: len(taken) == number, "the version")  # noqa: B023
        wait(lambda: versions(out) == ["download_v3.bin"], "the older ones to go")
    assert (out / "latest").read_text() == "3"


async def test_library_follows_without_a_link_where_there_can_be_none(
    origin: processes.Node, publish: Publish, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "latest").write_text("somebody's")
    await asyncio.to_thread(publish, "1")
    async with Client(origin.url, out) as client, asyncio.timeout(60), aclosing(client.follow()) as releases:
        assert (await anext(releases)).version == "v1"
    assert (out / "latest").read_text() == "somebody's"
    assert "without the link 'latest'" in caplog.text


def test_interrupt_still_ends_with_130(origin: processes.Node, publish: Publish, tmp_path: Path) -> None:
    publish("1")
    with follower(origin, tmp_path / "out") as running:
        wait(lambda: versions(tmp_path / "out"), "the version")
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(30) == 130


def test_hook_has_time_to_end_at_sigterm(origin: processes.Node, publish: Publish, tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = f"trap 'echo ending >> {log}; exit' TERM; echo begin >> {log}; {wait_for(tmp_path / 'gate')}"
    publish("1")
    with follower(origin, tmp_path / "out", "--exec", script) as running:
        wait(log.exists, "the hook")
        assert running.stop() == 0
    assert log.read_text() == "begin\nending\n"


def test_nothing_goes_while_another_followers_hook_runs(
    origin: processes.Node, publish: Publish, tmp_path: Path
) -> None:
    out, begun, gate = tmp_path / "out", tmp_path / "begun", tmp_path / "gate"
    script = f"touch {begun}; {wait_for(gate)}"
    publish("1")
    with follower(origin, out, "--exec", script):
        wait(begun.exists, "the hook")
        with follower(origin, out, "--keep", "1") as other:
            for number in (2, 3):
                publish(str(number))
                wait(lambda: (out / "latest").read_text() == str(number), "the version")  # noqa: B023
            other.stop()
        assert "download_v1.bin" in versions(out), "its hook uses it"
        gate.touch()


def test_failing_hook_for_a_withdrawal_stops_and_is_repeated(
    origin: processes.Node, publish: Publish, tmp_path: Path
) -> None:
    out, told = tmp_path / "out", tmp_path / "told"
    words = f'echo {{version}} "$SHARDCAST_PREVIOUS_PATH" >> {told}; exit 3'
    script = f'[ -z "$SHARDCAST_WITHDRAWN" ] && exit; {words}'
    publish("1")
    with follower(origin, out, "--exec", script, "--on-hook-failure", "stop") as running:
        wait(lambda: versions(out), "v1")
        publish("2")
        wait(lambda: (out / "latest").read_text() == "2", "v2")
        done = processes.run("withdraw", "v2", "--data-dir", str(tmp_path / "data"))
        assert done.returncode == 0, done.stderr
        assert running.process.wait(30) == 1
        wait(lambda: "ended with exit code 3" in running.log, "the reason")
        assert "Traceback" not in running.log
    line = f"v1 {out}/download_v2.bin\n"
    assert told.read_text() == line
    with follower(origin, out, "--exec", script):
        wait(lambda: told.read_text() == 2 * line, "the next run to tell of it again")
