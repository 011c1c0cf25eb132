"""Cells of the matrix (an operation, a call that fails in it, an errno), and what must hold in each."""

from __future__ import annotations

import os
import re
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from shardcast.cli.exit_codes import DONE, LOCAL_DISK, USAGE
from shardcast.temporary_files import PART
from tests.support.faults.control import EVERYWHERE, Control
from tests.support.faults.errnos import ERRNOS, HARMLESS, number
from tests.support.faults.process import BARE, Nodes, Outcome, Watch, descriptors

_HERE = str(Path(__file__).parent)
_SETTLING = 15.0
"""Seconds in which what an operation left open is closed, on a machine that has much else to do."""


@dataclass(frozen=True, order=True)
class Cell:
    """One circumstance.

    Attributes:
        operation: name of the operation.
        call: the call that fails.
        place: the name whose call fails, without numbers, or a pattern; ``*`` for all below the folder.
        error: name of the errno, or ``SHORT``.
        times: number of failures; 0 for as long as the operation runs.
        skip: number of calls that succeed before the first failure.
    """

    operation: str
    call: str
    place: str
    error: str
    times: int = 1
    skip: int = 0

    def __str__(self) -> str:
        often = "always" if not self.times else "once" if self.times == 1 else f"{self.times} times"
        after = f" after {self.skip}" if self.skip else ""
        return f"{self.operation}: {self.call} {self.place} {self.error} {often}{after}"

    @property
    def rank(self) -> int:
        """Place in an order that mixes all operations, calls and errnos, the same in each run."""
        return zlib.crc32(str(self).encode())


@dataclass
class Result:
    """Outcome of a cell: exit code, number of failed calls, and the problems found."""

    cell: Cell
    code: int
    hits: int
    problems: list[str] = field(default_factory=list)
    stderr: str = ""


class Operation(ABC):
    """Something that a role does, repeated in one process.

    Attributes:
        name: name of the operation, ``origin: publish a copy``.
        folder: folder whose calls fail.
        cell: the circumstance; None outside of one.
        failures: exit codes with which it may fail.
        leftovers: names of ``Operation.tree`` that it may leave behind beyond a run without faults, as a
            regular expression.
    """

    name = ""
    folder: Path
    failures: frozenset[int] = frozenset({LOCAL_DISK})
    leftovers = r"(?!)"

    def __init__(self, place: Path, nodes: Nodes) -> None:
        self.cell: Cell | None = None
        self.place = place
        self.nodes = nodes

    @abstractmethod
    def begin(self) -> None:
        """Make everything anew: nodes, directories."""

    @property
    def call(self) -> str:
        """Call that fails."""
        return self.cell.call if self.cell else ""

    @abstractmethod
    def prepare(self) -> None:
        """Prepare the next cell."""

    def end(self) -> None:
        """Stop the nodes that ``begin`` started."""
        return

    @abstractmethod
    def act(self) -> Outcome:
        """Run the operation, while calls fail."""

    @abstractmethod
    def check(self, outcome: Outcome) -> None:
        """Assert that it did what it reports, or nothing, and that nothing was lost."""

    @abstractmethod
    def recover(self) -> None:
        """Assert that it works once the fault is gone."""

    def tree(self) -> set[str]:
        """Return the names below its folder, without numbers and digests."""
        found = {_class_of(os.path.relpath(folder, self.folder)) for folder, _, _ in os.walk(self.folder)}
        for folder, _, names in os.walk(self.folder):  # which passes over what goes meanwhile
            found |= {_class_of(os.path.relpath(Path(folder, name), self.folder)) for name in names}
        return found - {"."}


def _told(error: Exception) -> str:
    """Return an error of a check, and the line where it was raised."""
    where = error.__traceback__
    while where and where.tb_next and where.tb_next.tb_frame.f_code.co_filename.startswith(_HERE):
        where = where.tb_next
    line = f" ({Path(where.tb_frame.f_code.co_filename).name}:{where.tb_lineno})" if where else ""
    return f"{type(error).__name__}: {str(error)[:600]}{line}"


def _class_of(name: str) -> str:
    """Return a name with its numbers and digests replaced."""
    name = re.sub(r"\b[0-9a-z]{20,}\b|\b[0-9a-f]{8,}\b|(?<![^/])[0-9a-f]{2}(?![^/])", "@", name)
    return re.sub(r"[0-9]+", "#", name)


class Matrix:
    """The cells of an operation, and their runs."""

    def __init__(self, operation: Operation, control: Control, watch: Watch) -> None:
        self.operation = operation
        self.calls: dict[tuple[str, str], int] = {}
        self._control = control
        self._watch = watch
        self._tree: set[str] = set()
        self._open: list[str] = []

    def record(self) -> None:
        """Run the operation without faults, and record its calls and the names that it leaves."""
        operation = self.operation
        operation.begin()
        for _ in range(3):  # the first ones make what stays
            operation.prepare()
            with self._control.recording(operation.folder) as calls:
                outcome = operation.act()
            assert outcome.code == DONE, f"{operation.name} fails without a fault: {outcome}"
            operation.check(outcome)
            operation.recover()
            self.calls |= calls  # how often it was the last time, when nothing was new any more
            self._tree |= operation.tree()
        self._open = self._descriptors()
        stderr, unhandled = self._watch.take()
        assert "Traceback" not in stderr and not unhandled, (stderr, unhandled)

    def cells(self) -> Iterator[Cell]:
        """Yield the cells.

        Each call at each name fails once, the first time and the last time, and each call everywhere for as
        long as the operation runs.
        """
        name = self.operation.name
        for (call, place), count in sorted(self.calls.items()):
            for error in ERRNOS.get(call, ()):
                for skip in {0, count - 1}:
                    yield Cell(name, call, place, error, skip=skip)
        for call in sorted({call for call, _ in self.calls}):
            for error in ERRNOS.get(call, ()):
                if error not in HARMLESS:
                    yield Cell(name, call, EVERYWHERE, error, 0)

    def run(self, cells: Iterable[Cell]) -> Iterator[Result]:
        """Run cells, and begin anew after each one that had a problem."""
        for cell in cells:
            result = self._run(cell)
            yield result
            left = cell.call in ("unlink", "rmdir") and self.operation.tree() - self._tree
            if result.problems or left:  # what is so here must not show in the next ones
                self.operation.end()
                self.operation.begin()
                self._watch.take()
                self._open = self._descriptors()

    def _run(self, cell: Cell) -> Result:
        """Run a cell."""
        operation = self.operation
        operation.prepare()
        operation.cell = cell
        self._watch.take()
        try:
            with self._control.failing(
                operation.folder, cell.call, cell.place, number(cell.error), times=cell.times, skip=cell.skip
            ):
                outcome = operation.act()
                hits = self._control.hits
        except Exception as error:  # noqa: BLE001  it is the result
            return Result(cell, BARE, self._control.hits, [_told(error)], self._watch.take()[0])
        result = Result(cell, outcome.code, hits)
        problems = result.problems
        if outcome.code != DONE:
            problems += self._wrong(cell, outcome, hits)
        for step in (partial(operation.check, outcome), operation.recover):
            try:
                step()
            except Exception as error:  # noqa: BLE001  it is the result
                problems.append(_told(error))
        result.stderr, unhandled = self._watch.take()
        if "Traceback" in result.stderr:
            problems.append("a traceback on stderr")
        problems += [f"unhandled: {one}" for one in unhandled]
        if not problems:
            problems += self._left(cell)
        return result

    def _wrong(self, cell: Cell, outcome: Outcome, hits: int) -> Iterator[str]:
        """Yield the faults of the way in which the operation failed."""
        usage = outcome.code == USAGE and cell.call == "access"  # an argument that may not be read
        if outcome.code not in self.operation.failures and not usage:
            yield f"it ends with {outcome.code}"
        if not hits:
            yield "it fails without a fault"
        if cell.error in HARMLESS:
            yield "it fails for what harms nothing"
        if "Error: " not in outcome.stderr or "[Errno" in outcome.stderr:
            yield "no clear error"

    def _left(self, cell: Cell) -> list[str]:
        """Return what the operation left behind although it went well afterwards."""
        deadline = time.monotonic() + _SETTLING
        while True:
            left, opened = self._new_names(cell), self._descriptors()
            wrong = [f"left behind: {', '.join(sorted(left))}"] if left else []
            if len(opened) > len(self._open):
                wrong.append(f"left open: {opened} after {self._open}")
            if not wrong or time.monotonic() > deadline:
                return wrong
            time.sleep(0.02)

    def _new_names(self, cell: Cell) -> set[str]:
        """Return the names that a run without faults does not leave."""
        left = self.operation.tree() - self._tree
        if cell.call in ("unlink", "rmdir"):  # what could not be removed has a temporary name
            left = {name for name in left if not name.endswith(PART)}
        return {name for name in left if not re.fullmatch(self.operation.leftovers, name)}

    def _descriptors(self) -> list[str]:
        """Return the open descriptors below the folder."""
        return descriptors(self.operation.folder)
