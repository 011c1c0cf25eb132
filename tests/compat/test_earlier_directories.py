"""Directories that an earlier state of this project wrote, opened by this one.

Each archive in ``directories/`` holds what one state wrote. ``0.4.0-flat-modules`` is the last state before
the package was divided into rooms: an origin (v1 pinned, v2 withdrawn, v3, v4), a middle killed while it
received v4, a followed folder whose client was killed then, too, stores in each layout and digest with pins,
marks of gc and a blob in quarantine, an archive, and a hash registry. ``payload(n)`` returns the bytes of vN
or of blob n.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
from pathlib import Path
from random import Random

import pytest

from shardcast.cli.exit_codes import INTEGRITY as DIGEST_MISMATCH
from shardcast.registry import Registry
from tests.integration.test_lines import broadcast, listed, middle, origin, sent, status, until_same
from tests.support import processes

ARCHIVE = Path(__file__).parent / "directories" / "0.4.0-flat-modules.tar.xz"
SIZE = 150_000
SHARD = 64_000
LAYOUTS = ("store", "flat", "sha3")


def payload(seed: int, size: int = SIZE) -> bytes:
    """Return the bytes that the fixture was made of: 997 random ones, repeated up to ``size``."""
    return (Random(seed).randbytes(997) * (size // 997 + 1))[:size]


def line(number: int) -> str:
    return f"{hashlib.sha256(payload(number)).hexdigest()}|3"


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """Return a folder with the earlier directories."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="fully_trusted")
    return tmp_path


def shards(directory: Path) -> dict[str, int]:
    """Return each shard's inode, which changes when the shard is written again."""
    return {str(file.relative_to(directory)): file.stat().st_ino for file in directory.glob("v*/shard_*.bin")}


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return processes.run(*map(str, words))


def test_origin_directory_is_served_and_continued(earlier: Path) -> None:
    before = shards(earlier / "origin")
    with origin(earlier / "origin", 0, "--keep", "4") as node:
        assert listed(node) == {f"v{number}": line(number) for number in (1, 3, 4)}
        assert before.items() <= shards(earlier / "origin").items()
        (earlier / "next").write_bytes(payload(5))
        assert broadcast(earlier / "origin", earlier / "next") == ["v5"]
        assert (earlier / "origin" / ".shardcast" / "origin").read_text().strip() == status(node)["origin"]
        assert "v2" not in listed(node), "withdrawn stays withdrawn"
        assert "v1" in listed(node), "pinned stays pinned"


def test_middle_directory_resumes_its_open_version(earlier: Path) -> None:
    with origin(earlier / "origin") as root, middle(root.url, earlier / "middle") as relay:
        until_same(relay, root)
        assert sent(root) == SIZE - 2 * SHARD


def test_followed_folder_resumes_its_download(earlier: Path) -> None:
    followed = earlier / "followed"
    before = {name: (followed / name).stat().st_ino for name in ("download_v1.bin", "download_v3.bin")}
    with origin(earlier / "origin") as root:
        words = ("--servers", root.url, "--follow", "--output-dir", str(followed))
        with processes.started(processes.command("client", *words), timeout=0) as client:
            processes.wait_until(
                lambda: (followed / "latest").readlink().name == "download_v4.bin", what=f"v4: {client.log}"
            )
        assert sent(root) == SIZE - 2 * SHARD
    assert (followed / "download_v4.bin").read_bytes() == payload(4)
    assert {name: (followed / name).stat().st_ino for name in before} == before


@pytest.mark.parametrize("name", LAYOUTS)
def test_store_directory_gives_and_verifies_its_blobs(earlier: Path, name: str) -> None:
    hasher = "sha3_256" if name == "sha3" else "sha256"
    blobs = (payload(11, 20_000), b"text " * 3000, b"", b"nobody refers to it")
    digests = {hashlib.new(hasher, blob).hexdigest(): blob for blob in blobs}
    listing = run("store", "ls", earlier / name)
    assert {entry.split()[0] for entry in listing.stdout.splitlines()} == digests.keys(), listing
    digest = hashlib.new(hasher, blobs[0]).hexdigest()
    done = run("store", "get", "-d", earlier / name, digest, "-o", earlier / "got")
    assert done.returncode == 0, done.stderr
    assert (earlier / "got").read_bytes() == blobs[0]
    assert run("store", "verify", earlier / name).stderr.startswith("4 files, ")


@pytest.mark.parametrize("name", LAYOUTS)
def test_gc_of_store_directory_keeps_its_pins(earlier: Path, name: str) -> None:
    words = ("--unreferenced-older-than", "0s", "--grace", "0s", "--delete", "--json")
    if name != "sha3":
        words = (*words, "--forget-root", "data-dir /tmp/fix/origin")
    for _ in range(2):
        done = run("store", "gc", earlier / name, *words)
        assert done.returncode == 0, done.stderr
    hasher = "sha3_256" if name == "sha3" else "sha256"
    pinned = hashlib.new(hasher, payload(11, 20_000)).hexdigest()
    assert run("store", "ls", earlier / name).stdout.split() == [pinned]


def test_quarantined_blob_stays_in_quarantine(earlier: Path) -> None:
    found = run("store", "verify", earlier / "store")
    assert (found.returncode, found.stderr) == (DIGEST_MISMATCH, "4 files, 35.0 kB: 1 set aside\n")
    kept = [
        file.read_bytes() for file in (earlier / "store/.shardcast-store/quarantine").glob("7e846b*[0-9a-f]")
    ]
    assert kept == [b"to be damageD"]


def test_archive_directory_gives_its_blobs(earlier: Path) -> None:
    blobs = {hashlib.sha256(blob).hexdigest(): blob for blob in (payload(21, 30_000), payload(22, 100))}
    (earlier / "pulled").mkdir()
    with processes.node(
        "archive", "serve", str(earlier / "archive"), "--host", "127.0.0.1", "--port", "0"
    ) as node:
        done = run("store", "pull", node.url, "-d", earlier / "pulled", *blobs)
    assert done.returncode == 0, done.stderr
    for digest, blob in blobs.items():
        assert (earlier / "pulled" / digest[:2] / digest).read_bytes() == blob


def test_registry_directory_gives_its_content(earlier: Path) -> None:
    stores = {"main": {"protocol": "file", "location": str(earlier / "registry"), "subfolding": [2, 2]}}
    registry = Registry({"default": "main", **stores})
    first, second = (earlier / "registry" / "references.jsonl").read_text().splitlines()
    assert hashlib.sha256(registry.get_hash(json.loads(first))).hexdigest() == json.loads(first)["sha256"]
    assert registry.get_hash(json.loads(second)) == b"small"
    assert registry.put_hash(b"small", "lab2")["path"] == json.loads(second)["path"]
