"""Directories of blobs: made, damaged and inspected."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from shardcast.blobs.directory.layout import MARKER, OWN_FOLDER, SUFFIXES
from tests.support.payloads import sha256
from tests.support.processes import environment


def blob_file(root: Path, digest: str) -> Path:
    """Return the path of a blob in the prefix layout."""
    return root / digest[:2] / digest


def fill(root: Path, *blobs: bytes) -> list[str]:
    """Write blobs as they lie in a store of the prefix layout, and return their digests."""
    root.mkdir(exist_ok=True)
    (root / MARKER).write_text("1\n")
    for blob in blobs:
        file = blob_file(root, sha256(blob))
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(blob)
        file.chmod(0o444)
    return [sha256(blob) for blob in blobs]


def damage(file: Path, position: int = 0) -> bytes:
    """Change one byte of a write-protected file, and return its new content."""
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)
    file.chmod(0o444)
    return bytes(data)


def random_blobs(seed: int, count: int, max_size: int = 3000) -> list[bytes]:
    """Return ``count`` blobs of 1 to ``max_size`` bytes."""
    rng = random.Random(seed)
    return [rng.randbytes(rng.randint(1, max_size)) for _ in range(count)]


_MANY = """
import json, os, signal, sys
from shardcast.cli import main
from shardcast.cli.blobs import store
outcomes = []
for words in json.load(sys.stdin):
    child = os.fork()
    if not child:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(os.path.join(sys.argv[1], name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.argv[1:] = words
        main.main()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    outcomes.append([code, *(open(os.path.join(sys.argv[1], name)).read() for name in ("out", "err"))])
json.dump(outcomes, sys.stdout)
"""


def run_many(cases: list[list[str]]) -> list[tuple[int, str, str]]:
    """Run ``shardcast`` with each list of words, in processes forked from one interpreter.

    Returns:
        For each the exit code, stdout and stderr.
    """
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", _MANY, folder],
            input=json.dumps(cases),
            capture_output=True,
            env=environment(),
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return [(code, out, err) for code, out, err in json.loads(done.stdout)]


def assert_refused(cases: list[tuple[list[str], int, str]], names: dict[str, object]) -> None:
    """Check that each command fails with its exit code, and its text on stderr alone."""
    filled = [["store", *(word.format(**names) for word in words)] for words, _, _ in cases]
    for words, (_, code, said), outcome in zip(filled, cases, run_many(filled), strict=True):
        assert outcome[:2] == (code, ""), (words, outcome)
        assert said in outcome[2], (words, outcome)
        assert "Traceback" not in outcome[2], (words, outcome)


def content(root: Path) -> dict[str, bytes]:
    """Return the blobs of a store by their names; compressed ones by their whole names."""
    files = (
        Path(folder) / name
        for folder, _, names in os.walk(root)
        for name in names
        if OWN_FOLDER not in folder
    )
    suffixes = ("", *SUFFIXES.values())
    return {
        file.name: file.read_bytes() for file in files if file.name[64:] in suffixes and len(file.name) >= 64
    }
