"""A folder on the disk ─▶ its entries, and an identity of each to detect changes."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shardcast.disk_errors import disk_errors
from shardcast.errors import LocalDiskError, PayloadChanged, UsageError
from shardcast.folders.entries import PERMISSIONS, EntryKind, FolderEntry, UnsafeEntry
from shardcast.folders.identities import EntryIdentities
from shardcast.folders.patterns import IGNORE_FILE, PathPatterns, read_patterns
from shardcast.folders.table import FolderTable
from shardcast.folders.tree import OpenTree

_MAX_IGNORE_FILE = 1 << 20
"""Bytes of an ignore file."""
_SECOND = 10**9
_SLASH = ord("/")
_RUN = 1000
"""Names of a folder examined together."""
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""Errors about a path that vanished, or that has a file or a link in place of a folder."""
_OTHERS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

FirstPaths = dict[tuple[int, int], bytes]
"""The first path of each file with several names, by device and inode."""


@dataclass(frozen=True, slots=True)
class SurveyRules:
    """The part of a folder to publish.

    Attributes:
        exclude: patterns of the paths to leave out, beside those of the folder's ignore file.
        mtimes: whether times are published; else all are 0.
        forbidden: a folder not allowed inside: the data directory, since it changes meanwhile.
    """

    exclude: tuple[str, ...] = ()
    mtimes: bool = True
    forbidden: Path | None = None


class FolderSurvey:
    """The entries of a folder, from a walk through it.

    Attributes:
        path: the folder, for messages.
        tree: the open folder.
        table: the entries.
        started: when the walk began, or large files were linked later, in nanoseconds since 1970.
        identities: of the entries; those of folders are not compared, since their times change with each file
            left out.
    """

    def __init__(self, path: Path, tree: OpenTree, rules: SurveyRules) -> None:
        """Walk through a folder; ``open_survey`` is the usual way.

        Raises:
            PayloadChanged: the folder changed meanwhile.
            LocalDiskError: an entry can't be published.
            UsageError: a pattern is malformed.
        """
        self.path = path
        self.tree = tree
        self.started = time.time_ns()
        self.table = FolderTable()
        self.identities = EntryIdentities()
        self._rules = rules
        self._patterns = _patterns(path, tree.root, rules)
        self._forbidden = os.stat(rules.forbidden) if rules.forbidden else None
        if self._forbidden and os.path.samestat(self._forbidden, os.fstat(tree.root)):
            raise LocalDiskError(f"can't broadcast {path}: it is the data directory itself")
        firsts = FirstPaths()
        for above, names in self._walk():
            try:
                self._take(above, names, firsts)
            except UnsafeEntry as error:
                raise LocalDiskError(
                    f"can't broadcast {path}: {error}; leave it out with --exclude, or pack the folder"
                ) from None

    def _take(self, above: bytes, names: list[bytes], firsts: FirstPaths) -> None:
        """Append the entries of names in a folder to the table, and their identities.

        Raises:
            UnsafeEntry: readers would refuse an entry.
            PayloadChanged: an entry vanished meanwhile, or changed its kind.
            LocalDiskError: an entry can't be published.
        """
        found, has_times = self._look(above, names), self._rules.mtimes
        if not all(map(_is_plain_file, found)):
            for name, state in zip(names, found, strict=True):
                self.table.append(self._entry(above, name, state, firsts))
        else:
            sizes = [each.st_size for each in found]
            modes = [each.st_mode & PERMISSIONS for each in found]
            mtimes = [each.st_mtime_ns // _SECOND if has_times else 0 for each in found]
            self.table.append_files(above, names, sizes, modes, mtimes)
        self.identities.extend(found)

    def check_unchanged(self) -> None:
        """Walk through the folder once more, and compare each entry and its identity.

        Raises:
            PayloadChanged: an entry appeared, vanished or was touched.
            LocalDiskError: the folder can't be read.
        """
        index, firsts = 0, FirstPaths()
        for above, names in self._walk():
            found, end = self._look(above, names), index + len(names)
            if not self._is_same_run(index, above, names, found):
                for name, state in zip(names, found, strict=True):
                    self._check_same(index, above, name, state, firsts)
                    index += 1
            index = end
        if index < len(self.table):
            raise self._vanished(index)

    def _is_same_run(self, index: int, above: bytes, names: list[bytes], found: list[os.stat_result]) -> bool:
        """Return whether names in a folder are the entries from an index on, none of them touched.

        A file of the same inode, mtime and ctime has the same size, mode and names. False also where a closer
        look is needed: at links, and at folders, whose times change with files left out.
        """
        end = index + len(names)
        return (
            names[-1][-1] != _SLASH
            and self.table.paths(index, end) == [above + name for name in names]
            and list(self.table.sizes[index:end]) == [each.st_size for each in found]
            and self.identities.agree_all(index, found)
        )

    def _check_same(
        self, index: int, above: bytes, name: bytes, found: os.stat_result, firsts: FirstPaths
    ) -> None:
        """Check that a name in a folder is the untouched entry at an index.

        Raises:
            PayloadChanged: the entry is another one, or was touched.
            LocalDiskError: the entry can't be published.
        """
        path, count = above + name, len(self.table)
        expected = self.table.path(index) if index < count else b""
        if path != expected:
            raise self._vanished(index) if expected and expected < path else self.changed(path, "is new")
        same_size = self.table.size(index) in (found.st_size, 0)  # links have none in the table
        if name[-1] == _SLASH or not same_size or not self.identities.agree(index, found):
            entry = self._entry(above, name, found, firsts)
            if not self.table.is_at(index, entry):
                raise self.changed(path, "was changed or replaced")
            if entry.kind is not EntryKind.FOLDER:
                raise self.changed(path, "was written to or replaced")

    def changed(self, path: bytes, how: str) -> PayloadChanged:
        """Return the error for a changed path."""
        return PayloadChanged(
            f"can't broadcast {self.path}: {os.fsdecode(path)!r} {how} while the folder was read; "
            "broadcast it when nothing writes to it"
        )

    @contextmanager
    def reading(self, path: bytes) -> Iterator[None]:
        """Translate system errors about a path in the folder.

        Raises:
            PayloadChanged: the path vanished, or changed its kind.
            LocalDiskError: the path can't be read.
        """
        try:
            yield
        except OSError as error:
            if error.errno in _GONE:
                raise self.changed(path, "is not there any more") from error
            with disk_errors("could not read", os.path.join(self.path, os.fsdecode(path))):
                raise

    def _vanished(self, index: int) -> PayloadChanged:
        return self.changed(self.table.path(index), "is not there any more")

    def _walk(self) -> Iterator[tuple[bytes, list[bytes]]]:
        """Yield runs of names in the order of a table: a folder's path, and the next names in the folder.

        A run ends at a subfolder; the names in the subfolder follow.
        """
        pending = [(b"", _runs(self._names(b"")))]
        while pending:
            above, runs = pending[-1]
            for names in runs:
                yield above, names
                if names[-1][-1] == _SLASH:
                    below = above + names[-1]
                    pending.append((below, _runs(self._names(below))))
                    break
            else:
                pending.pop()

    def _names(self, path: bytes) -> list[bytes]:
        """Return the published names in a folder, in order, those of subfolders with a ``/``."""
        with self.reading(path), os.scandir(self.tree.folder(path)) as found:
            names = [
                os.fsencode(entry.name) + (b"/" if entry.is_dir(follow_symlinks=False) else b"")
                for entry in found
            ]
        names.sort()
        if self._patterns is None:
            return names
        return [name for name in names if not self._patterns.match(path + name)]

    def _look(self, above: bytes, names: list[bytes]) -> list[os.stat_result]:
        """Return the states of a run of names in a folder.

        Raises:
            PayloadChanged: one vanished meanwhile.
            LocalDiskError: one can't be looked at.
        """
        with self.reading(above):
            folder = self.tree.folder(above)
        plain = [names[0][:-1]] if names[-1][-1] == _SLASH else names
        try:
            return [os.stat(name, dir_fd=folder, follow_symlinks=False) for name in plain]
        except OSError as error:
            with self.reading(above + (error.filename or b"")):
                raise error

    def _entry(self, above: bytes, name: bytes, found: os.stat_result, firsts: FirstPaths) -> FolderEntry:
        """Return the entry of a name in a folder.

        Args:
            above: the folder's path.
            name: the name in the folder.
            found: the state of the entry.
            firsts: the first path of each file with several names; kept up to date.

        Raises:
            PayloadChanged: the entry changed its kind.
            LocalDiskError: the entry can't be published.
        """
        path, is_folder = above + name, name[-1] == _SLASH
        file_type, mode = stat.S_IFMT(found.st_mode), found.st_mode & PERMISSIONS
        if (file_type == stat.S_IFDIR) != is_folder:
            raise self.changed(path, "became something else")
        if is_folder:
            self._check_forbidden(path, found)
            return FolderEntry(path, EntryKind.FOLDER, 0, mode)
        mtime = found.st_mtime_ns // _SECOND if self._rules.mtimes else 0
        if file_type == stat.S_IFREG:
            if found.st_nlink > 1:
                first = firsts.setdefault((found.st_dev, found.st_ino), path)
                if first != path:
                    return FolderEntry(path, EntryKind.HARD_LINK, 0, mode, mtime, first)
            return FolderEntry(path, EntryKind.FILE, found.st_size, mode, mtime)
        if file_type == stat.S_IFLNK:
            with self.reading(path):
                link = os.readlink(name, dir_fd=self.tree.folder(above))
            return FolderEntry(path, EntryKind.SYMLINK, 0, PERMISSIONS, mtime, link)
        raise LocalDiskError(
            f"can't broadcast {self.path}: {os.fsdecode(path)!r} is {_OTHERS.get(file_type, 'no file')}; "
            "leave it out with --exclude"
        )

    def _check_forbidden(self, path: bytes, found: os.stat_result) -> None:
        """Check that a subfolder is not the data directory.

        Raises:
            LocalDiskError: the subfolder is the data directory.
        """
        if self._forbidden and os.path.samestat(self._forbidden, found):
            raise LocalDiskError(
                f"can't broadcast {self.path}: {os.fsdecode(path)!r} is the data directory, which grows "
                f"meanwhile; leave it out with --exclude '/{os.fsdecode(path)}', or let it lie elsewhere"
            )


def _runs(names: list[bytes]) -> Iterator[list[bytes]]:
    """Yield the names in a folder in their order, several at once: files and links, or one subfolder."""
    start = 0
    for end, name in enumerate(names):
        is_folder = name[-1] == _SLASH
        if start < end and (is_folder or end - start == _RUN):
            yield names[start:end]
            start = end
        if is_folder:
            yield [name]
            start = end + 1
    if start < len(names):
        yield names[start:]


def _is_plain_file(found: os.stat_result) -> bool:
    """Return whether a state belongs to a file with one name."""
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1


@contextmanager
def open_survey(path: Path, rules: SurveyRules | None = None) -> Iterator[FolderSurvey]:
    """Open a folder, walk through it, and keep it open.

    Raises:
        PayloadChanged: the folder changed meanwhile.
        LocalDiskError: the folder can't be read, or an entry can't be published.
        UsageError: a pattern is malformed.
    """
    with disk_errors("could not read", path):
        tree = OpenTree.at(path)
    with tree:
        yield FolderSurvey(path, tree, rules or SurveyRules())


def _patterns(path: Path, root: int, rules: SurveyRules) -> PathPatterns | None:
    """Return the patterns of paths to leave out, with those of the folder's ignore file; None for none.

    Raises:
        UsageError: a pattern is malformed, or the file is too long or not UTF-8.
        LocalDiskError: the file can't be read.
    """
    patterns = [*rules.exclude]
    file = path / IGNORE_FILE
    with disk_errors("could not read", file):
        try:
            found = os.stat(IGNORE_FILE, dir_fd=root, follow_symlinks=False)
        except FileNotFoundError:
            return PathPatterns(patterns) if patterns else None
        if not stat.S_ISREG(found.st_mode) or found.st_size > _MAX_IGNORE_FILE:
            raise UsageError(f"{file} is no file of patterns of at most {_MAX_IGNORE_FILE} bytes")
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(IGNORE_FILE, flags, dir_fd=root), "rb") as opened:
            data = opened.read(_MAX_IGNORE_FILE)
    try:
        listed = read_patterns(data.decode())
        PathPatterns(listed)
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not UTF-8") from None
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from None
    return PathPatterns([*patterns, *listed])
