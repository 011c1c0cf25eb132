"""docs/backup-format.md is true and enough: its vectors hold, a restorer written from it alone restores."""

from __future__ import annotations

import ast
import asyncio
import base64
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shardcast.backup.ids import ChunkKind, chunk_id
from shardcast.backup.packs import parse_index
from shardcast.backup.snapshots import parse_snapshot
from shardcast.backup.wire import ChunkLocation
from tests.support import independent_restorer
from tests.support.backup_clients import a_client
from tests.support.exact_trees import dress, read_exactly
from tests.support.independent_restorer import Restorer, decode, read_index
from tests.support.restores import Restored
from tests.support.saved_trees import MemoryServer, SavedTree

RESTORER = Path(independent_restorer.__file__)
PAGE = Path(__file__).resolve().parents[2] / "docs" / "backup-format.md"
ODD_NAMES = (b"\xff\xfe", b"new\nline", b" ", b"-rf", b"\xc3\xa9", b"a" * 255, b"...", b"back\\slash")


@pytest.fixture(scope="module")
def vectors() -> Any:
    """Return the vectors of the page."""
    return json.loads(PAGE.read_text().split("```json\n")[1].split("```")[0])


def test_restorer_of_the_page_is_independent_and_short() -> None:
    tree = ast.parse(RESTORER.read_text())
    modules = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    modules += [node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [module for module in modules if module.split(".")[0] in ("shardcast", "tests", "")]
    assert len(RESTORER.read_text().splitlines()) <= 200


def test_vectors_hold_for_shardcast_and_for_the_page(vectors: Any, tmp_path: Path) -> None:
    pack, key = base64.b64decode("".join(vectors["pack"])), bytes.fromhex(vectors["id_key"])
    digest = hashlib.sha256(pack).digest()
    assert digest.hex() == vectors["pack_sha256"]
    record = json.dumps(vectors["record"]).encode()
    chunks = dict(read_index(pack))
    for (kind, wanted), encoded in zip(vectors["chunks"], chunks.values(), strict=True):
        plain = decode(encoded)
        assert independent_restorer.chunk_id(key, kind.encode(), plain).hex() == wanted
        assert chunk_id(key, ChunkKind(kind.encode()), plain).hex() == wanted

    source = VectorSource(key, record, chunks)
    Restorer(source).run("", os.fsencode(tmp_path / "page"))  # type: ignore[arg-type]
    places = {chunk.id: ChunkLocation(digest, *chunk[1:]) for chunk in parse_index(pack, pack, len(pack))}
    server = MemoryServer(packs={digest: pack}, places=places)
    Restored(SavedTree(server, key, root=parse_snapshot(record).root), tmp_path / "shardcast")
    for folder in ("page", "shardcast"):
        paths = [
            tmp_path / folder / os.fsdecode(independent_restorer.text(one, "path")) for one in vectors["tree"]
        ]
        assert sorted((tmp_path / folder).iterdir()) == sorted(paths)
        for path, one in zip(paths, vectors["tree"], strict=True):
            check_vector(path, one)


class VectorSource:
    """The chunks of the vectors, for the restorer."""

    def __init__(self, key: bytes, record: bytes, chunks: dict[bytes, bytes]) -> None:
        self.key = key
        self.record = lambda _: record
        self.encoded = chunks.__getitem__


def check_vector(path: Path, wanted: dict[str, Any]) -> None:
    """Check that a path is as the vectors say."""
    found = path.lstat()
    if wanted["kind"] == "link":
        assert str(path.readlink()) == wanted["target"]
        return
    assert (found.st_mode & 0o7777, found.st_mtime_ns) == (wanted["mode"], wanted["mtime"])
    if wanted["kind"] == "file":
        data = path.read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (wanted["size"], wanted["sha256"])


def make_tree(folder: Path) -> None:
    """Make a folder with some of everything that a backup keeps."""
    (folder / "many").mkdir(parents=True)
    for number in range(600):  # several segments
        (folder / "many" / f"{number}").write_bytes(b"%d" % number)
    for name in ODD_NAMES:
        (folder / os.fsdecode(name)).write_bytes(name * 10)
    (folder / "large").write_bytes(os.urandom(3 << 20))
    with (folder / "sparse").open("wb") as file:
        file.seek(5 << 20)
        file.write(b"x" * 5000)
        file.truncate(8 << 20)
    (folder / "empty").touch()
    (folder / "other name").hardlink_to(folder / "large")
    (folder / "many" / "third").hardlink_to(folder / "large")
    (folder / "link").symlink_to("many/1")
    (folder / "dangling").symlink_to(os.fsdecode(b"\xff/../.."))
    if os.geteuid() == 0:
        os.mknod(folder / "device", 0o020640, os.makedev(1, 3))
        os.chown(folder / "many" / "7", 1234, 4321)
        (folder / "many" / "8").chmod(0o4755)
    dress(folder, 7)


@pytest.mark.parametrize("through", ["disk", "server"])
async def test_page_is_enough_for_a_restorer(tmp_path: Path, through: str) -> None:
    source, restored = tmp_path / "source", tmp_path / "restored"
    make_tree(source)
    async with a_client(tmp_path) as client:
        saved = await asyncio.to_thread(client.save, source)
        place = (client.url, client.key_file) if through == "server" else (tmp_path / "store", "desk-me")
        words = [sys.executable, str(RESTORER), *map(str, place), saved, str(restored)]
        done = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        again = await client.run("restore", saved, "--dest", str(tmp_path / "again"), "--privileged")
        assert again.returncode == 0, again.stderr
    assert read_exactly(restored) == read_exactly(tmp_path / "again") == read_exactly(source)
    assert (restored / "sparse").stat().st_blocks * 512 < 1 << 20
