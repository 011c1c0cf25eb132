"""Messages of the log have what they are about as fields."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import shardcast
from shardcast.log_fields import about

LEVELS = {"debug", "info", "warning", "error", "exception", "log"}


def logging_calls(file: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(file.read_text())):
        match node:
            case ast.Call(func=ast.Attribute(ast.Name("log"), attr=level)) if level in LEVELS:
                yield node


def is_version(argument: ast.expr) -> bool:
    match argument:
        case ast.Name("version") | ast.Attribute(attr="version" | "_version"):
            return True
        case ast.Call(func=ast.Name("version_name")):
            return True
    return False


def test_only_given_fields_are_there() -> None:
    assert about(version="v3") == {"version": "v3"}
    assert about(server="http://a", shard=1) == {"server": "http://a", "shard": 1}


def test_each_message_with_a_version_has_the_field() -> None:
    package = Path(shardcast.__file__).parent
    calls = [(file, call) for file in package.rglob("*.py") for call in logging_calls(file)]
    assert len(calls) > 150
    named = [(file, call) for file, call in calls if any(map(is_version, call.args))]
    assert len(named) > 40
    without = [
        f"{file.relative_to(package)}:{call.lineno}"
        for file, call in named
        if "extra" not in {keyword.arg for keyword in call.keywords}
    ]
    assert without == []
