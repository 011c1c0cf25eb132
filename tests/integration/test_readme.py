"""README's commands and its Python block run as they stand, with hosts, ports and paths of the test."""

from __future__ import annotations

import gzip
import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import pages, processes
from tests.support.page_shell import page_shell

README = pages.ROOT / "README.md"
CHECKPOINT, SAMPLES = b"checkpoint" * 1000, b"samples" * 3000
TORCH = 'class torch:\n    save = staticmethod(lambda model, out: out.write(model))\n\n\nmodel = b"model"\n'


def commands() -> list[str]:
    """Return the command lines of README in their order."""
    return [line for block in pages.blocks_to_run(README, "bash") for line in block.splitlines()]


@pytest.fixture
def ports() -> Iterator[tuple[int, int]]:
    with processes.reserved_port() as origin, processes.reserved_port() as middle:
        yield origin, middle


def test_commands_of_readme_work_in_their_order(tmp_path: Path, ports: tuple[int, int]) -> None:
    origin, middle = ports
    (tmp_path / "checkpoint.bin").write_bytes(CHECKPOINT)
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "weights.bin").write_bytes(CHECKPOINT)
    (tmp_path / "samples.gz").write_bytes(gzip.compress(SAMPLES))
    replacements = {
        r"10\.0\.0\.[23]:8001": f"127.0.0.1:{middle}",
        r"10\.0\.0\.1(?= )": f"127.0.0.1:{origin}",
        r"--port 8000": f"--host 127.0.0.1 --port {origin}",
        r"--port 8001": f"--host 127.0.0.1 --port {middle} --check-interval 1",
        r"'reload ": "'true ",
        r"10m": "1s",
        r"models --share": "shared --share",  # else v3 would be there already
    }
    with page_shell(tmp_path, replacements) as shell:
        output = {line: shell.run(line) for line in commands()}
    published = [out for line, out in output.items() if " broadcast " in line]
    assert published == ["v1\n", "v2\n", "v3\n"]
    assert (tmp_path / "model.bin").read_bytes() == SAMPLES
    followed = [json.loads(out)["version"] for line, out in output.items() if "--follow" in line]
    assert followed == ["v3", "v3"]
    assert (tmp_path / "models" / "latest").resolve().read_bytes() == SAMPLES
    [listed] = [out for line, out in output.items() if line.endswith("--list")]
    assert [row.split()[0] for row in listed.splitlines()] == ["v1", "v2", "v3"]


def test_python_block_of_readme_runs(tmp_path: Path, ports: tuple[int, int]) -> None:
    [block] = pages.blocks_to_run(README, "python")
    for name in ("model.safetensors", "other.bin", "large.bin", "x.bin"):
        (tmp_path / name).write_bytes(name.encode() * 100)
    elsewhere, own = ports
    replacements = {
        '"/path/': f'"{tmp_path}/',
        "port=8000": f"port={own}",
        "https://origin:8000": f"http://127.0.0.1:{elsewhere}",
    }
    words = ("--publish", "--host", "127.0.0.1", "--port", str(elsewhere))
    with processes.node("origin", "--data-dir", str(tmp_path / "elsewhere"), *words):
        with page_shell(tmp_path, replacements) as shell:
            shell.run_python(block, TORCH)
        listed = processes.run("client", "--servers", f"127.0.0.1:{elsewhere}", "--list")
        assert [row.split()[0] for row in listed.stdout.splitlines()] == ["v1"]
    lists = (tmp_path / "data" / "distribution.txt").read_text()
    assert [line.split(":")[0] for line in lists.splitlines()] == ["v1", "v2", "v3", "v4", "v5"]


def test_commands_of_readme_are_ours() -> None:
    programs = {shlex.split(line.split("|")[-1])[0] for line in commands()}
    assert programs <= {"shardcast", "shardcast-origin", "shardcast-middle", "shardcast-client"}
