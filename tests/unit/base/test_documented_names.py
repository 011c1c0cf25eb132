"""Names of our code in the documents that describe it exist."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

import shardcast

PACKAGE = Path(shardcast.__file__).parent
ROOT = PACKAGE.parent
DOCUMENTS = ("docs/design.md", "docs/reliability.md", "CONTRIBUTING.md")
DOTTED = re.compile(r"`(?:[a-z_]+\.)*([A-Za-z_]+)\.(?!py`|txt`)([A-Za-z_]+)(?:\([^`]*\))?`")

PATHS = re.compile(r"`((?:[a-z_]+/)+(?:[a-z_]+\.py)?)`")


def members(node: ast.AST) -> set[str]:
    """Return the names that a module or a class defines, with the attributes that methods set."""
    found = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(inner.name)
        elif isinstance(inner, ast.Name | ast.Attribute) and isinstance(inner.ctx, ast.Store):
            found.add(inner.id if isinstance(inner, ast.Name) else inner.attr)
        elif isinstance(inner, ast.alias):
            found.add(inner.asname or inner.name)
    return found


@functools.cache
def definitions() -> dict[str, set[str]]:
    """Return the members of each module, folder and class of the package, by its name; bases' included."""
    found: dict[str, set[str]] = {}
    bases: dict[str, list[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        tree = ast.parse(file.read_text())
        name = file.parent.name if file.stem == "__init__" else file.stem
        found.setdefault(name, set()).update(members(tree))
        found.setdefault(file.parent.name, set()).add(file.stem)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, set()).update(members(node))
                bases.setdefault(node.name, []).extend(
                    base.id for base in node.bases if isinstance(base, ast.Name)
                )
    for name, above in bases.items():
        for base in above:
            found[name] |= found.get(base, set())
    return found


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documented_paths_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    folders = (
        ROOT,
        *(file.parent for file in PACKAGE.rglob("*.py")),
        ROOT / "tests",
        ROOT / "tests" / "support",
    )
    missing = [
        path for path in PATHS.findall(text) if not any((folder / path).exists() for folder in folders)
    ]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documented_members_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    missing = [
        match[0]
        for match in DOTTED.finditer(text)
        if match[1] in definitions() and match[2] not in definitions()[match[1]]
    ]
    assert missing == []


def test_check_of_documented_members_finds_what_is_missing() -> None:
    assert "write" in definitions()["BroadcastWriter"]
    assert "no_such_method" not in definitions()["BroadcastWriter"]
    assert [match.groups() for match in DOTTED.finditer("`a.b.C.d()` `C.d` `x.py`")][:2] == [
        ("C", "d"),
        ("C", "d"),
    ]
