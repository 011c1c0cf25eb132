"""Different names taken for one by a file system, found before any fetch or write of a folder."""

from __future__ import annotations

import contextlib
import os
import secrets
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from shardcast.open_files import close

_COMPOSED, _DECOMPOSED = "\N{LATIN SMALL LETTER E WITH ACUTE}", "e\N{COMBINING ACUTE ACCENT}"
_OWNER = 0o600


@dataclass(frozen=True)
class NameFolding:
    """The differences between names ignored by a file system.

    Attributes:
        case: whether ``A`` and ``a`` are one name.
        form: whether composed and decomposed characters are one name.
    """

    case: bool = False
    form: bool = False

    def __bool__(self) -> bool:
        return self.case or self.form

    def key(self, path: bytes) -> bytes:
        """Return the same key for paths that are one name here.

        A file system's own table may distinguish some rare characters with the same key here.
        """
        try:
            text = path.decode()
        except UnicodeDecodeError:
            return path
        if self.form:
            text = unicodedata.normalize("NFD", text)
        if self.case:
            text = text.casefold()
        return (unicodedata.normalize("NFD", text) if self.form else text).encode()


def probe_folding(root: int) -> NameFolding:
    """Return the rules of a folder's file system for comparing names; blocks on the disk.

    Names are made as a test, and removed again. If they can't be made, no difference counts as ignored.

    Args:
        root: the descriptor of the folder.
    """
    stem = f".shardcast-{secrets.token_hex(8)}"
    with contextlib.suppress(OSError):
        case = _are_one(root, f"{stem}-a", f"{stem}-A")
        form = _are_one(root, f"{stem}-{_COMPOSED}", f"{stem}-{_DECOMPOSED}")
        return NameFolding(case, form)
    return NameFolding()


def find_collision(paths: Iterable[bytes], folding: NameFolding) -> tuple[bytes, bytes] | None:
    """Return the first two paths with one name on a file system; None without such a pair.

    Args:
        paths: of all entries, those of folders with ``/`` at the end.
        folding: the differences ignored by the file system.
    """
    found: dict[bytes, bytes] = {}
    for path in paths:
        path = path.rstrip(b"/")
        first = found.setdefault(folding.key(path), path)
        if first is not path:
            return first, path
    return None


def _are_one(root: int, name: str, other: str) -> bool:
    """Return whether two names are one in a folder.

    Raises:
        OSError: the names can't be made.
    """
    close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _OWNER, dir_fd=root))
    try:
        os.stat(other, dir_fd=root, follow_symlinks=False)
    except FileNotFoundError:
        return False
    finally:
        os.unlink(name, dir_fd=root)
    return True
