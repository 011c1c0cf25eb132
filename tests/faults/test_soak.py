"""A network in which any node may be killed at any moment, and what everybody still relies on in it.

``make test`` kills ten times, ``make soak`` a hundred times. ``SHARDCAST_SOAK_SEED`` repeats a run: who is
killed, and when after the broadcast began, is the same again."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import random
import re
import shutil
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.links import Links, Port, ShardRequest
from tests.support.payloads import cut
from tests.support.processes import wait_until
from tests.support.published import random_bytes, sha256
from tests.support.watching import (
    Expected,
    Numbers,
    Watcher,
    assert_tidy,
    file_identity,
    get,
    listed,
    numbers_of,
    watch_folders,
)

MB = 1_000_000
PIECE = 256 * 1024
KILLS = int(os.environ.get("SHARDCAST_SOAK_KILLS", "10"))
SEED = int(os.environ.get("SHARDCAST_SOAK_SEED", "9"))
VERSIONS = max(10, KILLS // 2)
SIZE = 12 * MB
SHARD = 3 * MB
CONNECTIONS = 2
RATE = 4e6
"""Bytes a second of each answer with bytes of a shard, so that kills hit the middle of things."""
WRITTEN = 6e6
"""Bytes a second of a version that is broadcast while it is made."""
LONGEST = 2.0
"""Seconds from a broadcast's beginning, or the kill before, to a kill: about as long as a version takes."""
IN_FLIGHT = 6 * PIECE
"""Bytes that an answer may have brought in vain, because it broke off, or lost its end to another connection.
What comes as slowly as here is verified and written as soon as a piece is whole
(``peer/bulk.py``; only a fast answer fills its buffer of 1 MiB). So there is most of a piece in the node,
what was read last (64 KiB), and what lies in the sockets between it and the link, which counts: 128 KiB to
send, and as much or twice that to receive."""
PATIENCE = 180.0
"""Seconds until what must happen counts as never happening, on a machine that has much else to do."""
KEPT_BY_CLIENTS = 5

SERVERS = {
    "middle-1a": ("origin",),
    "middle-1b": ("origin",),
    "middle-2a": ("middle-1a", "middle-1b"),
    "middle-2b": ("middle-1b", "middle-1a"),
    "client-1": ("middle-2a", "middle-2b"),
    "client-2": ("middle-2b", "middle-2a"),
    "client-3": ("middle-2b",),
    "client-4": ("middle-2a", "middle-1b"),
}
EVERY = ("client-1", "client-4")
"""The clients that skip no version."""


# The versions ------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=8)
def payload_of(seed: int) -> bytes:
    return random_bytes(SIZE + seed, seed)


class Versions:
    """What is published, one after the other, and as what."""

    def __init__(self) -> None:
        self.numbers = Numbers()
        self.published: list[int] = []
        self.seen: set[int] = set()
        """Every number that ever was a folder, anywhere."""
        self._before = 0
        self._seeds: dict[str, int] = {}

    def begin(self, seed: int) -> None:
        """This payload is published now, perhaps not for the first time."""
        expected = Expected.of(payload_of(seed), SHARD)
        self._seeds[expected.sha256] = seed
        self._before = max(self.seen, default=0)
        self.numbers.current = expected

    def succeeded(self, version: str) -> None:
        """It is a version; the numbers since the one before were given to attempts that failed."""
        number, before = int(version.removeprefix("v")), max(self.published, default=0)
        assert number > self._before, f"{version} was given although v{self._before} was there before"
        assert self.numbers.current
        self.numbers.published.update(dict.fromkeys(range(before + 1, number + 1), self.numbers.current))
        self.published.append(number)

    def payload(self, number: int) -> bytes:
        return payload_of(self._seeds[self.numbers.expected(number).sha256])


class Broadcast:
    """A ``shardcast broadcast``, of a file or (``streamed``) of what is written slowly to it."""

    def __init__(self, place: Path, data_dir: Path, payload: bytes, streamed: bool) -> None:
        file = place / "payload.bin"
        if not streamed:
            file.write_bytes(payload)
        self._out, self._err = place / "broadcast.out", place / "broadcast.err"
        what = "-" if streamed else str(file)
        words = ("broadcast", what, "--data-dir", str(data_dir), "--shard-size", str(SHARD))
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = processes.Popen(
                processes.command(*words),
                env=processes.environment(),
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
            )
        self._writing = threading.Thread(target=self._write, args=(payload if streamed else b"",))
        self._writing.start()

    def _write(self, payload: bytes) -> None:
        sink = self._process.stdin
        assert sink
        with contextlib.suppress(BrokenPipeError), sink:
            for part in cut(payload, 64 * 1024):
                sink.write(part)
                sink.flush()
                time.sleep(len(part) / WRITTEN)

    def end(self) -> str | None:
        """Wait for it; the version, or None if it failed, and said so."""
        code = self._process.wait(PATIENCE)
        self._writing.join()
        said, told = self._out.read_text().strip(), self._err.read_text()
        assert "Traceback" not in told, told
        assert (code == 0) == (said != ""), told
        return said or None

    @property
    def log(self) -> str:
        return self._err.read_text()

    def __enter__(self) -> Broadcast:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(10)
        self._writing.join()


# The nodes ---------------------------------------------------------------------------------------


class Member:
    """A node of the network that is killed and started again, at the same address and in the same folder."""

    def __init__(self, name: str, folder: Path, words: list[str]) -> None:
        self.name = name
        self.folder = folder
        self.port = Port()
        self.lives: list[processes.Node] = []
        self._words = words
        self._stack = contextlib.ExitStack()

    @property
    def is_client(self) -> bool:
        return self.name.startswith("client")

    @property
    def url(self) -> str:
        return f"http://{self.port.address}"

    @property
    def node(self) -> processes.Node:
        """Its process in the life that it has now."""
        return self.lives[-1]

    def start(self) -> None:
        """Start it, as often as it takes: a broadcast that met no origin holds the directory for a while."""
        where = ("--output-dir",) if self.is_client else ("--host", "127.0.0.1", "--data-dir")
        words = [*self._words, *where, str(self.folder)]
        words += [] if self.is_client else ["--port", str(self.port.number)]
        env = {
            "SHARDCAST_MAX_CONCURRENT_DOWNLOADS": str(CONNECTIONS),
            "SHARDCAST_CHECK_INTERVAL": "1",
        }
        deadline = time.monotonic() + PATIENCE
        while True:
            wait = 0 if self.is_client else PATIENCE
            self.lives.append(
                self._stack.enter_context(processes.started(processes.command(*words), env, wait))
            )
            if self.is_client or self.node.url:
                return
            self._stack.close()
            assert "is in use by a shardcast broadcast" in self.node.log, f"{self.name}:\n{self.node.log}"
            assert time.monotonic() < deadline, f"{self.name} could not start:\n{self.node.log}"
            time.sleep(0.1)

    def kill(self) -> None:
        self.assert_runs()
        self.node.kill()
        self._stack.close()

    def assert_runs(self) -> None:
        assert self.node.process.poll() is None, f"{self.name} ended by itself:\n{self.node.log}"

    def stop(self) -> int:
        return self.node.stop(PATIENCE)

    def close(self) -> None:
        self._stack.close()
        self.port.close()

    # What it has

    def verified(self, payload: Callable[[int], bytes], complete: set[int]) -> set[tuple[int, int, int]]:
        """The pieces that it has right on its disk, as version, shard and index, but for versions that are
        ``complete``; ``payload`` gives a version's."""
        found: set[tuple[int, int, int]] = set()
        for number, shard, data in self._in_output() if self.is_client else self._in_folders(complete):
            right = cut(payload(number), SHARD)[shard - 1]
            for index, piece in enumerate(cut(right, PIECE)):
                if data[index * PIECE : index * PIECE + len(piece)] == piece:
                    found.add((number, shard, index))
        return found

    def _in_output(self) -> Iterator[tuple[int, int, bytes]]:
        for file in self.folder.glob(".download_*.part"):
            with contextlib.suppress(FileNotFoundError):  # it got its name, or was given up
                for shard, data in enumerate(cut(file.read_bytes(), SHARD), 1):
                    yield number_in(file), shard, data

    def _in_folders(self, complete: set[int]) -> Iterator[tuple[int, int, bytes]]:
        for number in numbers_of(self.folder) - complete:
            with contextlib.suppress(FileNotFoundError):
                for file in list((self.folder / f"v{number}").glob("shard_*")):
                    with contextlib.suppress(FileNotFoundError):
                        yield number, int(file.name[6:9]), file.read_bytes()


def number_in(file: Path) -> int:
    """The number of the version in the name of a client's file."""
    found = re.search(r"download_v([0-9]+)\.bin", file.name)
    assert found, f"what is {file}?"
    return int(found[1])


# The network -------------------------------------------------------------------------------------


class Network:
    """An origin, two layers of middles and four clients, and what is kept of all that they do."""

    def __init__(self, place: Path, links: Links) -> None:
        self.links = links
        self.versions = Versions()
        self.members: dict[str, Member] = {}
        self.listed: dict[str, set[int]] = {}
        """The versions that each member ever had under their final names."""
        self.kills: list[str] = []
        self._complete: dict[tuple[str, int], int] = {}
        self._had: dict[tuple[str, int, int, int], int] = {}
        """How much had been asked for when a member had a version, and single pieces of others."""
        self._add(Member("origin", place / "origin", ["origin"]))
        for name, servers in SERVERS.items():
            addresses = ",".join(links.add(name, one, self.members[one].port) for one in servers)
            words = ["middle", "--upstream", addresses]
            if name.startswith("client"):
                words = ["client", "--follow", "--keep", str(KEPT_BY_CLIENTS), "--servers", addresses]
                words += ["--every"] if name in EVERY else []
            self._add(Member(name, place / name, words))

    def _add(self, member: Member) -> None:
        self.members[member.name] = member
        self.listed[member.name] = set()

    @property
    def origin(self) -> Member:
        return self.members["origin"]

    @property
    def clients(self) -> list[Member]:
        return [one for one in self.members.values() if one.is_client]

    @property
    def readers(self) -> list[Member]:
        return [self.members[name] for name in SERVERS]

    @property
    def data_dirs(self) -> list[Member]:
        """The origin and the middles."""
        return [one for one in self.members.values() if not one.is_client]

    def start(self, member: Member) -> None:
        member.start()
        self.links.open(member.name)

    def kill(self, member: Member) -> None:
        """Kill it. What anybody has verified then is not to be asked for any more: neither by who is
        killed nor by those whose answers break off."""
        self._keep_what_is_there(self.readers)
        self.links.close(member.name)
        member.kill()
        self.links.wait_until_recorded(member.name)
        self._keep_what_is_there([member] if member in self.readers else [])

    def _keep_what_is_there(self, readers: list[Member]) -> None:
        complete = {one.name: set(self.listed[one.name]) for one in readers}
        pieces = {one.name: one.verified(self.versions.payload, complete[one.name]) for one in readers}
        self.links.wait_until_recorded()  # who wanted something just before that has asked for it now
        now = len(self.links.requests)
        for one in readers:
            for number in complete[one.name]:
                self._complete.setdefault((one.name, number), now)
            for piece in pieces[one.name]:
                self._had.setdefault((one.name, *piece), now)

    def close(self) -> None:
        for member in self.members.values():
            member.close()

    # What is looked at all along

    def looks(self) -> list[Callable[[], None]]:
        numbers = self.versions.numbers
        folders = [watch_folders(one.folder, numbers) for one in self.data_dirs]
        lists = [functools.partial(self._look_at_list, one) for one in self.data_dirs]
        return folders + lists + [self._look_at_outputs(one) for one in self.clients]

    def _look_at_list(self, member: Member) -> None:
        self.versions.seen |= numbers_of(member.folder)
        with contextlib.suppress(FileNotFoundError):
            for line in (member.folder / "distribution.txt").read_text().splitlines():
                number = int(line.removeprefix("v").partition(":")[0])
                right = self.versions.numbers.expected(number)
                assert line == f"v{number}: {right.sha256}|{len(right.shards)}", f"{member.name} lists {line}"
                self.listed[member.name].add(number)

    def _look_at_outputs(self, client: Member) -> Callable[[], None]:
        known: dict[Path, tuple[int, int, int]] = {}
        latest = 0

        def look() -> None:
            nonlocal latest
            with contextlib.suppress(FileNotFoundError):
                now = number_in((client.folder / "latest").readlink())
                assert now >= latest, f"{client.name} went back from v{latest} to v{now}"
                latest = now
            for file in client.folder.glob("download_*.bin"):
                with contextlib.suppress(FileNotFoundError):  # too old by now
                    looks, number = file_identity(file), number_in(file)
                    if known.get(file) != looks:
                        right = self.versions.numbers.expected(number).sha256
                        assert sha256(file) == right, f"{client.name}: {file.name} holds a wrong byte"
                        known[file] = looks
                        self.listed[client.name].add(number)

        return look

    # What is looked at in the end

    def wait_for(self, number: int) -> None:
        """Wait until every client has had this version or a newer one."""

        def here() -> bool:
            for member in self.members.values():
                member.assert_runs()
            return all(max(self.listed[one.name], default=0) >= number for one in self.clients)

        wait_until(here, PATIENCE, f"v{number} at every client")

    def assert_all_have(self, number: int) -> None:
        """Every client has this version as its latest, and every middle has what the origin lists."""
        for client in self.clients:
            latest = client.folder / "latest"
            assert latest.readlink() == Path(f"download_v{number}.bin")
            assert latest.read_bytes() == self.versions.payload(number)
        at_origin = listed(self.origin.url)
        assert max(at_origin) == number
        newest = sorted(at_origin)[-10:]  # how soon older ones retire is each node's own affair
        for member in self.data_dirs:
            assert get(f"{member.url}/ready") == b"OK" or member is self.origin
            here = listed(member.url)
            assert [here.get(one) for one in newest] == [at_origin[one] for one in newest], member.name
            assert_tidy(member.url, member.folder, self.versions.numbers)
            for one in newest:
                manifest = Path(f"v{one}") / "manifest.jsonl"
                assert (member.folder / manifest).read_bytes() == (self.origin.folder / manifest).read_bytes()

    def assert_numbers(self) -> None:
        """What was published is complete, and what was given up never was, anywhere."""
        complete = self.listed["origin"]
        assert complete >= set(self.versions.published)
        for name, seen in self.listed.items():
            assert seen <= complete, f"{name} had what was never published: {seen - complete}"

    def assert_nothing_again(self) -> None:
        """Nobody asked again for a piece that it had, nor for what was sent to it, but for what may have been
        in flight when the answer ended."""
        sent: dict[tuple[str, int, int], list[ShardRequest]] = defaultdict(list)
        for index, asked in enumerate(self.links.requests):
            shard = (asked.reader, asked.version, asked.shard)
            size = len(cut(self.versions.payload(asked.version), SHARD)[asked.shard - 1])
            end = size if asked.end is None else asked.end
            since = self._complete.get((asked.reader, asked.version), index + 1)
            assert index < since, f"asked for a version that was there: {asked}"
            for piece in range(asked.start // PIECE, -(-end // PIECE)):
                since = self._had.get((*shard, piece), index + 1)
                assert index < since, f"asked for what was there, piece {piece}: {asked}"
            for one in sent[shard]:
                certain = range(one.start, one.start + one.sent - IN_FLIGHT)
                again = range(max(asked.start, certain.start), min(end, certain.stop))
                assert not again, f"asked for {len(again)} bytes again: {one}, then {asked}"
            sent[shard].append(asked)

    def assert_left_tidy(self) -> None:
        """Everybody ends when told to, and nothing temporary is left."""
        for member in self.members.values():
            assert member.stop() == 0, member.node.log
        for member in self.data_dirs:
            assert list(member.folder.rglob("*.part*")) == []
        for client in self.clients:
            newest = sorted(self.listed[client.name])[-KEPT_BY_CLIENTS:]
            names = {f"download_v{number}.bin" for number in newest}
            kept = {f".{name}{end}" for name in names for end in (".record", ".manifest")}
            names |= kept | {
                "latest",
                ".shardcast-lines",
                ".shardcast-lines.lock",
            }
            assert {entry.name for entry in client.folder.iterdir()} == names
        for member in self.members.values():
            for life in member.lives:
                assert "Traceback" not in life.log, f"{member.name}:\n{life.log}"
                assert "never retrieved" not in life.log, f"{member.name}:\n{life.log}"

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """A failure tells how it came to it."""
        try:
            yield
        except Exception as error:
            logs = [
                f"-- {member.name}, life {number} --\n{life.log[-3000:]}"
                for member in self.members.values()
                for number, life in enumerate(member.lives, 1)
            ]
            told = [
                f"{error}",
                f"SHARDCAST_SOAK_SEED={SEED} SHARDCAST_SOAK_KILLS={KILLS}",
                *self.kills,
                *logs,
            ]
            raise AssertionError("\n".join(told)) from error


def eventually(check: Callable[[], None]) -> None:
    """Wait until a check passes; its own failure tells why it doesn't."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return check()
        except (AssertionError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def dealt(members: list[Member], chance: random.Random) -> Iterator[Member]:
    """Members in a random order, all of them before any one comes again."""
    while True:
        yield from chance.sample(members, len(members))


# The test ----------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder that is gone afterwards, with all the versions in it, however the test ends."""
    folder = tmp_path / "network"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.mark.timeout(600 + 60 * KILLS)
def test_network_under_random_kills_loses_and_confuses_nothing(place: Path) -> None:
    chance = random.Random(SEED)
    with Links(RATE) as links, contextlib.ExitStack() as stack:
        network = Network(place, links)
        stack.callback(network.close)
        stack.enter_context(network.explained())
        versions = network.versions
        for member in network.members.values():
            network.start(member)
        watcher = stack.enter_context(Watcher(*network.looks()))
        victims = dealt(list(network.members.values()), chance)

        def kill_one(member: Member, since: float) -> None:
            time.sleep(chance.uniform(0, LONGEST))
            network.kill(member)
            network.kills.append(f"{time.monotonic() - since:5.1f} s into it: {member.name}")
            time.sleep(chance.choice((0.0, 0.2, 1.0)))
            network.start(member)
            watcher.check()
            links.check()

        def publish(seed: int, doomed: list[Member]) -> None:
            # A file is published in no time, so that kills of the origin would hardly ever hit it.
            version, streamed = None, chance.random() < (0.8 if network.origin in doomed else 0.5)
            while version is None:
                versions.begin(seed)
                begun, lives = time.monotonic(), len(network.origin.lives)
                with Broadcast(place, network.origin.folder, payload_of(seed), streamed) as one:
                    while doomed:
                        kill_one(doomed.pop(0), begun)
                    version = one.end()
                    assert version or len(network.origin.lives) > lives, f"it failed for nothing:\n{one.log}"
            versions.succeeded(version)

        for turn in range(VERSIONS):
            network.kills.append(f"broadcast {turn + 1}:")
            kills = (turn + 1) * KILLS // VERSIONS - turn * KILLS // VERSIONS
            publish(turn + 1, list(itertools.islice(victims, kills)))
            earlier = versions.published[max(0, turn - 2)]
            network.wait_for(earlier)  # so that they follow, rather than begin anew with the newest
        last = versions.published[-1]
        eventually(lambda: network.assert_all_have(last))
        watcher.check()
        links.check()
        network.assert_numbers()
        network.assert_nothing_again()
        network.assert_left_tidy()
