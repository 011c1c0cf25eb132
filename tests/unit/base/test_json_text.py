"""JSON from outside is a value or a ValueError, however deeply it is nested."""

from __future__ import annotations

import ast
import gc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import shardcast
from shardcast.json_text import parse_json

DEEP = "[" * 100_000


@pytest.mark.parametrize("text", [DEEP, DEEP.encode(), '{"a":' * 50_000, "[1,", b"\xff", "", "1" * 5000])
def test_malformed_json_raises_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_raise_value_error(data: bytes) -> None:
    try:
        parse_json(data)
    except ValueError:
        pass


def test_only_one_module_parses_json() -> None:
    gc.collect()  # tasks that end while CPython 3.11 parses make it fail
    package = Path(shardcast.__file__).parent
    found = {
        str(file.relative_to(package))
        for file in package.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("json.loads", "json.load")
    }
    assert found == {
        "json_text.py",
        "blobs/server/hash_routes/requests.py",  # its own text, read back
    }
