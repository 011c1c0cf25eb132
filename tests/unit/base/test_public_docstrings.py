"""Docstrings of the names that ``shardcast`` exports, which users read in editors and in ``help()``."""

from __future__ import annotations

import builtins
import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import shardcast
from shardcast import errors

DOCUMENTED = [name for name in shardcast.__all__ if callable(getattr(shardcast, name))]
"""The exported names that are classes or functions; the others are constants."""

FUNCTIONS = {
    f"{name}.{member}".rstrip("."): function
    for name in DOCUMENTED
    for member, function in [
        ("", getattr(shardcast, name)),
        *inspect.getmembers_static(getattr(shardcast, name)),
    ]
    if inspect.isfunction(function)
    and function.__module__.startswith("shardcast.api")
    and (member == "__init__" or not member.startswith("_"))
    and not dataclasses.is_dataclass(getattr(shardcast, name))
}
"""The exported functions, methods and constructors of ``shardcast.api``, by name."""


def sections(documented: object) -> dict[str, str]:
    """Return the sections of a docstring, the text above them under ``""``."""
    parts = re.split(
        r"^(Args|Returns|Yields|Raises|Attributes):$", inspect.getdoc(documented) or "", flags=re.M
    )
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def entries(section: str) -> list[str]:
    """Return the names that a section explains: those before a colon, at the first indent."""
    return re.findall(r"^ {4}(\w+):", section, re.M)


def raised(function: Callable[..., Any]) -> Iterator[type[BaseException]]:
    """Yield the classes that a docstring says are raised."""
    for name in entries(sections(function).get("Raises", "")):
        yield next(getattr(home, name) for home in (errors, builtins) if hasattr(home, name))


@pytest.mark.parametrize("name", DOCUMENTED)
def test_exported_name_has_a_summary(name: str) -> None:
    summary = sections(getattr(shardcast, name))[""].split("\n\n")[0].strip()
    assert re.search(r"[.:]$", summary), f"{name}: {summary!r}"


def test_progress_explains_each_field() -> None:
    fields = [field.name for field in dataclasses.fields(shardcast.BroadcastProgress)]
    assert entries(sections(shardcast.BroadcastProgress)["Attributes"]) == fields


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_explains_each_parameter_and_its_result(name: str) -> None:
    function = FUNCTIONS[name]
    signature = inspect.signature(function)
    parameters = [parameter for parameter in signature.parameters if parameter not in ("self", "_")]
    found = sections(function)
    assert entries(found.get("Args", "")) == parameters
    if signature.return_annotation not in ("None", "Iterator[None]"):
        assert found.get("Returns", found.get("Yields", "")).strip(), f"{name} says nothing of its result"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_documents_existing_errors_with_their_conditions(name: str) -> None:
    function = FUNCTIONS[name]
    assert all(issubclass(kind, BaseException) for kind in raised(function))
    assert ", " not in "".join(re.findall(r"^ {4}([\w, ]+):", sections(function).get("Raises", ""), re.M))
    for parameter in inspect.signature(function).parameters:
        if parameter == "timeout":
            assert "seconds" in sections(function)["Args"], f"{name} gives its time-out no unit"
