"""Names that a file system takes for one, found before anything of a folder is fetched or written."""

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
    """The differences between names that a file system ignores.

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

        File systems have tables of their own, which may tell some rare characters apart that are one here.
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
    """Return how a folder's file system compares names; blocks on the disk.

    Names are made for that and removed again. Where they can't be made, nothing counts as ignored.

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
    """Return the first two paths that are one name on a file system; None where there are none.

    Args:
        paths: of all entries, those of folders with ``/`` at the end.
        folding: what the file system ignores.
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
