"""Outputs that are named after their payloads."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from pathlib import Path

import pytest

from shardcast import Client, ClientNode, UsageError, Withdrawal
from shardcast.nodes.outputs import OutputFolder
from tests.support import processes


def broadcast(data_dir: Path, name: str, content: bytes, *words: str) -> str:
    """Publish content under a name that no file of this machine need have, and return the version."""
    file = data_dir.with_name("stdin")
    file.write_bytes(content)
    with file.open("rb") as stdin:
        process = processes.Popen(
            processes.command("broadcast", "-", "--name", name, "--data-dir", str(data_dir), *words),
            env=processes.environment(), stdin=stdin, stdout=-1, stderr=-1, text=True,
        )  # fmt: skip
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    return stdout.strip()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


async def test_download_has_its_own_name_below_the_output_folder(data_dir: Path, tmp_path: Path) -> None:
    broadcast(data_dir, "model.safetensors", b"one", "--tag", "best")
    broadcast(data_dir, "../../../evil/..", b"two")
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    with processes.origin(data_dir) as origin:
        processes.run("broadcast", str(folder), "--data-dir", str(data_dir))
        out = tmp_path / "out"
        words = ("client", "--servers", origin.url, "--output-dir", str(out))
        done = processes.run(*words, "--version", "v1", "--output-name", "{version}/{name}")
        assert (done.returncode, done.stdout) == (0, f"{out}/v1/model.safetensors\n"), done.stderr
        done = processes.run(*words, "--version", "v1", "--output-name", "{tag}{suffix}")
        assert done.stdout == f"{out}/best.safetensors\n"
        async with Client(origin.url, out, output_name="{version}-{name}") as client:
            release = await client.download("v2")
            assert release.path.parent == out
            assert release.path.read_bytes() == b"two"
            release = await client.download("v3")
            assert release.path == out / "v3-checkpoint"
            assert (release.path / "a.txt").read_text() == "a"
        node = ClientNode(origin.url, out, output_name="{number}{suffix}")
        assert node.download_version("v1") == str(out / "1.safetensors")
    assert not (tmp_path / "evil").exists()
    assert {path.name for path in tmp_path.iterdir()} <= {"data", "out", "checkpoint", "stdin"}


async def test_follower_keeps_links_and_removes_named_outputs(data_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with processes.origin(data_dir) as origin:
        outputs = OutputFolder(out)
        for number in range(1, 5):
            version = broadcast(data_dir, "model.pt", b"x" * number)
            async with Client(origin.url, out, output_name="{version}/{name}") as client:
                following = client.follow(resume=number > 1, keep=2)
                async with asyncio.timeout(30), aclosing(following) as releases:
                    release = await anext(releases)  # a new run for each: it knows the files by their records
                    assert release.version == version
                    asking = asyncio.ensure_future(anext(releases))
                    while (out / ".latest-under-way").is_symlink() or len(list(out.glob("v*"))) > 2:
                        await asyncio.sleep(0.02)
                    asking.cancel()
                    await asyncio.wait([asking])
                assert (out / "latest").readlink() == Path(version) / "model.pt"
                assert (out / "latest").read_bytes() == b"x" * number
        assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == [
            "latest",
            "v3",
            "v4",
        ]
        kept = [path.suffix for path in out.iterdir() if path.name.startswith(".output-")]
        assert sorted(kept) == [".manifest", ".manifest", ".record", ".record"]
        processes.run("withdraw", "v4", "--data-dir", str(data_dir))
        told = asyncio.Event()

        def note(withdrawal: Withdrawal) -> None:
            assert withdrawal.version == "v4"
            told.set()

        async with Client(origin.url, out, output_name="{version}/{name}") as client:
            releases = client.follow(resume=True, on_withdrawn=note)
            async with asyncio.timeout(30), aclosing(releases):
                waiting = asyncio.ensure_future(anext(releases))
                await told.wait()
                waiting.cancel()
                await asyncio.wait([waiting])
        assert dict(outputs.good_versions(outputs.lines.last_line()[0])) == {3: out / "v3" / "model.pt"}


def test_leftovers_of_named_outputs_go(tmp_path: Path) -> None:
    outputs = OutputFolder(tmp_path)
    path = tmp_path / "v3" / "model.pt"
    outputs.begin(path, "a" * 32, 3)
    (path.parent / ".model.pt.part").write_bytes(b"half")
    outputs.clear_pending(lambda number: number < 3)
    assert (path.parent / ".model.pt.part").exists()
    outputs.clear_pending(lambda number: number < 4)
    assert {entry.name for entry in tmp_path.iterdir()} == {".shardcast-lines.lock"}


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "", "a/../../x", "\0"])
def test_record_that_leads_out_of_the_folder_counts_as_none(path: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (tmp_path / "x").write_bytes(b"precious")
    found = (tmp_path / "x").stat()
    record = {
        "origin": None, "number": 1, "digest": "0" * 64, "size": found.st_size, "mtime_ns": found.st_mtime_ns,
        "inode": found.st_ino, "path": path,
    }  # fmt: skip
    (folder / f".output-{'0' * 32}.record").write_text(json.dumps(record))
    assert OutputFolder(folder).scan() == {}


@pytest.mark.parametrize("template", ["{name}", "{tag}"])
async def test_followed_names_tell_versions_apart(template: str, tmp_path: Path) -> None:
    async with Client("127.0.0.1:1", tmp_path, output_name=template) as client:
        with pytest.raises(UsageError, match="would replace each other"):
            await anext(client.follow())


@pytest.mark.parametrize("words", [("--list",), ("--version", "v1", "--output-file", "x")])
def test_output_name_that_goes_with_nothing_is_refused(words: tuple[str, ...]) -> None:
    done = processes.run("client", "--servers", "127.0.0.1:1", "--output-name", "{name}", *words)
    assert done.returncode == 2
    assert "--output-name goes with" in done.stderr
