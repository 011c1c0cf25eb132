"""A fault: one text of the package in place of another, and the tests that must notice it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class DoesNotApply(Exception):
    """The text that a fault replaces is not there, or is there more than once."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A change of one file that makes the package wrong.

    Attributes:
        name: its name, unique in all lists.
        file: the file, relative to the checkout.
        old: the text that is replaced; it occurs once.
        new: what stands there instead.
        tests: test files and test ids, of which at least one must fail.
        explained: why no test can notice it; empty where one does.
    """

    name: str
    file: str
    old: str
    new: str
    tests: Sequence[str]
    explained: str = ""

    def applied(self, source: str) -> str:
        """Return the text of the file with the fault in it.

        Raises:
            DoesNotApply: ``old`` does not occur exactly once, or the result is no Python.
        """
        count = source.count(self.old)
        if count != 1:
            raise DoesNotApply(f"the old text occurs {count} times in {self.file}")
        faulty = source.replace(self.old, self.new)
        try:
            compile(faulty, self.file, "exec", dont_inherit=True)
        except SyntaxError as error:
            raise DoesNotApply(f"{self.file} is no Python with the new text: {error}") from error
        return faulty

    def check(self, root: Path) -> None:
        """Check that the fault applies to the checkout at ``root`` and that its tests' files exist.

        Raises:
            DoesNotApply: it does not, or one is missing.
        """
        try:
            self.applied((root / self.file).read_text())
        except OSError as error:
            raise DoesNotApply(f"{self.file}: {error.strerror}") from error
        for test in self.tests:
            file, *names = test.split("::")
            if not (root / file).is_file():
                raise DoesNotApply(f"there is no {file}")
            function = names[-1].split("[")[0] if names else ""
            if function and f"def {function}(" not in (root / file).read_text():
                raise DoesNotApply(f"there is no {function} in {file}")
