"""The entries of a folder, and the rules for a path or link safe to write below another folder.

Both ends apply the same checks: a publisher refuses whatever a reader would refuse.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

MAX_PATH = 4096
"""Bytes of a path below the folder, and of a link's target."""
MAX_COMPONENT = 255
"""Bytes of one name in a path."""
PERMISSIONS = 0o777
"""The published bits of a mode."""

MAX_TIME = 1 << 62
"""Bound of times, in seconds before and after 1970."""

_NO_NAMES = frozenset((b"", b".", b".."))
_NO_NAME = re.compile(rb"(?:\A|/)\.{0,2}(?:/|\Z)")
"""An empty component, ``.`` or ``..``."""


class UnsafeEntry(ValueError):
    """An entry outside its folder, or impossible in any folder."""


class EntryKind(IntEnum):
    """Kinds of entries; the numbers are those of the type flags of a tar header."""

    FILE = 0
    HARD_LINK = 1
    SYMLINK = 2
    FOLDER = 5


@dataclass(frozen=True, slots=True)
class FolderEntry:
    """One entry of a folder.

    Attributes:
        path: relative to the folder, without ``./``; with ``/`` at the end for a folder.
        kind: file, folder, symbolic or hard link.
        size: bytes of a file; 0 for everything else.
        mode: permission bits, at most 0777.
        mtime: seconds since the epoch, rounded down; 0 for a folder.
        link: the target of a symbolic link; for a hard link, the first path of its file.
    """

    path: bytes
    kind: EntryKind
    size: int = 0
    mode: int = 0o644
    mtime: int = 0
    link: bytes = b""

    @property
    def text(self) -> str:
        """The path for people and for Python, with surrogates for bytes other than UTF-8."""
        return self.path.decode("utf-8", "surrogateescape")


def check_entry(entry: FolderEntry) -> None:
    """Check one entry alone; ``FolderTable.append`` compares entries with their neighbours.

    Raises:
        UnsafeEntry: the path leaves the folder or is no path, the link leaves the folder, or a number is out
            of bounds.
    """
    is_folder = entry.kind is EntryKind.FOLDER
    if is_folder != entry.path.endswith(b"/"):
        raise UnsafeEntry(f"{_quoted(entry.path)}: a folder's path, and no other one, ends in /")
    _check_path(entry.path[:-1] if is_folder else entry.path)
    if entry.kind is EntryKind.SYMLINK:
        _check_target(entry.path, entry.link)
    elif entry.kind is EntryKind.HARD_LINK:
        _check_path(entry.link)
    elif entry.link:
        raise UnsafeEntry(f"{_quoted(entry.path)}: only links have targets")
    if entry.size < 0 or (entry.size and entry.kind is not EntryKind.FILE):
        raise UnsafeEntry(f"{_quoted(entry.path)}: only files have bytes")
    if entry.mode & ~PERMISSIONS:
        raise UnsafeEntry(f"{_quoted(entry.path)}: a mode of more than the permission bits")
    if not -MAX_TIME < entry.mtime < MAX_TIME or (is_folder and entry.mtime):
        bounds = "folders have none" if is_folder else f"files and links have less than {MAX_TIME} s"
        raise UnsafeEntry(f"{_quoted(entry.path)}: a time of {entry.mtime}; {bounds}")


def are_plain_names(above: bytes, names: Sequence[bytes]) -> bool:
    """Return whether all paths of names in a safe folder would pass ``check_entry``; all usual ones do."""
    joined = b"\0".join(names)
    longest = max(map(len, names), default=0)
    return (
        b"/" not in joined
        and joined.count(b"\0") == len(names) - 1
        and _NO_NAMES.isdisjoint(names)
        and longest <= MAX_COMPONENT
        and len(above) + longest <= MAX_PATH
    )


def are_plain_numbers(sizes: Sequence[int], modes: Sequence[int], mtimes: Sequence[int]) -> bool:
    """Return whether numbers of files would pass ``check_entry``."""
    return (
        min(sizes) >= 0
        and 0 <= min(modes) <= max(modes) <= PERMISSIONS
        and -MAX_TIME < min(mtimes) <= max(mtimes) < MAX_TIME
    )


def _check_path(path: bytes) -> None:
    """Check a path without the ``/`` of a folder.

    Raises:
        UnsafeEntry: the path is absolute, empty or too long, or a component is no valid name.
    """
    if not path or len(path) > MAX_PATH or b"\0" in path:
        raise UnsafeEntry(f"{_quoted(path)}: no path of 1 to {MAX_PATH} bytes without NUL")
    if _NO_NAME.search(path) or (
        len(path) > MAX_COMPONENT and max(map(len, path.split(b"/"))) > MAX_COMPONENT
    ):
        raise UnsafeEntry(f"{_quoted(path)}: a component is empty, . or .., or over {MAX_COMPONENT} bytes")


def _check_target(path: bytes, target: bytes) -> None:
    """Check that a symbolic link stays in the folder, whatever other links are on the way.

    ``..`` is allowed only at the beginning, where it leaves real folders: after a name it would leave the
    target of a link with this name.

    Raises:
        UnsafeEntry: the link may leave the folder.
    """
    if not target or len(target) > MAX_PATH or b"\0" in target:
        raise UnsafeEntry(f"{_quoted(path)}: a link to no path of 1 to {MAX_PATH} bytes without NUL")
    depth, descended = path.count(b"/"), False
    for name in target.split(b"/"):
        if name == b"..":
            depth -= 1
            if descended or depth < 0:
                raise UnsafeEntry(f"{_quoted(path)}: a link to {_quoted(target)}, which may leave the folder")
        elif name not in (b"", b"."):
            descended = True
    if target.startswith(b"/"):
        raise UnsafeEntry(f"{_quoted(path)}: a link to {_quoted(target)}, which leaves the folder")


def _quoted(path: bytes) -> str:
    """Return a path for a message: bounded, printable."""
    shown = repr(path[:200].decode("utf-8", "surrogateescape"))
    return shown if len(path) <= 200 else f"{shown}… ({len(path)} bytes)"
