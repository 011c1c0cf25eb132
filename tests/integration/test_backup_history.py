"""A hundred snapshots of a changing folder, forgotten by a policy and pruned: against models of both."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Set
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shardcast.backup.server.checking import check_store
from shardcast.backup.server.pruning import prune
from tests.support.backup_clients import Client, a_client
from tests.support.independent_restorer import Restorer, StoreFolder, read_index

DAY = 86400.0
MIN_AGE = 4 * DAY
PERIODS = {"hourly": "%Y-%m-%d %H", "daily": "%Y-%m-%d", "weekly": "%G-%V", "monthly": "%Y-%m"}
POLICIES: tuple[Mapping[str, int], ...] = (
    {"last": 3, "hourly": 5, "daily": 10, "weekly": 8, "monthly": 12},
    {"daily": 2, "monthly": 3},
)
Files = dict[str, bytes]
Packs = dict[str, dict[bytes, bytes]]
"""The encoded chunks of each pack, by their ids."""


def change(folder: Path, files: Files, choose: random.Random) -> None:
    """Change some files of a folder, remove one, and now and then bring back what was there."""
    for _ in range(4):
        name = f"{choose.randrange(6)}/{choose.randrange(5)}"
        content = random.Random(f"{name}/{choose.randrange(9)}").randbytes(choose.choice((40, 700, 3000)))
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
        files[name] = content
    gone = choose.choice(sorted(files))
    (folder / gone).unlink()
    del files[gone]


async def make_history(client: Client, folder: Path, now: float) -> dict[str, tuple[float, Files]]:
    """Make a hundred snapshots that arrive over some months until now; return when, and their files."""
    choose, files, history = random.Random(17), Files(), dict[str, tuple[float, Files]]()
    gaps = [choose.choice((300.0, 7000.0, 0.7 * DAY, 2 * DAY, 9 * DAY)) for _ in range(100)]
    for number in range(100):
        arrived = now - sum(gaps[number:])
        client.store.clock = lambda arrived=arrived: arrived
        change(folder, files, choose)
        history[await asyncio.to_thread(client.save, folder)] = arrived, dict(files)
    client.store.clock = lambda: now
    return history


def kept_by(policy: Mapping[str, int], arrivals: Mapping[str, float], now: float) -> set[str]:
    """Return the snapshots that stay: each looked at by itself, rule by rule."""
    old = {name: arrived for name, arrived in arrivals.items() if now - arrived >= MIN_AGE}

    def stays(name: str) -> bool:
        newer = [arrived for arrived in old.values() if arrived > arrivals[name]]
        if name not in old or len(newer) < policy.get("last", 0):
            return True
        for rule, shape in PERIODS.items():
            periods = {datetime.fromtimestamp(arrived, UTC).strftime(shape) for arrived in newer}
            own = datetime.fromtimestamp(arrivals[name], UTC).strftime(shape)
            if own not in periods and len(periods) < policy.get(rule, 0):
                return True
        return False

    return {name for name in arrivals if stays(name)}


class Watched(StoreFolder):
    """The chunks of a client on the server's disk, and those that were read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), "desk-me")
        self.read = set[bytes]()

    def encoded(self, chunk: bytes) -> bytes:
        self.read.add(chunk)
        return super().encoded(chunk)


def restore(source: Watched, name: str, wanted: Files, place: Path) -> None:
    """Restore a snapshot by the independent restorer, and check each file."""
    Restorer(source).run(name, os.fsencode(place))
    files = [file for file in place.rglob("*") if file.is_file()]
    assert {str(file.relative_to(place)): file.read_bytes() for file in files} == wanted


def read_packs(folder: Path) -> Packs:
    """Return the packs on the server's disk, whose names must be right."""

    def read(file: Path) -> Iterator[tuple[bytes, bytes]]:
        data = file.read_bytes()
        assert hashlib.sha256(data).hexdigest() == file.name
        return read_index(data)

    return {file.name: dict(read(file)) for file in (folder / "packs").glob("??/*")}


def check_pruned(before: Packs, after: Packs, sizes: Mapping[str, int], needed: Set[bytes]) -> None:
    """Check that a prune left what its model leaves, byte for byte.

    Packs without a needed chunk are gone; those at least half of whose bytes are needed are as they were; of
    the others exactly the needed chunks lie in new packs.
    """
    live = {
        pack: {chunk: data for chunk, data in chunks.items() if chunk in needed}
        for pack, chunks in before.items()
    }
    stay = {pack for pack, chunks in live.items() if 2 * sum(map(len, chunks.values())) >= sizes[pack]}
    moved = {
        chunk: data for pack, chunks in live.items() if pack not in stay for chunk, data in chunks.items()
    }
    assert {pack: chunks for pack, chunks in after.items() if pack in before} == {p: before[p] for p in stay}
    new = [
        (chunk, data)
        for pack, chunks in after.items()
        if pack not in before
        for chunk, data in chunks.items()
    ]
    assert sorted(new) == sorted(moved.items()) and moved
    assert needed <= {chunk for chunks in after.values() for chunk in chunks}


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder in memory where that can be had: a hundred backups wait for the disk some seconds."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


async def test_policy_and_prune_leave_what_their_models_say(place: Path) -> None:
    folder, now = place / "work", time.time()
    folder.mkdir()
    async with a_client(place, min_age=MIN_AGE) as client:
        store, history = place / "store", await make_history(client, folder, now)
        for number, policy in enumerate(POLICIES):
            kept = kept_by(policy, {name: arrived for name, (arrived, _) in history.items()}, now)
            assert 4 < len(kept) < 0.7 * len(history)
            rules = [word for rule, count in policy.items() for word in (f"--keep-{rule}", str(count))]
            await client.lines("forget", *rules)
            listed = await asyncio.to_thread(client.server.snapshots)
            assert {snapshot.id for snapshot in listed} == kept
            history = {name: history[name] for name in history if name in kept}

            source, before = Watched(store), read_packs(store)
            sizes = {file.name: file.stat().st_size for file in (store / "packs").glob("??/*")}
            assert sum(map(len, before.values())) == len({c for chunks in before.values() for c in chunks})
            for name, (_, files) in history.items():
                restore(source, name, files, place / f"{number} {name}")
            report = await prune(client.store, 0.0)
            assert not report.no_room and not report.waits_for_run
            check_pruned(before, read_packs(store), sizes, source.read)
            for name, (_, files) in history.items():
                restore(Watched(store), name, files, place / f"{number} {name} again")
        found = await check_store(client.store, lambda number: True)
        assert found.is_whole and not found.unknown_files
