"""Lists of faults, one module an area."""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from pathlib import Path

from fault import DoesNotApply, Fault

AREAS = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))


def load() -> dict[str, list[Fault]]:
    """Return the faults of each area."""
    return {area: import_module(f"{__name__}.{area}").FAULTS for area in AREAS}


def check(root: Path) -> list[str]:
    """Return the problems of the lists beside the checkout at ``root``."""
    faults = [fault for area in load().values() for fault in area]
    names = Counter(fault.name for fault in faults)
    wrong = [f"{name}: {count} faults have this name" for name, count in names.items() if count > 1]
    for fault in faults:
        try:
            fault.check(root)
        except DoesNotApply as error:
            wrong.append(f"{fault.name}: {error}")
        if not fault.tests and not fault.explained:
            wrong.append(f"{fault.name}: it has neither tests nor an explanation")
    return wrong
