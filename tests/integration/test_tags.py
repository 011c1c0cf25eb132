"""Versions that are asked for by a tag."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import shardcast
from shardcast import Client, ClientNode, UsageError, VersionNotOffered
from shardcast.nodes.tagged import version_text
from tests.support import legacy, processes


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with v1 (step-1, best), v2 (step-2, best), v3 without a tag."""
    folder = tmp_path_factory.mktemp("tagged")
    file = folder / "model.bin"
    for number, tags in ((1, ["step-1", "best"]), (2, ["step-2", "best"]), (3, [])):
        file.write_bytes(bytes(1000 + number))
        words = [word for tag in tags for word in ("--tag", tag)]
        done = processes.run(
            "broadcast",
            str(file),
            "--data-dir",
            str(folder / "data"),
            "--metadata",
            f"loss=0.{number}",
            *words,
        )
        assert done.returncode == 0, done.stderr
    return folder / "data"


@pytest.fixture(scope="module")
def url(data_dir: Path) -> Iterator[str]:
    with processes.origin(data_dir) as origin:
        yield origin.url


def test_command_downloads_newest_version_with_a_tag_and_tells_which(url: str, tmp_path: Path) -> None:
    words = ("client", "--servers", url, "--output-dir", str(tmp_path))
    done = processes.run(*words, "--version", "best", "--json")
    release = json.loads(done.stdout)
    assert release["version"] == "v2"
    assert release["tags"] == ["step-2", "best"]
    assert release["metadata"] == {"loss": "0.2", "tags": ["step-2", "best"]}
    assert "best is v2" in done.stderr
    assert (tmp_path / "download_v2.bin").stat().st_size == 1002


def test_unknown_tag_names_those_on_offer(url: str, tmp_path: Path) -> None:
    words = ("client", "--servers", url, "--output-dir", str(tmp_path))
    done = processes.run(*words, "--version", "3")
    assert done.returncode == 3
    assert "the tag '3'; on offer: v1, step-1, best; v2, step-2, best; v3 (version 3 is v3)" in done.stderr


def test_list_shows_tags(url: str) -> None:
    done = processes.run("client", "--servers", url, "--list")
    assert [line.split()[5:] for line in done.stdout.splitlines()] == [
        ["step-1,best"],
        ["step-2,best"],
        ["-"],
    ]
    done = processes.run("client", "--servers", url, "--list", "--json")
    assert [version["tags"] for version in json.loads(done.stdout)] == [
        ["step-1", "best"],
        ["step-2", "best"],
        [],
    ]


async def test_library_takes_tags_and_numbers(url: str, tmp_path: Path) -> None:
    async with Client(url, tmp_path) as client:
        assert (await client.download("step-1")).version == "v1"
        assert (await client.download(3)).version == "v3"
        with pytest.raises(VersionNotOffered, match="the tag 'gone'"):
            await client.download("gone")
    node = ClientNode(url, tmp_path)
    assert node.download_version("best") == str(tmp_path / "download_v2.bin")
    assert node.download_version("gone") is None


@pytest.mark.parametrize("version", ["a b", "v0", "", None, 1.5, True, "../x", 0, -1])
def test_what_is_neither_version_nor_tag_is_told(version: object, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="or a tag"):
        ClientNode("127.0.0.1:1", tmp_path).download_version(version)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        version_text(version, tags=False)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"or latest$"):
        version_text("best", tags=False)


async def test_middle_and_static_server_carry_tags(url: str, data_dir: Path, tmp_path: Path) -> None:
    with processes.middle(url, tmp_path / "m") as middle:
        node = ClientNode(middle.url, tmp_path / "first")
        processes.wait_until(lambda: node.download_version("v2"), what="the middle's v2")
        async with Client(middle.url, tmp_path / "from-middle") as client:
            assert (await client.download("best")).version == "v2"
    with legacy.plain_server(data_dir) as static:
        async with Client(static.url, tmp_path / "from-static") as client:
            assert (await client.download("best")).version == "v2"


async def test_server_without_manifests_has_no_tags(data_dir: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(data_dir, old, ignore=shutil.ignore_patterns(".shardcast", "manifest.jsonl"))
    with legacy.plain_server(old) as static:
        async with Client(static.url, tmp_path / "out") as client:
            with pytest.raises(VersionNotOffered, match="on offer: v1; v2; v3"):
                await client.download("best")
            assert (await client.download("v2")).tags == ()


def test_library_broadcasts_tags(tmp_path: Path) -> None:
    file = tmp_path / "x.bin"
    file.write_bytes(b"x")
    with processes.origin(tmp_path / "data") as origin:
        shardcast.broadcast(file, tags=["a", "b"], metadata={"step": 1}, data_dir=tmp_path / "data")
        attached = shardcast.OriginServer(tmp_path / "data", attach=True)
        with attached.open_broadcast("s", tags=["streamed"]) as out:
            out.write(b"y")
        node = ClientNode(origin.url, tmp_path / "out")
        assert node.download_version("b") == str(tmp_path / "out/download_v1.bin")
        assert node.download_version("streamed") == str(tmp_path / "out/download_v2.bin")
        with pytest.raises(UsageError, match="can't be a tag"):
            shardcast.broadcast(file, tags=["v1"], data_dir=tmp_path / "data")
        assert list(node.list_available_versions()) == ["v1", "v2"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--tag", "v1"], "can't be a tag"),
        (["--metadata", "x"], "write key=value"),
        (["--metadata", "=x"], "write key=value"),
        (["--metadata", "a=1", "--metadata", "a=2"], "given twice"),
        (["--metadata", f"a={'x' * 20_000}"], "at most 16384"),
    ],
)
def test_label_that_makes_no_sense_is_refused(words: list[str], told: str, tmp_path: Path) -> None:
    file = tmp_path / "x.bin"
    file.write_bytes(b"x")
    done = processes.run("broadcast", str(file), "--data-dir", str(tmp_path / "data"), *words)
    assert done.returncode == 2
    assert told in done.stderr
    assert not (tmp_path / "data").exists()
