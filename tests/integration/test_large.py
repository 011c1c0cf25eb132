"""A large file goes the whole way, and no process grows with it."""

from __future__ import annotations

import contextlib
import hashlib
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.legacy import listed
from tests.support.published import sha256

MIB = 1 << 20
GIB = 1 << 30
SIZE = GIB
ROOM = 6 * GIB
"""The payload, the output, three data directories, and some to spare."""
MOST_MEMORY = 120 * MIB

MEASURE = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""
"""Runs a command and tells its peak memory. In a small process of its own, because a child's peak begins
with that of whoever started it."""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for all of it, which is gone afterwards, however the test ends."""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads the nodes' peak memory from /proc, which only Linux has")
    free = shutil.disk_usage(tmp_path).free
    if free < ROOM:
        pytest.skip(f"needs {ROOM / GIB:.0f} GiB free in {tmp_path}, which has {free / GIB:.1f}")
    folder = tmp_path / "large"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def write_payload(file: Path) -> str:
    """Blocks of random bytes, each begun with its number so that no shard is like another; its digest."""
    blocks = [random.Random(seed).randbytes(MIB - 8) for seed in range(4)]
    digest = hashlib.sha256()
    with file.open("wb") as payload:
        for number in range(SIZE // MIB):
            block = number.to_bytes(8, "big") + blocks[number % len(blocks)]
            digest.update(block)
            payload.write(block)
    return digest.hexdigest()


def peak(node: processes.Node) -> int:
    """The most memory that a running node ever had."""
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


def run(*words: str) -> tuple[str, int]:
    """What a command printed, and the most memory that it ever had."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *processes.command(*words)],
        env=processes.environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), int(done.stderr.split()[-1]) * 1024


@pytest.mark.timeout(900)
def test_1_gib_passes_two_middles_in_bounded_memory(place: Path) -> None:
    payload, output = place / "model.bin", place / "got.bin"
    expected = write_payload(payload)
    memory: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        origin = stack.enter_context(processes.origin(place / "origin", fork=False))
        first = stack.enter_context(processes.middle(origin.url, place / "first", fork=False))
        second = stack.enter_context(processes.middle(first.url, place / "second", fork=False))
        version, memory["broadcast"] = run("broadcast", str(payload), "--data-dir", str(place / "origin"))
        assert version == "v1"
        payload.unlink()
        for node in (first, second):
            processes.wait_until(lambda node=node: "v1" in listed(node.url), 300, f"v1 at {node.url}")
        words = ("--servers", second.url, "--version", "v1", "--output-file", str(output))
        printed, memory["client"] = run("client", *words)
        assert printed == str(output)
        memory |= {"origin": peak(origin), "first middle": peak(first), "second middle": peak(second)}
    assert output.stat().st_size == SIZE
    assert sha256(output) == expected
    too_much = {name: f"{most / MIB:.0f} MiB" for name, most in memory.items() if most > MOST_MEMORY}
    assert not too_much, "memory grew with the payload"
