"""Patterns of paths in a folder, such as ``*.bin``; and a folder's file of them.

::

    *.tmp        a name, at any depth, of a file, link or folder
    logs/        a folder of this name, at any depth, with all its contents
    /notes.txt   a path from the top of the folder
    a/*.bin      a pattern with a / in the middle is a path from the top, too
    a/**/b       ** stands for any folders between, also for none

``*`` and ``?`` stand for no ``/``; ``[abc]`` for one of these characters; others for themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from shardcast.errors import UsageError

IGNORE_FILE = ".shardcastignore"
"""The file at the top of a folder with patterns of unpublished paths, one a line."""
MAX_PATTERNS = 10_000
"""Maximum patterns in one list."""
_MAX_PATTERN = 4096
"""Characters of a pattern."""


class PathPatterns:
    """Patterns of paths in a folder.

    A path matches if a pattern matches the path itself or a folder above.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        """Compile patterns.

        Raises:
            UsageError: one is no pattern, or they are too many.
        """
        sources = [pattern_source(pattern) for pattern in patterns]
        if len(sources) > MAX_PATTERNS:
            raise UsageError(f"{len(sources)} patterns of paths; at most {MAX_PATTERNS} are allowed")
        self._pattern = re.compile("|".join(sources) or r"(?!)", re.DOTALL)

    def match(self, path: bytes) -> bool:
        """Return whether a pattern matches this very path, without looking at folders above.

        Args:
            path: relative to the folder; with ``/`` at the end for a folder.
        """
        return self._pattern.fullmatch(path.decode("utf-8", "surrogateescape")) is not None

    def match_or_above(self, path: bytes) -> bool:
        """Return whether a pattern matches a path or a folder above."""
        end = path.find(b"/")
        while 0 <= end < len(path) - 1:
            if self.match(path[: end + 1]):
                return True
            end = path.find(b"/", end + 1)
        return self.match(path)


def read_patterns(text: str) -> list[str]:
    """Return the patterns in the lines of an ignore file; blank lines and comments (``#``) are left out."""
    lines = (line.rstrip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def pattern_source(pattern: str) -> str:
    """Return the regular expression of a pattern, for paths with ``/`` at the end of folders.

    Raises:
        UsageError: the pattern is malformed.
    """
    body = pattern.rstrip("/")
    if not body or "\0" in pattern or len(pattern) > _MAX_PATTERN:
        raise UsageError(f"{pattern[:100]!r} is no pattern of paths, such as '*.tmp', 'logs/' or 'a/**/b'")
    if body.startswith("!"):
        raise UsageError(f"{pattern[:100]!r}: patterns of exceptions are not supported; write [!] for !")
    anchored = "/" in body
    body = body.removeprefix("/").removeprefix("./")
    found, at = [] if anchored else [r"(?:.*/)?"], 0
    while at < len(body):
        if body.startswith("**/", at) and (at == 0 or body[at - 1] == "/"):
            found.append(r"(?:.*/)?")
            at += 3
        elif body.startswith("**", at):
            found.append(".*")
            at += 2
        elif body[at] == "*":
            found.append("[^/]*")
            at += 1
        elif body[at] == "?":
            found.append("[^/]")
            at += 1
        elif body[at] == "[" and (end := body.find("]", at + 2)) > 0:
            found.append(_one_of(body[at + 1 : end]))
            at = end + 1
        else:
            found.append(re.escape(body[at]))
            at += 1
    return "".join(found) + ("/" if pattern.endswith("/") else "/?")


def _one_of(characters: str) -> str:
    """Return the regular expression for one of some characters, or of all but those behind ``!``."""
    negated = characters.startswith("!") and len(characters) > 1
    listed = re.escape(characters.removeprefix("!") if negated else characters).replace(r"\-", "-")
    try:
        found = f"(?!/)[{'^' if negated else ''}{listed}]"
        re.compile(found)
    except re.error:
        raise UsageError(f"[{characters[:100]}] in a pattern stands for no characters") from None
    return found
