"""Nodes that are killed at random moments, and what a user still relies on then."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from hashlib import sha256
from pathlib import Path

from tests.support import bad_answers as bad
from tests.support import processes
from tests.support.bad_servers import BadServer, Exchange
from tests.support.payloads import cut
from tests.support.published import publish, random_bytes
from tests.support.watching import (
    Expected,
    Numbers,
    Watcher,
    assert_tidy,
    file_identity,
    listed,
    numbers_of,
    read_shard,
    read_whole,
    watch_folders,
)

KILLS = 10
MB = 1_000_000
PIECE = 256 * 1024
CONNECTIONS = 2
AT_ONCE = {"SHARDCAST_MAX_CONCURRENT_DOWNLOADS": str(CONNECTIONS)}
RATE = 15e6
"""Bytes a second of a throttled server, so that kills hit the middle of things."""
GARBAGE = b"\xa5" * (2 * MB)


# Nodes that are killed ---------------------------------------------------------------------------


class Mortal:
    """A node that is killed and started again, on the same port and data directory.

    ``life`` counts its starts; None while it is dead, or about to be.
    """

    def __init__(self, start: Callable[..., AbstractContextManager[processes.Node]], data_dir: Path) -> None:
        self.data_dir = data_dir
        self.life: int | None = None
        self._start = start
        self._lives = itertools.count(1)
        self._stack = contextlib.ExitStack()
        self._held = contextlib.ExitStack()  # the port, over all lives

    def start(self) -> None:
        node = self._stack.enter_context(self._start("--port", str(self._port)))
        self._node, self.url = node, node.url
        self.life = next(self._lives)

    def kill(self) -> None:
        assert self._node.process.poll() is None, f"it ended by itself:\n{self._node.log}"
        self.life = None
        self._node.kill()
        self._stack.close()

    def __enter__(self) -> Mortal:
        self._port = self._held.enter_context(processes.reserved_port())
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.life = None
        self._stack.close()
        self._held.close()


# Looking all along -------------------------------------------------------------------------------


def watch_served(node: Mortal, numbers: Numbers, chance: random.Random) -> Callable[[], None]:
    """What a node lists can be read from it and is right: all of a version when it is new, the newest
    again in each life, and all the time some shard of some version."""
    read: set[tuple[int, int]] = set()

    def look() -> None:
        life = node.life
        if life is None:
            return
        try:
            offered = listed(node.url)
            for number in offered:
                once = (life if number == max(offered) else 0, number)
                if once not in read:
                    read_whole(node.url, number, offered, numbers)
                    read.update({once, (0, number)})
            if offered:
                number = chance.choice(sorted(offered))
                read_shard(node.url, number, chance.randint(1, offered[number][1]), numbers)
        except (OSError, http.client.HTTPException) as error:
            if node.life == life:  # else it was killed meanwhile
                raise AssertionError(f"{node.url} lists what can't be read there: {error!r}") from error

    return look


def watch_output(output: Path, allowed: set[str]) -> Callable[[], None]:
    """An output is one of the allowed payloads whenever it exists, and never an older one again."""
    known: tuple[int, int, int] | None = None

    def look() -> None:
        nonlocal known
        with contextlib.suppress(FileNotFoundError):
            looks = file_identity(output)
            if known != looks:
                assert sha256(output.read_bytes()).hexdigest() in allowed, f"{output} holds a wrong byte"
                known = looks

    return look


# What crashes leave, and what must not be left ---------------------------------------------------


def leave_temporary_names(data_dir: Path) -> None:
    """What a crash at its worst moment leaves of the list and the counter."""
    (data_dir / ".shardcast").mkdir(parents=True, exist_ok=True)
    (data_dir / "distribution.txt.part").write_bytes(b"v1: 00")
    (data_dir / ".shardcast" / "next.part").write_bytes(b"1")


def leave_half_a_version(data_dir: Path, number: int) -> None:
    folder = data_dir / f"v{number}"
    folder.mkdir(parents=True)
    (folder / "shard_001.bin").write_bytes(GARBAGE)
    (folder / "shard_002.bin.part").write_bytes(GARBAGE[:1000])
    (folder / "manifest.jsonl").write_bytes(b'{"format": 1, "vers')


# What is fetched, and fetched again --------------------------------------------------------------


class Counting:
    """A throttled server that keeps which pieces it was asked for."""

    def __init__(self, server: BadServer) -> None:
        self.server = server
        self.asked: list[tuple[str, int]] = []
        throttled = bad.throttled(RATE)

        async def behave(exchange: Exchange) -> None:
            part = exchange.right_answer()
            end = part.start + len(part.body)
            # Appended in one step: the test's thread reads it.
            self.asked += [(exchange.path, index) for index in range(part.start // PIECE, -(-end // PIECE))]
            await throttled(exchange)

        server.set("/v*/shard_*", behave)

    @property
    def sent(self) -> int:
        return self.server.sent_bytes("/v*/shard_*")

    def asked_by_the_dead(self) -> int:
        """How many pieces were asked for so far, by one that was killed: its last requests come late."""
        processes.wait_until(lambda: self.server.idle, what="the connections of the dead to end")
        return len(self.asked)

    def assert_nothing_again(self, here: set[tuple[str, int]], since: int) -> None:
        """No piece that was here was asked for after that."""
        again = here.intersection(self.asked[since:])
        assert not again, f"{len(again)} pieces that were verified were fetched again: {sorted(again)[:5]}"


def right_pieces(data: bytes, payload: bytes, path: str, offset: int) -> Iterator[tuple[str, int]]:
    """The pieces of a shard that ``data`` has right; ``offset`` is the shard's in the payload."""
    for index, start in enumerate(range(0, len(data), PIECE)):
        piece = data[start : start + PIECE]
        if piece == payload[offset + start : offset + start + len(piece)]:
            yield path, index


def whole_shards(payload: bytes, other: bytes, version: str, shard_size: int) -> set[tuple[str, int]]:
    """The pieces of a version's shards that another payload has at the same place."""
    found: set[tuple[str, int]] = set()
    for number, (shard, known) in enumerate(
        zip(cut(payload, shard_size), cut(other, shard_size), strict=False), 1
    ):
        if shard == known:
            found |= {(shard_path(version, number), index) for index in range(-(-len(shard) // PIECE))}
    return found


def shard_path(version: str, number: int) -> str:
    return f"/{version}/shard_{number:03d}.bin"


def in_flight(kills: int) -> int:
    """Bytes that so many kills may cost: the piece under way of each connection, and as much again in the
    buffers between the two."""
    return kills * CONNECTIONS * 2 * PIECE


# The tests ---------------------------------------------------------------------------------------


def test_killed_origin_loses_and_confuses_no_version(tmp_path: Path) -> None:
    chance = random.Random(101)
    data_dir, file = tmp_path / "origin", tmp_path / "model.bin"
    numbers = Numbers()
    published: set[int] = set()
    cut_short = 0
    leave_temporary_names(data_dir)
    leave_half_a_version(data_dir, 9)

    def begin(seed: int) -> subprocess.Popen[str]:
        # Some of it is as before, so that shards are linked as well as written.
        payload = random_bytes(5 * MB) + random_bytes(15 * MB + seed, seed)
        numbers.current = Expected.of(payload, MB)
        file.write_bytes(payload)
        return processes.Popen(
            processes.command("broadcast", str(file), "--data-dir", str(data_dir), "--shard-size", "1MB"),
            env=processes.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(broadcast: subprocess.Popen[str]) -> bool:
        stdout, stderr = broadcast.communicate(timeout=60)
        assert (broadcast.returncode == 0) == (stdout != ""), (stdout, stderr)
        assert "Traceback" not in stderr
        opened = numbers_of(data_dir) | {int(line[1:]) for line in stdout.split()}
        for number in sorted(opened - set(numbers.published)):
            numbers.record(number)
        if stdout:
            published.add(int(stdout[1:]))
            assert numbers.published[int(stdout[1:])] is numbers.current
        return bool(stdout)

    def start_origin(*words: str) -> AbstractContextManager[processes.Node]:
        return processes.origin(data_dir, *words)

    def start_middle(*words: str) -> AbstractContextManager[processes.Node]:
        return processes.middle(origin.url, tmp_path / "middle", "--check-interval", "0.2", *words)

    with Mortal(start_origin, data_dir) as origin, Mortal(start_middle, tmp_path / "middle") as middle:
        with Watcher(
            watch_folders(data_dir, numbers),
            watch_served(origin, numbers, random.Random(102)),
            watch_folders(middle.data_dir, numbers),
            watch_served(middle, numbers, random.Random(103)),
        ) as watcher:
            broadcast = begin(2)
            processes.wait_until(lambda: numbers_of(data_dir), what="the first version to open")
            opened = time.monotonic()
            assert end(broadcast)
            takes = time.monotonic() - opened
            assert published == {10}, "the number of half a version was used again"
            for kill in range(KILLS):
                broadcast = begin(3 + kill)
                if kill % 4 < 3:  # while it publishes
                    processes.wait_until(
                        lambda: numbers_of(data_dir) - set(numbers.published), what="the version to open"
                    )
                    time.sleep(chance.uniform(0, takes))
                    origin.kill()
                    late = end(broadcast)
                    cut_short += not late
                    if late:  # perhaps the first one took unusually long
                        takes /= 2
                else:  # between
                    assert end(broadcast)
                    time.sleep(chance.uniform(0, 0.2))
                    origin.kill()
                leave_temporary_names(data_dir)
                some = data_dir / f"v{chance.choice(sorted(published))}"
                (some / "shard_003.bin.part").write_bytes(GARBAGE)
                origin.start()
                assert published <= set(listed(origin.url)), "a version that was published is gone"
                watcher.check()
            assert end(begin(100))
            offered = set(listed(origin.url))
            processes.wait_until(lambda: set(listed(middle.url)) >= offered, what="the middle to have all")
        assert cut_short >= 2, f"only {cut_short} kills hit a version that was being published"
        assert_tidy(origin.url, origin.data_dir, numbers)
        # The middle has to hear first that what was being made is not made any more.
        processes.wait_until(lambda: numbers_of(middle.data_dir) == set(listed(middle.url)), what="the news")
        assert_tidy(middle.url, middle.data_dir, numbers)
        assert listed(middle.url) == listed(origin.url)


def test_killed_middle_resumes(tmp_path: Path) -> None:
    chance = random.Random(201)
    first = publish(tmp_path / "origin", random_bytes(20 * MB), MB)
    # Half of the next version is as before, and is not to be fetched at all.
    payloads = {"v1": first.payload, "v2": first.payload[: 10 * MB] + random_bytes(10 * MB, seed=2)}
    numbers = Numbers({number: Expected.of(payloads[f"v{number}"], MB) for number in (1, 2)})
    data_dir = tmp_path / "middle"
    leave_temporary_names(data_dir)
    leave_half_a_version(data_dir, 9)

    def here(version: str) -> set[tuple[str, int]]:
        found: set[tuple[str, int]] = set()
        for number in range(1, 21):
            for file in (data_dir / version).glob(f"shard_{number:03d}.bin*"):
                offset = (number - 1) * MB
                data = file.read_bytes()[:MB]
                found.update(right_pieces(data, payloads[version], shard_path(version, number), offset))
        return found

    def start(*words: str) -> AbstractContextManager[processes.Node]:
        return processes.middle(upstream.url, data_dir, "--check-interval", "0.2", *words, env={**AT_ONCE})

    with BadServer(first.data_dir) as upstream, Mortal(start, data_dir) as middle:
        counting = Counting(upstream)

        def kill_while_fetching(version: str, size: int, kills: int) -> None:
            begun = counting.sent
            for moment in sorted(chance.uniform(0.02, 0.95) * size for _ in range(kills)):
                processes.wait_until(
                    lambda moment=moment: counting.sent - begun >= moment, what=f"{moment:.0f} bytes"
                )
                time.sleep(chance.uniform(0, 0.04))
                middle.kill()
                verified, since = here(version), counting.asked_by_the_dead()
                leave_temporary_names(data_dir)
                leave_a_wrong_part(version)
                middle.start()
                checks.append((verified, since))
            processes.wait_until(lambda: version in versions(), what=f"{version} at the middle")
            for verified, since in checks:
                counting.assert_nothing_again(verified, since)
            again = counting.sent - begun - size
            assert again <= in_flight(kills), f"{again / MB:.1f} MB of {version} were fetched again"

        def leave_a_wrong_part(version: str) -> None:
            folder = data_dir / version
            missing = [
                number
                for number in range(1, 21)
                if folder.exists() and not list(folder.glob(f"shard_{number:03d}.bin*"))
            ]
            if missing:
                (folder / f"shard_{missing[-1]:03d}.bin.part").write_bytes(GARBAGE)

        def versions() -> list[str]:
            return [f"v{number}" for number in listed(middle.url)]

        checks: list[tuple[set[tuple[str, int]], int]] = []
        with Watcher(
            watch_folders(data_dir, numbers), watch_served(middle, numbers, random.Random(202))
        ) as watcher:
            kill_while_fetching("v1", 20 * MB, 6)
            watcher.check()
            # Between two versions.
            middle.kill()
            middle.start()
            assert versions() == ["v1"]
            since = len(counting.asked)
            publish(first.data_dir, payloads["v2"], MB)
            kill_while_fetching("v2", 10 * MB, KILLS - 7)
            shared = whole_shards(payloads["v2"], payloads["v1"], "v2", MB)
            counting.assert_nothing_again(shared | here("v1"), since)
        assert_tidy(middle.url, middle.data_dir, numbers)
        assert listed(middle.url) == listed(upstream.url)


def test_killed_client_resumes(tmp_path: Path) -> None:
    chance = random.Random(301)
    shard_size = 2 * MB  # large against a piece: were only whole shards kept, it would show in the count
    first = publish(tmp_path / "origin", random_bytes(24 * MB), shard_size)
    second = publish(first.data_dir, first.payload[: 12 * MB] + random_bytes(12 * MB + 7, seed=2), shard_size)
    output = tmp_path / "out" / "model.bin"
    part = output.with_name(".model.bin.part")
    output.parent.mkdir()
    part.write_bytes(GARBAGE * 15)
    part.with_name(".model.bin.part-2").write_bytes(GARBAGE)
    part.with_name(".model.bin.part-2.manifest").write_bytes(b'{"format": 1, "vers')
    allowed: set[str] = set()

    def client(version: str) -> subprocess.Popen[str]:
        words = ("--servers", server.address, "--version", version, "--output-file", str(output))
        return processes.Popen(
            processes.command("client", *words),
            env=processes.environment(**AT_ONCE),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def here(version: str, payload: bytes) -> set[tuple[str, int]]:
        if not part.exists():
            return set()
        found: set[tuple[str, int]] = set()
        for number, shard in enumerate(cut(part.read_bytes()[: len(payload)], shard_size), 1):
            path, offset = shard_path(version, number), (number - 1) * shard_size
            found.update(right_pieces(shard, payload, path, offset))
        return found

    with BadServer(first.data_dir) as server, Watcher(watch_output(output, allowed)) as watcher:
        counting = Counting(server)

        def fetch(version: str, payload: bytes, size: int, kills: int) -> None:
            """Fetch a version, killed again and again, of which ``size`` bytes are not here yet."""
            allowed.add(sha256(payload).hexdigest())
            begun = counting.sent
            checks: list[tuple[set[tuple[str, int]], int]] = []
            for moment in sorted(chance.uniform(0.02, 0.95) * size for _ in range(kills)):
                with client(version) as process:
                    processes.wait_until(
                        lambda moment=moment: counting.sent - begun >= moment, what=f"{moment:.0f} bytes"
                    )
                    time.sleep(chance.uniform(0, 0.04))
                    process.kill()
                checks.append((here(version, payload), counting.asked_by_the_dead()))
                watcher.check()
            with client(version) as process:
                _, stderr = process.communicate(timeout=60)
                assert process.returncode == 0, stderr
            assert output.read_bytes() == payload
            assert [file.name for file in output.parent.iterdir()] == [output.name], "something was left"
            for verified, since in checks:
                counting.assert_nothing_again(verified, since)
            again = counting.sent - begun - size
            assert again <= in_flight(kills), f"{again / MB:.1f} MB of {version} were fetched again"

        fetch("v1", first.payload, 24 * MB, 6)
        since = len(counting.asked)
        fetch("v2", second.payload, 12 * MB + 7, KILLS - 6)
        shared = whole_shards(second.payload, first.payload, "v2", shard_size)
        counting.assert_nothing_again(shared, since)
