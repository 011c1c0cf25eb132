"""Rules of names that a backup leaves out: patterns of the command, ignore files, leftovers of systems.

Patterns are those of ``.gitignore``: the last match decides, ``!`` takes back an earlier match, and nothing
is taken back below a left-out folder. Patterns of the command go before those of ignore files; those of a
deeper file before those of a file above.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby

from shardcast.errors import UsageError
from shardcast.folders.patterns import MAX_PATTERNS, pattern_source, read_patterns

IGNORE_FILES = (b".gitignore", b".ignore", b".shardcastignore")
"""Files whose patterns count in their folder and below, in this order."""
MAX_IGNORE_FILE = 1 << 20
"""Bytes of an ignore file."""
CACHE_TAG, CACHE_SIGNATURE = b"CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55"
"""The file that marks a cache folder, and the first bytes of this file."""
_SYSTEM = re.compile(
    rb"\.(?:shardcast-restore-[0-9a-f]{32}|DS_Store|vol|hotfiles\.btree|Spotlight-V\d+|Trash(?:es|-\d+)?|fseventsd)/?"
)
"""Names left in folders by systems and by interrupted restores."""
_DOT = ord(".")


class Patterns:
    """Patterns of one source; the last match decides."""

    def __init__(self, patterns: Iterable[str]) -> None:
        """Compile patterns.

        Raises:
            UsageError: one is no pattern, or they are too many.
        """
        listed = [(pattern.startswith("!"), pattern_source(_plain(pattern))) for pattern in patterns]
        if len(listed) > MAX_PATTERNS:
            raise UsageError(f"{len(listed)} patterns of paths; at most {MAX_PATTERNS} are allowed")
        # Neighbours of one kind are one expression: a path is tried against few of them. The last come first.
        runs = [
            (negated, [source for _, source in run]) for negated, run in groupby(listed, lambda one: one[0])
        ]
        self._runs = [(not negated, re.compile("|".join(run), re.DOTALL)) for negated, run in reversed(runs)]

    def __bool__(self) -> bool:
        return bool(self._runs)

    def decide(self, path: str) -> bool | None:
        """Return whether a path is left out; None where no pattern matches.

        Args:
            path: relative to the folder of the patterns; a folder's ends in ``/``.
        """
        for leaves_out, pattern in self._runs:
            if pattern.fullmatch(path):
                return leaves_out
        return None


class IgnoreRules:
    """The rules for the names of one folder.

    Attributes:
        by_files: whether ignore files in folders count.
    """

    def __init__(
        self,
        command: Patterns,
        files: Sequence[tuple[int, Patterns]] = (),
        *,
        by_system: bool = True,
        by_files: bool = True,
    ) -> None:
        """Take the rules of the top folder.

        Args:
            command: patterns of the command, of paths from the top.
            files: patterns of ignore files, deepest first, and the length of the path of each one's folder.
            by_system: whether leftovers of systems are left out.
            by_files: whether ignore files in folders count.
        """
        self.by_files = by_files
        self._command = command
        self._files = tuple(files)
        self._by_system = by_system

    def with_file(self, folder: bytes, text: bytes) -> IgnoreRules:
        """Return the rules for a folder with an ignore file, and for the folders below.

        Args:
            folder: path from the top, with ``/`` at the end; empty for the top.
            text: of the file. Lines that are no patterns are skipped: the file is for other programs. Only
                the first ``MAX_PATTERNS`` patterns count.
        """
        patterns = Patterns(_readable(text.decode("utf-8", "surrogateescape")))
        files = ((len(folder), patterns), *self._files)
        return IgnoreRules(self._command, files, by_system=self._by_system, by_files=self.by_files)

    def keep(self, folder: bytes, names: list[bytes]) -> list[bytes]:
        """Return the names to save.

        Args:
            folder: the path of their folder from the top, with ``/`` at the end; empty for the top.
            names: names in the folder, those of subfolders with ``/`` at the end.
        """
        if self._command or self._files:
            return [name for name in names if not self._leaves_out(folder, name)]
        if self._by_system:
            return [name for name in names if name[0] != _DOT or not _SYSTEM.fullmatch(name)]
        return names

    def _leaves_out(self, folder: bytes, name: bytes) -> bool:
        path = (folder + name).decode("utf-8", "surrogateescape")
        decision = self._command.decide(path)
        if decision is None:
            for length, patterns in self._files:
                decision = patterns.decide((folder + name)[length:].decode("utf-8", "surrogateescape"))
                if decision is not None:
                    break
            else:
                return self._by_system and _SYSTEM.fullmatch(name) is not None
        return decision


def _plain(pattern: str) -> str:
    """Return a pattern without its ``!``, or without the backslash before a literal ``!`` or ``#``."""
    if pattern.startswith("!"):
        return pattern[1:]
    return pattern[1:] if pattern.startswith(("\\!", "\\#")) else pattern


def _readable(text: str) -> list[str]:
    """Return the valid patterns among the first ``MAX_PATTERNS`` of an ignore file."""
    found = []
    for pattern in read_patterns(text)[:MAX_PATTERNS]:
        try:
            pattern_source(_plain(pattern))
        except UsageError:
            continue
        found.append(pattern)
    return found
