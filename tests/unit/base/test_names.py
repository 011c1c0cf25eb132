"""The names of modules and classes: each says once what is there."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import shardcast

PACKAGE = Path(shardcast.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


def test_no_public_class_name_is_used_twice() -> None:
    places = defaultdict[str, list[str]](list)
    for module in MODULES:
        for node in ast.parse(module.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(module.relative_to(PACKAGE)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_no_module_has_the_name_of_its_folder() -> None:
    assert [module for module in MODULES if module.stem == module.parent.name] == []
