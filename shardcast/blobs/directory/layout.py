"""The layout of a directory of blobs: which file lies where.

::

    DIRECTORY/
      .HASHSERVER_PREFIX          marks the prefix layout
      ab/ab3f…                    a blob; in the flat layout DIRECTORY/ab3f…
      ab/ab3f….zst, ….gz          the same blob coded as zstd or gzip, as received
      ab/ab3f….BUFFERLENGTH       the decoded length of a coded blob, in decimal
      .shardcast-store/           our own: digest, incoming/

All but the last are as in hashserver, so both programs can work on one directory.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shardcast.digest import is_digest
from shardcast.directories import make_folder
from shardcast.disk_errors import disk_errors
from shardcast.errors import LocalDiskError, UsageError

PREFIX, FLAT = "prefix", "flat"
LAYOUTS = (PREFIX, FLAT)
MARKER = ".HASHSERVER_PREFIX"
OWN_FOLDER = ".shardcast-store"
LENGTH_SUFFIX = ".BUFFERLENGTH"
SUFFIXES = {"zstd": ".zst", "gzip": ".gz"}
"""The suffix of a coded blob's name, by the name of its coding in HTTP."""

_SHARED = 0o3775
"""The mode of a shared folder: writable by its group, new files get the group (setgid), and only the owner of
a file removes it (sticky)."""
OWN_SHARED = 0o2775
"""The same for folders whose files every member of the group replaces and removes: records, pins, notes."""
BLOB_MODE = 0o444
"""The mode of a blob's file: read-only for ever."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A directory of blobs in one layout.

    Attributes:
        root: path, as given.
        layout: one of ``LAYOUTS``.
    """

    root: str
    layout: str

    def path(self, digest: str, coding: str | None = None) -> str:
        """Return the path of a blob's file, coded or not."""
        return os.path.join(self.parent(digest), digest + SUFFIXES[coding] if coding else digest)  # noqa: PTH118

    def parent(self, digest: str) -> str:
        """Return the folder of a blob's file."""
        return os.path.join(self.root, digest[:2]) if self.layout == PREFIX else self.root  # noqa: PTH118

    def parents(self) -> list[str]:
        """Return the possible folders of blobs' files."""
        return [self.parent(f"{first:02x}") for first in range(256)] if self.layout == PREFIX else [self.root]

    def make_parent(self, digest: str) -> bool:
        """Make the folder of a blob's file, shared with the group, and return whether it was missing.

        The caller syncs the name of a new folder.

        Raises:
            OSError: the folder can't be made.
        """
        if self.layout == FLAT:
            return False
        try:
            os.mkdir(self.parent(digest))  # noqa: PTH102
            made = True
        except FileExistsError:
            made = False
        share_with_group(self.parent(digest))
        return made

    def entries(self) -> Iterator[list[str]]:
        """Yield the digests of its files in batches, in no order; blocks on the disk.

        A blob with several forms is yielded once.

        Raises:
            LocalDiskError: a folder can't be read.
        """
        if self.layout == FLAT:
            yield from _digests_in(self.root)
            return
        for parent in self.parents():
            for batch in _digests_in(parent):
                yield [digest for digest in batch if digest.startswith(parent[-2:])]


@dataclass(frozen=True, slots=True)
class LayoutEvidence:
    """The evidence of a directory's layout: the places of blobs, and its marker; no other files count.

    Attributes:
        flat: the name of some blob in the directory itself, or None.
        prefix: the name of some blob in a folder of the prefix layout, or None.
        marked: whether the prefix layout is marked.
        used: whether a process opened the directory to put blobs before; in the flat layout, unless the
            prefix layout is marked.
    """

    flat: str | None
    prefix: str | None
    marked: bool
    used: bool

    @property
    def layout(self) -> str | None:
        """The layout of its blobs, or None without evidence.

        With blobs in both layouts, or in none, the marker decides.
        """
        if bool(self.flat) != bool(self.prefix):
            return FLAT if self.flat else PREFIX
        if self.marked:
            return PREFIX
        return FLAT if self.flat or self.used else None


def inspect_layout(root: str) -> LayoutEvidence:
    """Return the evidence of a directory's layout now; blocks on the disk.

    Raises:
        LocalDiskError: the directory can't be read.
    """
    with disk_errors("could not look into", root):
        marked, used = (_is_there(os.path.join(root, name)) for name in (MARKER, f"{OWN_FOLDER}/digest"))  # noqa: PTH118
        prefix: str | None = None
        for first in range(256):
            name = f"{first:02x}"
            prefix = _first_blob(os.path.join(root, name), name)  # noqa: PTH118
            if prefix:
                break
        return LayoutEvidence(_first_blob(root), prefix, marked, used)


def check_layout(root: str, requested: str | None = None) -> LayoutEvidence:
    """Return the evidence of a directory's layout, which must not contradict the ``requested`` one.

    Raises:
        UsageError: the directory has another layout.
        LocalDiskError: the directory can't be read.
    """
    found = inspect_layout(root)
    if requested not in (None, found.layout or requested):
        blob = found.flat if found.layout == FLAT else found.prefix
        raise UsageError(
            f"the layout of {root} is {found.layout}, not {requested}: "
            + (f"{blob} lies there so" if blob else f"its {MARKER if found.marked else OWN_FOLDER} says so")
            + f"; leave the layout out, or say {found.layout}: blobs would not be found otherwise"
        )
    return found


class Layouts:
    """The layouts of directories with other writers, cached until the mtime changes."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, str]] = {}

    def of(self, root: str) -> tuple[str, ...]:
        """Return the layouts to look for blobs in: one, or both where the directory can't be listed.

        Then a layout known from before is returned alone.
        """
        try:
            changed = os.stat(root).st_mtime_ns  # noqa: PTH116
        except OSError:
            return (FLAT,)  # looking for a blob there meets the same error, and reports it
        known = self._known.get(root)
        if known and known[0] == changed:
            return (known[1],)
        try:
            layout = inspect_layout(root).layout
        except LocalDiskError:
            return (known[1],) if known else LAYOUTS
        if layout:
            self._known[root] = changed, layout
        return (layout or FLAT,)


def prepare(folder: Folder) -> None:
    """Share a directory with its group and mark the prefix layout, as far as permissions allow.

    A directory with blobs in the flat layout gets no marker.

    Raises:
        LocalDiskError: the directory can't be read.
    """
    share_with_group(folder.root)
    marker = Path(folder.root, MARKER)
    with disk_errors("could not look into", folder.root):
        lacks = folder.layout == PREFIX and not _is_there(str(marker)) and not _first_blob(folder.root)
    if lacks:
        with contextlib.suppress(OSError), marker.open("x") as file:
            file.write("1\n")


def _is_there(path: str) -> bool:
    """Return whether a path exists; errors other than its absence are raised."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _first_blob(folder: str, prefix: str = "") -> str | None:
    """Return the name of some blob in a folder, begun by ``prefix``, or None.

    Raises:
        OSError: the folder can't be read.
    """
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with entries:
        names = (entry.name for entry in entries if entry.name.startswith(prefix) and _is_blob(entry))
        return next(names, None)


def share_with_group(path: str, mode: int = _SHARED) -> None:
    """Let a folder's group write there, if the folder is ours."""
    with contextlib.suppress(OSError):  # another user's folder stays as its owner set it
        os.chmod(path, mode)  # noqa: PTH101


def make_own_folder(place: Path) -> None:
    """Make a folder in ``OWN_FOLDER``, durably, and share it with the group.

    Raises:
        OSError: the folder cannot be made.
    """
    make_folder(place)
    for folder in (place, *place.parents):
        share_with_group(str(folder), _SHARED if folder.name == OWN_FOLDER else OWN_SHARED)
        if folder.name == OWN_FOLDER:
            break


def gc_folder(folder: Folder) -> Path:
    """Return the folder of gc, whose lock admits one gc at a time."""
    return Path(folder.root) / OWN_FOLDER / "gc"


def make_read_only(path_or_descriptor: str | int) -> None:
    """Make a blob's file read-only, and so remove a mark of gc, too.

    Raises:
        OSError: the mode can't be set, as of another user's file.
    """
    os.chmod(path_or_descriptor, BLOB_MODE)  # noqa: PTH101


_BATCH = 1000
"""Digests listed at a time."""
_FORMS = ("", *SUFFIXES.values())


def _digests_in(folder: str) -> Iterator[list[str]]:
    """Yield the digests of the blobs in one folder, in batches.

    Raises:
        LocalDiskError: the folder can't be read.
    """
    found: list[str] = []
    with disk_errors("could not list", folder):
        try:
            entries = os.scandir(folder)
        except (FileNotFoundError, NotADirectoryError):
            return
        with entries:
            for entry in entries:
                digest, form = entry.name[:64], entry.name[64:]
                if _is_blob(entry) and _is_first(folder, digest, form):
                    found.append(digest)
                if len(found) == _BATCH:
                    yield found
                    found = []
    yield found


def _is_blob(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a regular file with a blob's name."""
    try:
        return entry.name[64:] in _FORMS and is_digest(entry.name[:64]) and entry.is_file()
    except OSError:  # links that go round in a circle
        return False


def _is_first(folder: str, digest: str, form: str) -> bool:
    """Return whether a blob has no file of an earlier form."""
    before = _FORMS[: _FORMS.index(form)]
    return not any(os.path.exists(os.path.join(folder, digest + end)) for end in before)  # noqa: PTH110, PTH118
