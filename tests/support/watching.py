"""Expected versions, and a watcher that compares them with what is there, again and again."""

from __future__ import annotations

import contextlib
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from tests.support.payloads import cut

_LEAST_LOOKS = 10
"""Rounds of a watcher below which it has seen nothing."""


# Versions, and what they should be ---------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """Digests of a version's payload and shards, without the bytes."""

    sha256: str
    shards: tuple[bytes, ...]

    @classmethod
    def of(cls, payload: bytes, shard_size: int) -> Expected:
        """Return the digests of a payload."""
        shards = tuple(sha256(shard).digest() for shard in cut(payload, shard_size))
        return cls(sha256(payload).hexdigest(), shards)


@dataclass
class Numbers:
    """The version of each number, from the moment it opens; ``current`` is the one being published."""

    published: dict[int, Expected] = field(default_factory=dict)
    current: Expected | None = None

    def expected(self, number: int) -> Expected:
        """Return the version of a number."""
        found = self.published.get(number) or self.current
        assert found, f"v{number} was never published"
        return found

    def record(self, number: int) -> None:
        """Note that a number was seen for the version being published, and check that numbers grow."""
        assert self.current
        if self.published.get(number) is not self.current:
            before = max(self.published, default=0)
            assert number > before, f"v{number} was given although v{before} was before"
            self.published[number] = self.current


def numbers_of(data_dir: Path) -> set[int]:
    """Return the versions that have a folder."""
    return {int(folder.name[1:]) for folder in data_dir.glob("v*") if folder.name[1:].isdigit()}


# Looking all along -------------------------------------------------------------------------------


class Watcher:
    """A thread that looks again and again until the block ends; the first failure fails the test."""

    def __init__(self, *checks: Callable[[], None]) -> None:
        self._looks = checks
        self._rounds = 0
        self._failure: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        """Look every 20 ms; the thread's function."""
        try:
            while not self._stop.wait(0.02):
                for look in self._looks:
                    look()
                self._rounds += 1
        except BaseException as error:  # noqa: BLE001 - it is the test's, and raised there
            self._failure = error

    def check(self) -> None:
        """Fail now if anything was wrong so far."""
        if self._failure:
            raise self._failure

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(30)
        self.check()
        if error[0] is None:
            assert self._rounds >= _LEAST_LOOKS, f"only {self._rounds} looks"


def file_identity(file: Path) -> tuple[int, int, int]:
    """Return inode, size and time of change of a file."""
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def shards_in(data_dir: Path) -> list[Path]:
    """Return the shards under their final names; a version's folder may vanish meanwhile."""
    found: list[Path] = []
    for folder in data_dir.glob("v*"):
        with contextlib.suppress(FileNotFoundError):
            found += folder.glob("shard_*.bin")
    return found


def watch_folders(data_dir: Path, numbers: Numbers) -> Callable[[], None]:
    """Return a look that checks that no final name of a shard holds a wrong byte."""
    known: dict[Path, tuple[int, int, int]] = {}

    def look() -> None:
        for file in shards_in(data_dir):
            with contextlib.suppress(FileNotFoundError):  # given up just now
                identity = file_identity(file)
                if known.get(file) == identity:
                    continue
                shards = numbers.expected(int(file.parent.name[1:])).shards
                right = shards[int(file.stem.removeprefix("shard_")) - 1]
                assert sha256(file.read_bytes()).digest() == right, f"{file} holds a wrong byte"
                known[file] = identity

    return look


# What a node lists, and what must not be left ----------------------------------------------------


def get(url: str) -> bytes:
    """Return the body of a GET."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        return bytes(answer.read())


def listed(url: str) -> dict[int, tuple[str, int]]:
    """Return digest and number of shards of every version that a node lists."""
    try:
        lines = get(f"{url}/distribution.txt").decode().splitlines()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return {}  # it has nothing to list yet
        raise
    split = (line.removeprefix("v").replace(": ", "|").split("|") for line in lines)
    return {int(number): (digest, int(count)) for number, digest, count in split}


def read_whole(url: str, number: int, offered: dict[int, tuple[str, int]], numbers: Numbers) -> None:
    """Fetch a version, and check its shards and its payload."""
    right = numbers.expected(number)
    assert offered[number] == (right.sha256, len(right.shards)), f"v{number} is listed as another payload"
    whole = sha256()
    for shard in range(1, len(right.shards) + 1):
        whole.update(read_shard(url, number, shard, numbers))
    assert whole.hexdigest() == right.sha256


def read_shard(url: str, number: int, shard: int, numbers: Numbers) -> bytes:
    """Fetch a shard, check it, and return its bytes."""
    found = get(f"{url}/v{number}/shard_{shard:03d}.bin")
    right = numbers.expected(number).shards[shard - 1]
    assert sha256(found).digest() == right, f"{url} sent a wrong byte in shard {shard} of v{number}"
    return found


def assert_tidy(url: str, data_dir: Path, numbers: Numbers) -> None:
    """Check that every listed version is whole and right, and that nothing else is left."""
    offered = listed(url)
    for number in offered:
        read_whole(url, number, offered, numbers)
    assert numbers_of(data_dir) == set(offered), "there are folders of versions that are not listed"
    for number, (_, count) in offered.items():
        assert len(list((data_dir / f"v{number}").glob("shard_*"))) == count
    own = data_dir / ".shardcast"
    left = [*data_dir.rglob("*.part"), *(own / "retired").iterdir()]
    left += [record for record in (own / "verified").iterdir() if int(record.name[1:]) not in offered]
    assert left == [], "something was left behind"
