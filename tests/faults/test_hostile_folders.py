"""Hostile folders, as published attacks on tar and zip have them: nothing is written outside the output.

A server of the attacker's gives a manifest and a tar that agree with each other.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shardcast.digest import PieceDigests
from shardcast.errors import ShardcastError
from shardcast.nodes.client import Client
from shardcast.nodes.middle import Middle
from tests.integration.test_live import until
from tests.support.legacy import plain_server

SHARD_SIZE = 50_000_000
MEBIBYTE = 1 << 20


class Attack:
    """A version of an attacker: the entries that the manifest lists, and the tar."""

    def __init__(self) -> None:
        self.entries: list[list[Any]] = []
        self._bytes = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._bytes, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    def add(
        self, path: str, content: bytes = b"", kind: str = "", target: str = "", mode: int = 0o644
    ) -> None:
        """Add an entry to the list and to the tar."""
        self.entries.append([path, len(content), mode, 0, *([kind, target] if kind else [])])
        member = tarfile.TarInfo(path.rstrip("/")[:90].replace("\0", "?"))
        member.size, member.mode, member.linkname = len(content), mode, target[:90]
        flags = {"symlink": tarfile.SYMTYPE, "link": tarfile.LNKTYPE, "": tarfile.REGTYPE}
        member.type = tarfile.DIRTYPE if path.endswith("/") else flags.get(kind, tarfile.CHRTYPE)
        self._tar.addfile(member, io.BytesIO(content))

    def publish(self, root: Path, **header: Any) -> None:
        """Write the version as a static server has it, in one shard."""
        self._tar.fileobj.write(bytes(1024))  # type: ignore[union-attr]
        data = self._bytes.getvalue()
        pieces = PieceDigests(262144)
        pieces.update(data)
        digest = hashlib.sha256(data).hexdigest()
        lines: list[dict[str, Any]] = [
            {
                "format": 1, "version": "v1", "origin": "0123456789abcdef", "name": "m.tar", "kind": "file",
                "size": len(data), "shard_size": SHARD_SIZE, "piece_size": 262144, "created": 1,
                "metadata": {}, "folder": {"name": "m", "entries": len(self.entries)},
            } | header,
            {"entries": self.entries},
            {
                "shard": 1, "size": len(data), "sha256": digest,
                "blake3": base64.b64encode(pieces.finish()).decode(),
            },
            {"complete": True, "size": len(data), "shards": 1, "sha256": digest},
        ]  # fmt: skip
        (root / "v1").mkdir(parents=True)
        (root / "v1" / "manifest.jsonl").write_bytes(
            b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        )
        (root / "v1" / "shard_001.bin").write_bytes(data)
        (root / "distribution.txt").write_text(f"v1: {digest}|1\n")


def attack_of(*entries: tuple[Any, ...]) -> Callable[[str], Attack]:
    """Return an attack with these entries; ``{outside}`` in a path is a folder beside the output."""

    def made(outside: str) -> Attack:
        attack = Attack()
        for path, *rest in entries:
            words = [word.replace("{outside}", outside) if isinstance(word, str) else word for word in rest]
            attack.add(path.replace("{outside}", outside), *words)
        return attack

    return made


ATTACKS: dict[str, Callable[[str], Attack]] = {
    "path with dots (CVE-2007-4559)": attack_of(("../evil", b"x")),
    "dots deeper (zip slip)": attack_of(("a/", b""), ("a/../../evil", b"x")),
    "absolute path": attack_of(("{outside}/evil", b"x")),
    "absolute path with two slashes": attack_of(("//{outside}/evil", b"x")),
    "link out, then a file through it (CVE-2001-1267)": attack_of(
        ("a", b"", "symlink", "{outside}"), ("a/evil", b"x")
    ),
    "link out with dots, then a file through it": attack_of(
        ("a", b"", "symlink", "../outside"), ("a/evil", b"x")
    ),
    "folder that is a link and a folder": attack_of(
        ("a", b"", "symlink", "../outside"), ("a/", b""), ("a/evil", b"x")
    ),
    "link to a link out (CVE-2021-32803)": attack_of(
        ("a", b"", "symlink", "b/.."), ("b/", b""), ("b/c", b"", "symlink", "../..")
    ),
    "hard link to a file outside (CVE-2005-1918)": attack_of(("a", b"", "link", "../outside/victim")),
    "hard link to an absolute path": attack_of(("a", b"", "link", "{outside}/victim")),
    "hard link to a symbolic link": attack_of(("a", b"", "symlink", "b"), ("c", b"", "link", "a")),
    "file through a hard link": attack_of(("a", b"", "link", "{outside}/victim"), ("a", b"x")),
    "twice the same name (CVE-2019-16201)": attack_of(("a", b"", "symlink", "{outside}/victim"), ("a", b"x")),
    "device": attack_of(("a", b"", "char", "1:3")),
    "setuid file": attack_of(("a", b"x", "", "", 0o4755)),
    "NUL in a name": attack_of(("a\0/../../evil", b"x")),
    "name of 256 bytes": attack_of(("a" * 256, b"x")),
    "path of 4097 bytes": attack_of(*[("/".join(["a" * 255] * deep) + "/", b"") for deep in range(1, 17)]),
}


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return all paths below a folder, with the bytes of files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("attack", ATTACKS)
async def test_attack_writes_nothing_outside_the_output(tmp_path: Path, attack: str) -> None:
    outside, out = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    (outside / "victim").write_bytes(b"precious")
    ATTACKS[attack](str(outside)).publish(tmp_path / "server")
    before = tree(outside)
    with plain_server(tmp_path / "server") as server:
        async with Client([server.url], out) as client:
            with pytest.raises(ShardcastError, match="v1"):
                await client.download()
    assert not (out / "v1").exists()
    assert tree(outside) == before
    assert {path.name for path in tmp_path.iterdir()} <= {"outside", "out", "server"}


BOMBS: dict[str, tuple[dict[str, Any], list[list[Any]]]] = {
    "a file of an exabyte": ({}, [["a", 1 << 60, 0o644, 0]]),
    "sizes that overflow together": ({}, [[f"{number:03}", 1 << 60, 0o644, 0] for number in range(100)]),
    "two million entries that never come": (
        {"folder": {"name": "m", "entries": 2_000_000}},
        [["a", 0, 0o644, 0]],
    ),
    "more entries than said": (
        {"folder": {"name": "m", "entries": 1}},
        [[name, 0, 0o644, 0] for name in "abc"],
    ),
    "shards of one byte": ({"shard_size": 1}, [["a", 1 << 40, 0o644, 0]]),
    "shards of no size": ({"shard_size": None}, [["a", 0, 0o644, 0]]),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
async def test_manifest_that_claims_too_much_is_refused(tmp_path: Path, bomb: str) -> None:
    header, entries = BOMBS[bomb]
    attack = Attack()
    attack.entries = entries
    attack.publish(tmp_path / "server", **header)
    with plain_server(tmp_path / "server") as server:
        async with Client([server.url], tmp_path / "out") as client:
            with pytest.raises(ShardcastError, match="v1"):
                await client.download()
    assert not (tmp_path / "out" / "v1").exists()


async def test_middle_relays_a_hostile_folder_and_writes_only_its_shards(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    attack = Attack()
    attack.add("../evil", b"x")
    attack.add("a", b"", "symlink", str(outside))
    attack.publish(tmp_path / "server")
    with plain_server(tmp_path / "server") as server:
        async with Middle.running(
            [server.url], tmp_path / "middle", "127.0.0.1", 0, check_interval=0.1
        ) as middle:
            await until(lambda: bool(middle.folders.listings))
            async with Client([middle.url], tmp_path / "out") as client:
                with pytest.raises(ShardcastError, match="v1"):
                    await client.download()
    assert {path.name for path in (tmp_path / "middle" / "v1").iterdir()} == {
        "manifest.jsonl",
        "shard_001.bin",
    }
    assert {path.name for path in tmp_path.iterdir()} <= {"outside", "out", "server", "middle"}
    assert not list(outside.iterdir())
