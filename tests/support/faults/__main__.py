"""One role's matrix, in a process with the shim: a line of JSON for each recorded call and each cell.

``python -m tests.support.faults ROLE PLACE [COUNT [OPERATION]]`` runs all cells, or COUNT of each operation,
always the same; ``all`` for all of one operation.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import time
import traceback
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from shardcast.store import holds
from tests.support.faults.cells import Matrix, Operation
from tests.support.faults.control import Control
from tests.support.faults.found import FOUND
from tests.support.faults.process import Nodes, Watch

_LONGEST = 90.0
"""Seconds after which a cell counts as one that never ends."""


def main(role: str, place: Path, count: int | None, only: str = "") -> None:
    """Run the matrix of a role.

    Args:
        role: name of the role's module.
        place: folder for all files.
        count: cells of each operation; None for all.
        only: name of the one operation to run; empty for all.
    """
    os.environ.pop("LD_PRELOAD", None)  # what is started here is as it is
    stdout, stderr = sys.stdout, sys.stderr
    vars(holds)["RECENTLY_READ"] = 0.0  # what was looked at is retired at once
    control, watch = Control(), Watch.begin()
    nodes = Nodes(watch)
    operations: tuple[type[Operation], ...] = import_module(f"tests.support.faults.{role}").OPERATIONS

    def report(**fields: object) -> None:
        print(json.dumps(fields), file=stdout, flush=True)

    for number, kind in enumerate(operations):
        folder = place / str(number)
        folder.mkdir()
        operation = kind(folder, nodes)
        if only and only != operation.name:
            continue
        matrix = Matrix(operation, control, watch)
        try:
            matrix.record()
            report(operation=operation.name, calls=sorted(matrix.calls))
            ranked = sorted(matrix.cells(), key=lambda cell: cell.rank)[:count]
            found = [cell for cell in FOUND if cell.operation == operation.name]
            cells = [*found, *(cell for cell in ranked if cell not in found)]
            started = time.monotonic()
            for result in matrix.run(cells):
                faulthandler.dump_traceback_later(_LONGEST, exit=True, file=stderr)
                now = time.monotonic()
                report(**asdict(result), seconds=round(now - started, 3))
                started = now
        finally:
            operation.end()
            faulthandler.cancel_dump_traceback_later()
    nodes.close()
    report(ended=True)


if __name__ == "__main__":
    words, stderr = sys.argv[1:], sys.stderr
    try:
        main(words[0], Path(words[1]), int(words[2]) if words[2:] and words[2] != "all" else None, *words[3:])
    except Exception:  # noqa: BLE001  stderr is the roles'
        traceback.print_exc(file=stderr)
        sys.exit(1)
