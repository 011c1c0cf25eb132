"""Names that a file may have and few have: not UTF-8, of 255 bytes, with a line's end in them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.filesystem import atomic_file, replace
from shardcast.store.data_dir import DataDir
from shardcast.store.output_part import resolve_output
from shardcast.temporary_files import is_temporary_of, leftovers, stem_of, temporary_name
from tests.support import processes
from tests.support.filling import DATA, MANIFEST, fill, names, open_output

NAMES = {
    "not UTF-8": b"\xff\xfe.bin",
    "not UTF-8 and long": b"\xff" * 255,
    "236 bytes": b"x" * 236,
    "255 bytes": b".bin".rjust(255, b"x"),
    "255 bytes of two-byte characters": "é".encode() * 127 + b"x",
    "255 bytes that begin with a dot": b"." + b"x" * 254,
    "two lines": b"a\nb",
}
each_name = pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)


@pytest.fixture
def path(tmp_path: Path, name: bytes) -> Path:
    path = tmp_path / os.fsdecode(name)
    try:
        path.touch()
    except OSError as error:
        pytest.skip(f"the file system takes no such name: {error.strerror}")
    path.unlink()
    return path


@each_name
def test_file_is_replaced_and_its_leftovers_are_found(path: Path) -> None:
    replace(path, b"1")
    replace(path, b"2")
    assert path.read_bytes() == b"2"
    part = temporary_name(path)
    part.touch()
    assert is_temporary_of(part.name, path.name)
    assert leftovers(path) == [part]


@each_name
async def test_output_download_resumes_and_completes(path: Path) -> None:
    with open_output(path) as opened:
        await fill(opened, stop=100_000)
        assert any(name.endswith(".manifest") for name in names(path.parent))
    with open_output(path) as opened:
        await fill(opened)
        await opened.complete(MANIFEST)
    assert path.read_bytes() == DATA
    assert names(path.parent) == {path.name}


@each_name
async def test_data_directory_and_store_work_under_any_name(path: Path) -> None:
    DataDir(path, "origin").close()
    store = BlobDirectory(path, "sha256", "prefix", writable=True)
    async with store.put() as writer:
        await writer.write(b"1")
        digest = await writer.commit()
    await store.close()
    assert store.lookup.present([digest]) == [True]


def test_leftovers_of_similar_long_names_are_distinct(tmp_path: Path) -> None:
    """Who removes its own would remove what another is just writing."""
    one, other = (tmp_path / ("x" * 250 + end) for end in "ab")
    with atomic_file(one):
        assert len(leftovers(one)) == 1
        assert leftovers(other) == []


def test_temporary_name_is_not_cut_within_a_character(tmp_path: Path) -> None:
    """macOS, ZFS with utf8only, SMB: a name that is cut within a character is refused there."""
    for length in range(240, 256):
        name = ("é" * 128).encode()[: length // 2 * 2] + b"x" * (length % 2)
        stem_of(name.decode()).encode()
        assert len(os.fsencode(temporary_name(tmp_path / name.decode()).name)) <= 255


def test_too_long_name_is_refused_before_fetching(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 256)
    with pytest.raises(OSError, match="name too long"):
        resolve_output(path)
    with pytest.raises(OSError, match="name too long"), atomic_file(path):
        assert len(names(tmp_path)) == 1
    assert names(tmp_path) == set()


def test_command_publishes_file_with_non_utf_8_name(tmp_path: Path) -> None:
    payload = tmp_path / os.fsdecode(b"\xff.bin")
    try:
        payload.write_bytes(b"1")
    except OSError as error:
        pytest.skip(f"the file system takes no such name: {error.strerror}")
    data_dir = tmp_path / os.fsdecode(b"data\xff")
    words = [*processes.command(), "broadcast", payload, "--data-dir", data_dir]
    done = subprocess.run(words, env=processes.environment(), capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, b"v1\n"), done.stderr
    header = json.loads((data_dir / "v1" / "manifest.jsonl").read_bytes().splitlines()[0])
    assert header["name"] == "_.bin"
