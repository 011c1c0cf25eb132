"""Each block of the pages says whether a test runs it, and few are left out, with a reason."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support import pages
from tests.support.page_shell import parts

MOST_LEFT_OUT = 10
WRITTEN_BY_SCRIPTS = {"cli.md", "api.md", "variables.md"}
"""Pages of usage lines and signatures."""
PAGES = [page for page in pages.PAGES if page.name not in WRITTEN_BY_SCRIPTS]
STATEMENT = re.compile(r"(async )?(with|for)\b|import |\w+ = ")
"""Beginning of an example among signatures."""
COMMAND = re.compile(r"^(shardcast|make|pip|python|curl|docker|kubectl)\b")


@pytest.mark.parametrize("page", PAGES, ids=pages.name)
def test_blocks_name_a_language_and_commands_are_run(page: Path) -> None:
    for block in pages.blocks(page):
        assert block.language in (*pages.RUN, *pages.SHOWN), f"{pages.name(page)}:{block.line}"
        if COMMAND.match(block.text):
            assert block.language in pages.RUN, f"{pages.name(page)}:{block.line}"


@pytest.mark.parametrize("page", PAGES, ids=pages.name)
def test_commands_are_in_fenced_blocks(page: Path) -> None:
    indented = re.findall(r"^\n {4}(\S.*)$", pages.FENCED.sub("", page.read_text()), re.MULTILINE)
    assert [line for line in indented if COMMAND.match(line)] == []


def test_pages_with_commands_have_a_test_that_runs_them() -> None:
    tests = [path.read_text() for path in (pages.ROOT / "tests" / "integration").glob("test_*.py")]
    runners = "".join(text for text in tests if "page_shell" in text)
    named = {page: f'"{page.name}"' for page in PAGES if pages.blocks_to_run(page)}
    assert [pages.name(page) for page, text in named.items() if text not in runners] == []


def test_examples_of_the_library_are_python() -> None:
    texts = [block.text for block in pages.blocks(pages.ROOT / "docs" / "api.md")]
    examples = [text for text in texts if STATEMENT.match(text)]
    assert examples
    for text in examples:
        compile(text, "docs/api.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_few_blocks_are_left_out() -> None:
    reasons = [block.reason for page in PAGES for block in pages.blocks(page) if block.reason]
    assert 0 < len(reasons) <= MOST_LEFT_OUT


def test_blocks_have_lines_languages_and_reasons(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```text\na\n```\n\n<!-- not run: why -->\n```bash\nb\n```\n```python\nc\n```\n")
    assert pages.blocks(page) == [
        pages.Block(2, "text", "a\n", ""),
        pages.Block(7, "bash", "b\n", "why"),
        pages.Block(10, "python", "c\n", ""),
    ]
    assert pages.blocks_to_run(page) == ["c\n"]
    assert pages.blocks_to_run(page, "bash") == []


def test_commands_that_stay_are_started_one_by_one() -> None:
    block = "# of the origin\na\nshardcast-origin \\\n    --port 1\nb\nc --follow d\n"
    assert list(parts(block)) == ["# of the origin\na", "shardcast-origin --port 1", "b", "c --follow d"]
    assert list(parts("a \\\n  b\n")) == ["a \\\n  b\n"]
