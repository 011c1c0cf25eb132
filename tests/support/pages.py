"""Pages of the documentation: README, docs, examples, with their headings, links and blocks of code."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = (
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    ROOT / "examples" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
)
"""All pages."""
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
ELSEWHERE = re.compile(r"[a-z]+:")
"""Beginning of a link to another site."""


class Link(NamedTuple):
    """A link to a page or file of this repository.

    Attributes:
        text: the link as written.
        target: the file.
        anchor: the heading's anchor; empty for the whole page.
    """

    text: str
    target: Path
    anchor: str


def name(page: Path) -> str:
    """Return a page's path in the repository."""
    return str(page.relative_to(ROOT))


def links(page: Path) -> Iterator[Link]:
    """Yield the links of a page to others, and to places in the page itself."""
    prose = CODE.sub("", FENCED.sub("", page.read_text()))
    for text in LINK.findall(prose):
        if not ELSEWHERE.match(text):
            path, _, anchor = text.partition("#")
            yield Link(text, page.parent / path if path else page, anchor)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as code forges and `make docs` make them."""
    found: set[str] = set()
    seen: Counter[str] = Counter()
    for heading in HEADING.findall(FENCED.sub("", page.read_text())):
        anchor = slug(heading)
        found.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return found


def slug(heading: str) -> str:
    """Return the anchor of a heading that is the first of its text."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


class Block(NamedTuple):
    """A block of code of a page.

    Attributes:
        line: its first line in the page, counted from 1.
        language: the word after the backquotes.
        text: its lines.
        reason: why no test runs it; empty where one does.
    """

    line: int
    language: str
    text: str
    reason: str


BLOCK = re.compile(r"^(?:<!-- not run: (.+?) -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN = ("bash", "crontab", "python")
"""Languages of blocks that tests run; all others are output, layouts and formats."""
SHOWN = ("http", "json", "mermaid", "text")


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page in their order."""
    text = page.read_text()
    return [
        Block(text.count("\n", 0, found.start(3)) + 1, found[2], found[3], found[1] or "")
        for found in BLOCK.finditer(text)
    ]


def blocks_to_run(page: Path, *languages: str) -> list[str]:
    """Return the texts of the blocks that are run, of these languages (all that can be run)."""
    return [one.text for one in blocks(page) if one.language in (languages or RUN) and not one.reason]
