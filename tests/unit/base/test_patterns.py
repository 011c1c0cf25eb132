"""Regular expressions that meet foreign text take time in proportion to its length.

Two repeats without a bound that may stand next to each other and match the same character share out a run of
it in as many ways as it is long: half a second of the event loop for a header of 8000 blanks.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from re import _constants as constants  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import pytest

import shardcast

_SHORT = 100
"""Repeats that end after so many are no matter."""
_SAMPLE = [chr(code) for code in range(256)]
_ROOT = Path(shardcast.__file__).parent
_CALLS = {f"re.{one}" for one in ("compile", "match", "fullmatch", "search", "sub", "split", "findall")}
_CATEGORIES = {"SPACE": r"\s", "NOT_SPACE": r"\S", "DIGIT": r"\d", "NOT_DIGIT": r"\D", "WORD": r"\w"}


def patterns() -> Iterator[tuple[str, str, int]]:
    """Every expression of the package: those that modules keep, and those that functions write down."""
    for found in pkgutil.walk_packages([str(_ROOT)], "shardcast."):
        if not found.name.endswith("__main__"):
            module = importlib.import_module(found.name)
            for name, value in vars(module).items():
                if isinstance(value, re.Pattern):
                    text = value.pattern
                    yield (
                        f"{found.name}.{name}",
                        text.decode() if isinstance(text, bytes) else text,
                        value.flags,
                    )
    for path in _ROOT.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func) in _CALLS and call.args:
                text = _text(call.args[0])
                if text is not None:
                    yield f"{path.relative_to(_ROOT)}:{call.lineno}", text, 0


def _text(node: ast.expr) -> str | None:
    """The expression in the source; what is filled in stands for itself as one letter."""
    if isinstance(node, ast.Constant):
        return node.value.decode() if isinstance(node.value, bytes) else node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) or "1" for part in node.values)
    if isinstance(node, ast.BinOp):
        return f"{_text(node.left) or 'x'}{_text(node.right) or 'x'}"
    return None


def quadratic(pattern: str, flags: int) -> str | None:
    """The first two repeats that a run of one character could be shared out between; None where there are
    none."""
    tree = parser.parse(pattern, flags & ~re.UNICODE if flags & re.ASCII else flags)
    found: list[str] = []
    _walk(list(tree), flags, set(), found)
    return found[0] if found else None


def _walk(items: list[Any], flags: int, before: set[str], found: list[str]) -> set[str]:
    """Go through a sequence, behind long repeats that match ``before``; return what those match that its end
    may stand behind."""
    for operator, value in items:
        if operator in (constants.MAX_REPEAT, constants.MIN_REPEAT):
            least, most, body = value
            inner = list(body)
            if most > _SHORT:
                taken = _taken(inner, flags)
                if taken & before:
                    found.append(f"two repeats that match {sorted(taken & before)[:3]}")
                _walk(inner, flags, taken if _is_nested(inner) else set(), found)
                before = (before | taken) if not least else taken
            else:
                after = _walk(inner, flags, before, found)
                before = before | after if not least else after
        elif operator is constants.SUBPATTERN:
            before = _walk(list(value[-1]), flags, before, found)
        elif operator is constants.BRANCH:
            before = set().union(*(_walk(list(one), flags, before, found) for one in value[1]))
        elif operator is not constants.AT:
            before = set()
    return before


def _is_nested(items: list[Any]) -> bool:
    return any(operator in (constants.MAX_REPEAT, constants.MIN_REPEAT) for operator, _ in items)


def _taken(items: list[Any], flags: int) -> set[str]:
    """The characters that a repeat's body may match in one step."""
    taken: set[str] = set()
    for operator, value in items:
        if operator in (constants.MAX_REPEAT, constants.MIN_REPEAT):
            taken |= _taken(list(value[2]), flags)
        elif operator is constants.SUBPATTERN:
            taken |= _taken(list(value[-1]), flags)
        elif operator is constants.BRANCH:
            taken |= set().union(*(_taken(list(one), flags) for one in value[1]))
        else:
            one = re.compile(_written(operator, value), flags & (re.ASCII | re.IGNORECASE))
            taken |= {character for character in _SAMPLE if one.fullmatch(character)}
    return taken


def _written(operator: Any, value: Any) -> str:
    """One step of an expression, written down again."""
    if operator is constants.LITERAL:
        return re.escape(chr(value))
    if operator is constants.NOT_LITERAL:
        return f"[^{re.escape(chr(value))}]"
    if operator is constants.ANY:
        return "."
    assert operator is constants.IN
    parts = ""
    for kind, what in value:
        if kind is constants.NEGATE:
            parts = "^"
        elif kind is constants.LITERAL:
            parts += re.escape(chr(what))
        elif kind is constants.RANGE:
            parts += f"{re.escape(chr(what[0]))}-{re.escape(chr(what[1]))}"
        else:
            parts += _CATEGORIES[str(what).removeprefix("CATEGORY_")]
    return f"[{parts}]"


@pytest.mark.parametrize(
    "pattern",
    [
        r"bytes\s*=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})\s*",
        r"\s*([0-9](?:_?[0-9]){0,30}(?:\.[0-9]{1,30})?)\s*([kmgt]i?)?b?\s*",
        r"a*a*",
        r"\s+(?:,|)\s+",
        r"(?:a+)+b",
        r"[a-z]+x?[a-f]*!",
    ],
)
def test_quadratic_expressions_are_detected(pattern: str) -> None:
    assert quadratic(pattern, re.ASCII)


@pytest.mark.parametrize("pattern", [r"\s*=\s*[0-9]+", r"a{0,9}a{0,9}", r"[a-z]+[0-9]+", r"\s+x\s+"])
def test_linear_expressions_are_not_reported(pattern: str) -> None:
    assert quadratic(pattern, re.ASCII) is None


def test_no_project_expression_is_quadratic() -> None:
    every = list(patterns())
    assert {"shardcast.protocol.wire._POSITION", "shardcast.sizes._SIZE"} <= {name for name, _, _ in every}
    assert {name: why for name, text, flags in every if (why := quadratic(text, flags))} == {}
