"""Where a directory of blobs keeps which file.

::

    DIRECTORY/
      .HASHSERVER_PREFIX          marks the prefix layout
      ab/ab3f…                    a blob; in the flat layout DIRECTORY/ab3f…
      ab/ab3f….zst, ….gz          the same one as zstd or gzip, as it came
      ab/ab3f….BUFFERLENGTH       its bytes then, in decimal
      .shardcast-store/           our own: digest, incoming/

All but the last is how hashserver keeps them, so that both can work on one directory.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shardcast.digest import is_digest
from shardcast.errors import LocalDiskError, UsageError
from shardcast.filesystem import disk_errors, make_folder

PREFIX, FLAT = "prefix", "flat"
LAYOUTS = (PREFIX, FLAT)
MARKER = ".HASHSERVER_PREFIX"
OWN = ".shardcast-store"
LENGTH = ".BUFFERLENGTH"
SUFFIXES = {"zstd": ".zst", "gzip": ".gz"}
"""The end of a coded blob's name, by the name of its coding in HTTP."""

_SHARED = 0o3775
"""Folders may be written by their group, whose files are then the group's, and removed by their owners
alone."""
OWN_SHARED = 0o2775
"""The same of folders whose files each member of the group replaces and removes: records, pins, notes."""
FINAL = 0o444


@dataclass(frozen=True, slots=True)
class Folder:
    """A directory of blobs.

    Attributes:
        root: its path, as it was given.
        layout: one of ``LAYOUTS``.
    """

    root: str
    layout: str

    def path(self, digest: str, coding: str | None = None) -> str:
        """The file of a blob, coded or as it is."""
        return os.path.join(self.parent(digest), digest + SUFFIXES[coding] if coding else digest)  # noqa: PTH118

    def parent(self, digest: str) -> str:
        """The folder that a blob's file is in."""
        return os.path.join(self.root, digest[:2]) if self.layout == PREFIX else self.root  # noqa: PTH118

    def parents(self) -> list[str]:
        """The folders that blobs' files can be in."""
        return [self.parent(f"{first:02x}") for first in range(256)] if self.layout == PREFIX else [self.root]

    def make_parent(self, digest: str) -> bool:
        """Make that folder; whether it wasn't there.

        Raises:
            OSError: it can't be made.
        """
        if self.layout == FLAT:
            return False
        try:
            os.mkdir(self.parent(digest))  # noqa: PTH102
            made = True
        except FileExistsError:
            made = False
        share(self.parent(digest))
        return made

    def entries(self) -> Iterator[list[str]]:
        """The digests of its files, some at a time, in no order; blocks on the disk.

        Raises:
            LocalDiskError: it can't be read.
        """
        if self.layout == FLAT:
            yield from _digests_in(self.root)
            return
        for parent in self.parents():
            for some in _digests_in(parent):
                yield [digest for digest in some if digest.startswith(parent[-2:])]


@dataclass(frozen=True, slots=True)
class Look:
    """What tells the layout of a directory: where blobs lie, and its marker. Nothing else in it counts.

    Attributes:
        flat: the name of a blob in the directory itself; None where there is none.
        prefix: that of one in a folder of the prefix layout.
        marked: whether the prefix layout is marked.
        used: whether blobs were to be put here before: where the prefix layout isn't marked, in the flat one.
    """

    flat: str | None
    prefix: str | None
    marked: bool
    used: bool

    @property
    def layout(self) -> str | None:
        """The layout that it has: the one in which its blobs lie. Where they lie in both, or there are none,
        the marker tells; None where nothing does."""
        if bool(self.flat) != bool(self.prefix):
            return FLAT if self.flat else PREFIX
        if self.marked:
            return PREFIX
        return FLAT if self.flat or self.used else None


def look_at(root: str) -> Look:
    """What tells the layout of a directory now; blocks on the disk.

    Raises:
        LocalDiskError: it can't be looked into.
    """
    with disk_errors("could not look into", root):
        marked, used = (_is_there(os.path.join(root, name)) for name in (MARKER, f"{OWN}/digest"))  # noqa: PTH118
        prefix: str | None = None
        for first in range(256):
            name = f"{first:02x}"
            prefix = _first_blob(os.path.join(root, name), name)  # noqa: PTH118
            if prefix:
                break
        return Look(_first_blob(root), prefix, marked, used)


def decide(root: str, said: str | None = None) -> Look:
    """See which layout a directory has, or is to have: what is ``said``, or else the prefix one, only where
    nothing tells.

    Raises:
        UsageError: it has another layout than was said.
        LocalDiskError: it can't be looked into.
    """
    found = look_at(root)
    if said not in (None, found.layout or said):
        blob = found.flat if found.layout == FLAT else found.prefix
        raise UsageError(
            f"the layout of {root} is {found.layout}, not {said}: "
            + (f"{blob} lies there so" if blob else f"its {MARKER if found.marked else OWN} says so")
            + f"; leave the layout out, or say {found.layout}: blobs would not be found otherwise"
        )
    return found


class Layouts:
    """Which layouts directories have that others write into; remembered as long as they look the same."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, str]] = {}

    def of(self, root: str) -> tuple[str, ...]:
        """The layouts in which a directory may have blobs at the time: one, unless that can't be seen."""
        try:
            changed = os.stat(root).st_mtime_ns  # noqa: PTH116
        except OSError:
            return (FLAT,)  # who looks for a blob there meets the same
        known = self._known.get(root)
        if known and known[0] == changed:
            return (known[1],)
        try:
            layout = look_at(root).layout
        except LocalDiskError:
            return (known[1],) if known else LAYOUTS
        if layout:
            self._known[root] = changed, layout
        return (layout or FLAT,)


def prepare(folder: Folder) -> None:
    """Share a directory with its group, and mark its layout, where that is allowed, and where no blobs lie in
    the other one.

    Raises:
        LocalDiskError: it can't be looked into.
    """
    share(folder.root)
    marker = Path(folder.root, MARKER)
    with disk_errors("could not look into", folder.root):
        lacks = folder.layout == PREFIX and not _is_there(str(marker)) and not _first_blob(folder.root)
    if lacks:
        with contextlib.suppress(OSError), marker.open("x") as file:
            file.write("1\n")


def _is_there(path: str) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _first_blob(folder: str, prefix: str = "") -> str | None:
    """The name of some blob in a folder, of those whose names begin like this.

    Raises:
        OSError: it can't be read.
    """
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with entries:
        return next((one.name for one in entries if one.name.startswith(prefix) and _is_blob(one)), None)


def share(path: str, mode: int = _SHARED) -> None:
    """Let a folder's group write there, where that is allowed."""
    with contextlib.suppress(OSError):  # somebody else's: it is as they want it
        os.chmod(path, mode)  # noqa: PTH101


def make_own(place: Path) -> None:
    """Make a folder in ``OWN``, durably, that the others who work on the directory find there.

    Raises:
        OSError: it can't be made.
    """
    make_folder(place)
    for one in (place, *place.parents):
        share(str(one), _SHARED if one.name == OWN else OWN_SHARED)
        if one.name == OWN:
            break


def seal(path_or_descriptor: str | int) -> None:
    """Nobody is to write to a blob's file any more.

    Raises:
        OSError: it is somebody else's.
    """
    os.chmod(path_or_descriptor, FINAL)  # noqa: PTH101


_BATCH = 1000
_FORMS = ("", *SUFFIXES.values())


def _digests_in(folder: str) -> Iterator[list[str]]:
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
    """Whether an entry is a file with a blob's name."""
    try:
        return entry.name[64:] in _FORMS and is_digest(entry.name[:64]) and entry.is_file()
    except OSError:  # links that go round in a circle
        return False


def _is_first(folder: str, digest: str, form: str) -> bool:
    """Whether the blob isn't there in a form that comes before this one."""
    before = _FORMS[: _FORMS.index(form)]
    return not any(os.path.exists(os.path.join(folder, digest + one)) for one in before)  # noqa: PTH110, PTH118
