"""``shardcast broadcast DIR``: options, refusals, a killed origin, and the version after it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

import shardcast
from shardcast.folders.contents import contained_files
from shardcast.protocol.manifest import Manifest
from shardcast.protocol.manifest_reader import parse
from tests.support import processes
from tests.support.processes import Node, wait_until


@pytest.fixture
def model(tmp_path: Path) -> Path:
    root = tmp_path / "model"
    (root / "logs").mkdir(parents=True)
    (root / "weights.bin").write_bytes(os.urandom((1 << 20) + 5))
    (root / "config.json").write_bytes(b"{}")
    (root / "logs" / "today.log").write_bytes(b"long")
    return root


def broadcast(path: Path, data_dir: Path, *words: str, code: int = 0) -> str:
    """Run the command; return its output, or its error."""
    done = processes.run("broadcast", str(path), "--data-dir", str(data_dir), *words)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout.strip()


def published(data_dir: Path, version: str) -> Manifest:
    """Return a version's manifest, after a look at its shards."""
    manifest = parse((data_dir / version / "manifest.jsonl").read_bytes(), version)
    shards = sorted((data_dir / version).glob("shard_*.bin"))
    digest = hashlib.sha256(b"".join(shard.read_bytes() for shard in shards)).hexdigest()
    assert manifest.digests["sha256"] == digest
    return manifest


def paths(manifest: Manifest) -> list[str]:
    return [file.path for file in contained_files(manifest)]


def test_options_say_what_of_a_folder_is_published(model: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert broadcast(model, data, "--exclude", "*.json", "--exclude", "logs/", "--no-mtimes") == "v1"
    assert [(file.path, file.mtime) for file in contained_files(published(data, "v1"))] == [
        ("weights.bin", 0)
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("config.json", "--exclude", "x"), "is a file"),
        (("config.json", "--no-mtimes"), "is a file"),
        ((".", "--exclude", "!x"), "not supported"),
        (("-", "--exclude", "x"), "--exclude needs a folder"),
        ((".", "--to", "http://127.0.0.1:9", "--checksum"), "--checksum needs a folder"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words: tuple[str, ...], says: str, model: Path) -> None:
    done = processes.run("broadcast", *words, cwd=model)
    assert done.returncode == 2 and says in done.stderr
    assert not (model / "data").exists()


def test_link_out_of_the_folder_is_refused_by_the_origin_by_name(model: Path, tmp_path: Path) -> None:
    (model / "logs" / "out").symlink_to("/etc/passwd")
    data = tmp_path / "data"
    with processes.origin(data) as origin:
        error = broadcast(model, data, code=6)
        assert "'logs/out'" in error and "--exclude" in error
        assert broadcast(model, data, "--exclude", "/logs/out") == "v2"
        assert "v1 was aborted" in origin.log


def test_data_directory_in_the_folder_is_refused_unless_it_is_left_out(model: Path) -> None:
    assert "'data/' is the data directory" in broadcast(model, model / "data", code=6)
    assert broadcast(model, model / "data", "--exclude", "/data/") == "v2"
    assert "data/" not in paths(published(model / "data", "v2"))


def kill_while_publishing(origin: Node, data: Path, model: Path) -> None:
    """Kill an origin once the first shard of a folder is there."""
    words = ("shardcast", "broadcast", str(model), "--data-dir", str(data))
    with processes.started(processes.command(*words[1:]), timeout=0):
        wait_until(lambda: (data / "v1" / "shard_001.bin").exists(), what="the first shard")
        origin.kill()


def test_origin_that_is_killed_while_it_publishes_a_folder_begins_anew(model: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (model / "large.bin").touch()
    os.truncate(model / "large.bin", 300_000_000)
    with processes.origin(data) as origin:
        kill_while_publishing(origin, data, model)
    os.truncate(model / "large.bin", 3_000_000)
    with processes.origin(data) as origin:
        assert "discarded v1" in origin.log
        assert not (data / "v1").exists()
        assert broadcast(model, data, "--shard-size", "1MB") == "v2"
        origin.kill()
    with processes.origin(data) as origin:  # takes up what was complete, and the record of it
        assert broadcast(model, data, "--shard-size", "1MB") == "v3"
    first, second = published(data, "v2"), published(data, "v3")
    assert first.digests == second.digests and first.raw != second.raw
    assert paths(first) == ["config.json", "large.bin", "logs/", "logs/today.log", "weights.bin"]


def test_library_publishes_a_folder(model: Path, tmp_path: Path) -> None:
    shardcast.initialize(data_dir=tmp_path / "data", port=0)
    try:
        assert shardcast.broadcast(model, exclude=["logs/"]) == "v1"
        handle = shardcast.broadcast(model, wait=False, mtimes=False, checksum=True)
        assert handle.result(30) == "v2"
        assert handle.progress.size == handle.progress.done == published(tmp_path / "data", "v2").size
        with pytest.raises(shardcast.UsageError):
            shardcast.broadcast(model / "config.json", exclude=["x"])
    finally:
        shardcast.shutdown()
    assert paths(published(tmp_path / "data", "v1")) == ["config.json", "weights.bin"]


def test_json_names_the_folder(model: Path, tmp_path: Path) -> None:
    said = json.loads(broadcast(model, tmp_path / "data", "--json"))
    assert said == {"version": "v1", "path": str(model)}
