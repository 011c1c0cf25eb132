"""Copies of the checkout in which one file at a time has a fault."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fault import Fault

ROOT = Path(__file__).resolve().parents[2]

_ORIGIN = "import shardcast; print(shardcast.__file__)"

# Runs in every interpreter that the tests start. What imports another copy would pass as unnoticed.
_SITE = """\
import importlib.util, os, sys
found = importlib.util.find_spec("shardcast")
if not (found and found.origin and found.origin.startswith({root!r})):
    sys.stderr.write("mutate: imports %s\\n" % (found and found.origin))
    open({stray!r}, "a").write("%s %s\\n" % (sys.argv, found and found.origin))
    os._exit(70)
"""


class Checkout:
    """A copy of the checkout, with what is not committed.

    Attributes:
        root: its folder.
        temporary: the folder for files of its tests.
    """

    def __init__(self, place: Path) -> None:
        self.root = place / "c"
        self.temporary = place / "t"
        self._site = place / "s"
        self._stray = place / "stray"
        for folder in (self.root, self.temporary, self._site):
            folder.mkdir(parents=True)
        for name in _listed():
            if (ROOT / name).is_file():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.root / name)
        for name in (".peers", ".venv"):
            if (ROOT / name).exists():
                (self.root / name).symlink_to(ROOT / name)
        (self._site / "sitecustomize.py").write_text(
            _SITE.format(root=str(self.root) + os.sep, stray=str(self._stray))
        )
        self._times = itertools.count(int(time.time()))

    def environment(self) -> dict[str, str]:
        """Return the environment in which this copy is imported, also by the processes that tests start."""
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(self.root), str(self._site)]),
            "TMPDIR": str(self.temporary),
        }

    def check(self) -> None:
        """Check that this copy is imported.

        Raises:
            RuntimeError: another one is.
        """
        done = subprocess.run(
            [sys.executable, "-c", _ORIGIN],
            env=self.environment(),
            cwd=self.temporary,
            capture_output=True,
            text=True,
            check=False,
        )
        if Path(done.stdout.strip() or "/").parent.parent != self.root:
            raise RuntimeError(f"imports {done.stdout.strip() or done.stderr} instead of {self.root}")

    def strays(self) -> str:
        """Return which processes imported another copy of the package."""
        return self._stray.read_text() if self._stray.exists() else ""

    @contextmanager
    def with_fault(self, fault: Fault) -> Iterator[None]:
        """Put a fault into this copy, and take it out at the end.

        Raises:
            DoesNotApply: it can't be.
        """
        file = self.root / fault.file
        right = file.read_text()
        self._write(file, fault.applied(right))
        try:
            yield
        finally:
            self._write(file, right)

    def _write(self, file: Path, text: str) -> None:
        """Write a file, with a time of change that no other text of it has."""
        # Compiled files are told apart by size and second of change: no two texts have the same ones.
        file.write_text(text)
        second = next(self._times)
        os.utime(file, (second, second))

    def clear(self) -> None:
        """Remove the files of the tests."""
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir(parents=True, exist_ok=True)


def _listed() -> list[str]:
    """Return the files of the checkout."""
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]
