"""README's commands and its Python block run as they stand, with hosts, ports and paths of the test."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import processes

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CHECKPOINT, SAMPLES = b"checkpoint" * 1000, b"samples" * 3000

SKIPPED = {
    r"^make (demo|test)\b": "makes an environment, or runs this test",
    r"^pip install ": "the environment of the tests has it",
    r"^ +\d+\.\d\d s ": "output of the demo",
}
"""Lines that are not run, and the reason."""
STAYS = re.compile(r"^shardcast-(origin|middle) | --follow ")
"""Commands that run until they are told to end."""
TORCH = 'class torch:\n    save = staticmethod(lambda model, out: out.write(model))\n\n\nmodel = b"model"\n'


def lines() -> list[str]:
    """Return the command lines of README in their order."""
    found = [text for language, text in BLOCK.findall(README.read_text()) if not language]
    return [line for text in found for line in text.splitlines() if line.strip()]


def commands() -> list[str]:
    """Return the lines that are run."""
    return [line for line in lines() if not any(re.search(pattern, line) for pattern in SKIPPED)]


def test_each_reason_to_skip_a_line_is_needed() -> None:
    for pattern in SKIPPED:
        assert any(re.search(pattern, line) for line in lines()), pattern


@pytest.fixture
def ports() -> Iterator[tuple[int, int]]:
    with processes.reserved_port() as origin, processes.reserved_port() as middle:
        yield origin, middle


class Shell:
    """Runs README's lines in a folder."""

    def __init__(self, folder: Path, origin: int, middle: int) -> None:
        """Run in ``folder``, with these ports for origin and middle."""
        self.folder = folder
        self.staying: list[tuple[str, subprocess.Popen[str]]] = []
        self._replacements = {
            r"10\.0\.0\.[23]:8001": f"127.0.0.1:{middle}",
            r"10\.0\.0\.1(?= )": f"127.0.0.1:{origin}",
            r"--port 8000": f"--host 127.0.0.1 --port {origin}",
            r"--port 8001": f"--host 127.0.0.1 --port {middle} --check-interval 1",
            r"'reload ": "'true ",
            r"10m": "1s",
            r"models --share": "shared --share",  # else v3 would be there already
        }
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._environment = processes.environment(PATH=path)

    def run(self, line: str) -> str:
        """Run a line to its end and return its output, or start it where it stays."""
        for pattern, replacement in self._replacements.items():
            line = re.sub(pattern, replacement, line)
        stays = STAYS.search(line) is not None
        words = ["sh", "-c", f"exec {line}" if stays else line]
        process = subprocess.Popen(
            words, cwd=self.folder, env=self._environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        if stays:
            self.staying.append((line, process))
            assert process.stdout is not None and process.stderr is not None
            if "--follow" in line:
                return process.stdout.readline()
            while "Listening on" not in (told := process.stderr.readline()):
                assert told, f"{line}: ended before it listened"
            return ""
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, f"{line}\n{err}"
        return out

    def end(self) -> None:
        """End what stays, the newest first, and assert that it ends well."""
        for line, process in reversed(self.staying):
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
            assert process.returncode == 0, line

    def kill(self) -> None:
        """Kill what still runs."""
        for _, process in self.staying:
            process.kill()
            process.communicate(timeout=10)


@pytest.fixture
def shell(tmp_path: Path, ports: tuple[int, int]) -> Iterator[Shell]:
    (tmp_path / "checkpoint.bin").write_bytes(CHECKPOINT)
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "weights.bin").write_bytes(CHECKPOINT)
    (tmp_path / "samples.gz").write_bytes(gzip.compress(SAMPLES))
    made = Shell(tmp_path, *ports)
    with contextlib.closing(contextlib.ExitStack()) as stack:
        stack.callback(made.kill)
        yield made


def test_commands_of_readme_work_in_their_order(shell: Shell) -> None:
    output = {line: shell.run(line) for line in commands()}
    published = [out for line, out in output.items() if " broadcast " in line]
    assert published == ["v1\n", "v2\n", "v3\n"]
    assert (shell.folder / "model.bin").read_bytes() == SAMPLES
    followed = [json.loads(out)["version"] for line, out in output.items() if "--follow" in line]
    assert followed == ["v3", "v3"]
    assert (shell.folder / "models" / "latest").resolve().read_bytes() == SAMPLES
    [listed] = [out for line, out in output.items() if line.endswith("--list")]
    assert [row.split()[0] for row in listed.splitlines()] == ["v1", "v2", "v3"]
    shell.end()


def test_python_block_of_readme_runs(tmp_path: Path, ports: tuple[int, int]) -> None:
    [block] = [text for language, text in BLOCK.findall(README.read_text()) if language == "python"]
    for name in ("model.safetensors", "other.bin", "large.bin", "x.bin"):
        (tmp_path / name).write_bytes(name.encode() * 100)
    elsewhere, own = ports
    words = ("--publish", "--host", "127.0.0.1", "--port", str(elsewhere))
    with processes.node("origin", "--data-dir", str(tmp_path / "elsewhere"), *words):
        block = block.replace('"/path/', f'"{tmp_path}/').replace("port=8000", f"port={own}")
        block = block.replace("https://origin:8000", f"http://127.0.0.1:{elsewhere}")
        words = (sys.executable, "-c", TORCH + block)
        done = subprocess.run(
            words, cwd=tmp_path, env=processes.environment(), capture_output=True, text=True, timeout=90
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        listed = processes.run("client", "--servers", f"127.0.0.1:{elsewhere}", "--list")
        assert [row.split()[0] for row in listed.stdout.splitlines()] == ["v1"]
    lists = (tmp_path / "data" / "distribution.txt").read_text()
    assert [line.split(":")[0] for line in lists.splitlines()] == ["v1", "v2", "v3", "v4", "v5"]


def test_commands_of_readme_are_ours() -> None:
    programs = {shlex.split(line.split("|")[-1])[0] for line in commands()}
    assert programs <= {"shardcast", "shardcast-origin", "shardcast-middle", "shardcast-client"}
