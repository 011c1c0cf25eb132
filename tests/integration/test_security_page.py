"""The recipes of docs/security.md, run as they are written, and refused where they say so."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import pages
from tests.support.page_shell import EXIT_CODE, page_shell
from tests.support.processes import reserved_port

PAGE = pages.ROOT / "docs" / "security.md"
PORT = re.compile(r"PORT=(\d+)")
RECIPE = re.compile(r"^## Recipe (\d):.*?(?=^## )", re.MULTILINE | re.DOTALL)


def recipes() -> dict[str, list[str]]:
    """Return the blocks of each recipe, by its number."""
    sections = {found[1]: found[0] for found in RECIPE.finditer(PAGE.read_text())}
    blocks = pages.blocks_to_run(PAGE)
    return {number: [block for block in blocks if block in text] for number, text in sections.items()}


@pytest.fixture
def ports() -> Iterator[dict[str, str]]:
    """Return free ports in place of those in the variables; nothing else changes."""
    written = PORT.findall(PAGE.read_text())
    with ExitStack() as stack:
        yield {f"PORT={port}$": f"PORT={stack.enter_context(reserved_port())}" for port in written}


needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl")


def run(folder: Path, ports: dict[str, str], blocks: list[str], got: str) -> None:
    """Run blocks in a folder, and assert that a client got the checkpoint."""
    with page_shell(folder, ports) as shell:
        for block in blocks:
            shell.run(block)
    assert (folder / got).read_bytes() == (folder / "checkpoint.bin").read_bytes()


def test_recipe_with_a_shared_token_works_as_written(tmp_path: Path, ports: dict[str, str]) -> None:
    run(tmp_path, ports, recipes()["1"], "got.bin")


@needs_openssl
def test_recipe_with_tokens_and_tls_works_as_written(tmp_path: Path, ports: dict[str, str]) -> None:
    run(tmp_path, ports, recipes()["2"], "got.bin")


@needs_openssl
def test_recipe_with_mutual_tls_works_as_written(tmp_path: Path, ports: dict[str, str]) -> None:
    authority = recipes()["2"][1]
    run(tmp_path, ports, [authority, *recipes()["3"]], "got3.bin")


def test_every_block_of_the_page_is_in_a_recipe() -> None:
    assert [block for blocks in recipes().values() for block in blocks] == pages.blocks_to_run(PAGE)


@pytest.mark.parametrize(("number", "refused"), [(1, ["8"]), (2, ["8", "8", "4", "2"]), (3, ["4"])])
def test_each_recipe_shows_what_is_refused(number: int, refused: list[str]) -> None:
    assert EXIT_CODE.findall("".join(recipes()[str(number)])) == refused
