"""The mark of a private directory of blobs, served by one product alone: ``.shardcast-store/private``.

A hash server or an archive serves a blob to any client with the digest; a private directory has other rules.
"""

from __future__ import annotations

from pathlib import Path

from shardcast.blobs.directory.layout import OWN_FOLDER
from shardcast.directories import make_folder
from shardcast.disk_errors import disk_errors
from shardcast.errors import WrongStore
from shardcast.filesystem import replace
from shardcast.plain_text import one_line

_MAX_OWNER = 100
"""Characters of the owner's name."""


def mark_private(root: Path, owner: str) -> None:
    """Mark a directory as served by ``owner`` alone, durably; an existing mark is kept.

    Raises:
        OSError: the mark can't be made.
    """
    mark = _mark(root)
    if not mark.exists():
        make_folder(mark.parent)
        replace(mark, f"{owner}\n".encode())


def check_not_private(root: Path | str) -> None:
    """Check that a directory is not private.

    Raises:
        WrongStore: the directory is marked as private.
        LocalDiskError: the mark cannot be checked.
    """
    mark = _mark(Path(root))
    with disk_errors("could not look at", mark):
        try:
            owner = mark.read_text(errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return
    raise WrongStore(
        f"{root} belongs to a {one_line(owner.strip(), _MAX_OWNER)}, which alone serves and changes it; "
        "name another directory"
    )


def _mark(root: Path) -> Path:
    """Return the path of a directory's mark."""
    return root / OWN_FOLDER / "private"
