"""The recipes of docs/security.md, run as they are written, and refused where they say so."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.processes import environment, reserved_port

PAGE = Path(__file__).resolve().parents[2] / "docs" / "security.md"
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PORT = re.compile(r"PORT=\d+")
EXIT_CODE = re.compile(r"exit code (\d+)")
SERVER = re.compile(r"^shardcast-(origin|middle) ", re.MULTILINE)


@dataclass(frozen=True)
class Recipe:
    """A recipe of the page.

    Attributes:
        variables: its first block.
        blocks: the others.
    """

    variables: str
    blocks: list[str]


def recipe(number: int) -> Recipe:
    """Return a recipe of the page, with its blocks as they are written."""
    (section,) = re.findall(rf"^## Recipe {number}:.*?(?=^## )", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    variables, *blocks = BLOCK.findall(section)
    return Recipe(variables, blocks)


class Shell:
    """Runs the blocks of a recipe as a person does: each in a terminal that begins with the variables."""

    def __init__(self, folder: Path, variables: str, stack: contextlib.ExitStack) -> None:
        """Run in a folder; free ports take the place of those in the variables, and nothing else changes."""
        self._folder = folder
        self._stack = stack
        self._variables = PORT.sub(lambda _: f"PORT={stack.enter_context(reserved_port())}", variables)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        self._env = environment(PATH=path)

    def run_all(self, blocks: list[str]) -> None:
        """Run blocks one after the other; servers run until the stack ends."""
        for block in blocks:
            if SERVER.search(block):
                self._stack.enter_context(self._serving(block))
            else:
                self._run(block)

    def _run(self, block: str) -> None:
        """Run a block to its end, which is the exit code that it names, or success."""
        done = subprocess.run(
            ["bash", "-e", "-c", self._variables + block],
            cwd=self._folder,
            env=self._env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        named = EXIT_CODE.search(block)
        assert done.returncode == (int(named[1]) if named else 0), f"{block}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr

    @contextlib.contextmanager
    def _serving(self, block: str) -> Iterator[None]:
        """Run a server inside the block, from when it listens on."""
        seen: list[str] = []
        with subprocess.Popen(
            ["bash", "-c", self._variables + block],
            cwd=self._folder,
            env=self._env,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # so that the server ends with its shell
        ) as process:
            assert process.stderr is not None
            reader = threading.Thread(target=seen.extend, args=(process.stderr,), daemon=True)
            try:
                for line in process.stderr:
                    seen.append(line)
                    if "Listening on" in line:
                        break
                else:
                    pytest.fail(f"{block}\n{''.join(seen)}")
                reader.start()
                yield
            finally:
                os.killpg(process.pid, signal.SIGTERM)
                if reader.ident:
                    reader.join(30)
        assert "Traceback" not in "".join(seen)


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as opened:
        yield opened


needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl")


def test_recipe_with_a_shared_token_works_as_written(tmp_path: Path, stack: contextlib.ExitStack) -> None:
    written = recipe(1)
    Shell(tmp_path, written.variables, stack).run_all(written.blocks)
    assert (tmp_path / "got.bin").read_bytes() == (tmp_path / "checkpoint.bin").read_bytes()


@needs_openssl
def test_recipe_with_tokens_and_tls_works_as_written(tmp_path: Path, stack: contextlib.ExitStack) -> None:
    written = recipe(2)
    Shell(tmp_path, written.variables, stack).run_all(written.blocks)
    assert (tmp_path / "got.bin").read_bytes() == (tmp_path / "checkpoint.bin").read_bytes()


@needs_openssl
def test_recipe_with_mutual_tls_works_as_written(tmp_path: Path, stack: contextlib.ExitStack) -> None:
    authority, written = recipe(2).blocks[0], recipe(3)
    Shell(tmp_path, written.variables, stack).run_all([authority, *written.blocks])
    assert (tmp_path / "got3.bin").read_bytes() == (tmp_path / "checkpoint.bin").read_bytes()


@pytest.mark.parametrize(("number", "refused"), [(1, ["8"]), (2, ["8", "8", "4", "2"]), (3, ["4"])])
def test_each_recipe_shows_what_is_refused(number: int, refused: list[str]) -> None:
    assert EXIT_CODE.findall("".join(recipe(number).blocks)) == refused
