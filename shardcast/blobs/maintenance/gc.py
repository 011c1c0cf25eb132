"""Garbage collection of a directory of blobs, beside processes with puts and reads there.

Unreferenced blobs are marked first, and removed by a later run; see ``gc_policy`` and ``marks``.

::

    DIRECTORY/.shardcast-store/gc/
      roots.json                the roots of the last run; the next run must name them again
      marks, put/               see ``marks``
      trash/                    a file in removal; see ``quarantine``
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection as Some
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

from shardcast.ages import age_of, is_future
from shardcast.blobs.directory.layout import LENGTH_SUFFIX, Folder, gc_folder, make_own_folder
from shardcast.blobs.directory.marks import Marks, forget_puts, is_marked, put_time
from shardcast.blobs.directory.quarantine import TRASH, folder_lock, take_out, undo_removals
from shardcast.blobs.directory.stat import Form, forms_of
from shardcast.blobs.maintenance.gc_policy import Blob, Decision, Rules, decide
from shardcast.digest import is_digest
from shardcast.directories import make_folder
from shardcast.disk_errors import disk_errors
from shardcast.errors import DataDirInUse, LocalDiskError, UsageError
from shardcast.file_systems import NO_PERMISSIONS
from shardcast.filesystem import replace
from shardcast.json_text import parse_json
from shardcast.temporary_files import PART, clear_leftovers, is_temporary_of

_MARKED = 0o445
"""The mode of a marked file."""
_STALE = 86400.0
"""Seconds without a change until a temporary file counts as the leftover of a kill."""
_MOST_FAILURES = 20
"""Failures reported one by one."""


@dataclass
class Tally:
    """A number of blobs, and the bytes of their files."""

    blobs: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        """Count a blob whose files have ``size`` bytes."""
        self.blobs += 1
        self.bytes += size


@dataclass
class GcResult:
    """The result of a run, or of a dry run.

    Attributes:
        all: the blobs of the directory.
        referenced: the blobs with a reference from a root.
        unreferenced: the other blobs.
        marked: the newly marked blobs, to be removed after the grace time.
        waiting: the blobs marked before, still within their grace time.
        unmarked: the blobs marked before, kept now.
        removed: the removed blobs.
        failed: the number of failed marks and removals.
        failures: the errors of some of them.
    """

    all: Tally = field(default_factory=Tally)
    referenced: Tally = field(default_factory=Tally)
    unreferenced: Tally = field(default_factory=Tally)
    marked: Tally = field(default_factory=Tally)
    waiting: Tally = field(default_factory=Tally)
    unmarked: Tally = field(default_factory=Tally)
    removed: Tally = field(default_factory=Tally)
    failed: int = 0
    failures: list[str] = field(default_factory=list)


class GarbageCollection:
    """One run over a directory.

    Attributes:
        result: the result so far.
    """

    def __init__(
        self, folder: Folder, referenced: AbstractSet[bytes], rules: Rules, *, now: float, delete: bool
    ) -> None:
        """Prepare a run.

        Args:
            folder: the directory.
            referenced: the digests named by the roots, as bytes.
            rules: the ages at which blobs may go.
            now: beginning of the reading of the roots, in seconds since 1970.
            delete: whether to mark and remove; else nothing is changed.

        Raises:
            LocalDiskError: the marks can't be read.
        """
        self.result = GcResult()
        self._folder, self._referenced, self._rules = folder, referenced, rules
        self._now, self._delete = now, delete
        self._trash = gc_folder(folder) / TRASH
        self._marks = Marks(folder)

    def run(self) -> Iterator[None]:
        """Go through all blobs, and yield after each batch; blocks on the disk.

        The caller may close the generator at any moment; the marks so far are recorded then, too.

        Raises:
            DataDirInUse: another run is under way here.
            LocalDiskError: the directory can't be read, or its file system keeps no marks.
        """
        whole = False
        with contextlib.ExitStack() as stack:
            stack.enter_context(disk_errors("could not collect in", Path(self._folder.root)))
            if self._delete:
                stack.enter_context(_alone(self._folder))
                make_folder(self._trash)
                for file in (self._marks.file, gc_folder(self._folder) / "roots.json"):
                    clear_leftovers(file)
                self._try_marks()
                undo_removals(self._folder)
                self._clear_copies()
                self._marks = Marks(self._folder)  # again: under the lock, no other run changes them
                stack.callback(lambda: self._marks.save(whole))
            for batch in self._folder.entries():
                for digest in batch:
                    self._process(digest)
                yield
            whole = True
            if self._delete:
                rules = self._rules
                forget_puts(self._folder, self._now - max(rules.grace, rules.older_than or 0.0))

    def _process(self, digest: str) -> None:
        """Decide on a blob and act; an error with one blob is counted, and does not end the run."""
        try:
            forms = forms_of(self._folder, digest)
            if forms:
                self._act(digest, forms)
        except FileNotFoundError:
            pass  # another process removed it
        except OSError as error:
            self.result.failed += 1
            if len(self.result.failures) < _MOST_FAILURES:
                self.result.failures.append(f"{digest}: {error.strerror or error}")

    def _act(self, digest: str, forms: Sequence[Form]) -> None:
        """Decide on a blob, act where the run may change anything, and count the blob."""
        result, size = self.result, sum(form.stat_result.st_size for form in forms)
        referenced = bytes.fromhex(digest) in self._referenced
        since = self._marks.since(digest, forms)
        if self._delete and not referenced and self._correct_times(forms):
            forms, since = forms_of(self._folder, digest), None
        decision = decide(self._blob(digest, forms, since), referenced, self._rules, self._now)
        if self._delete:
            if decision is Decision.REMOVE:
                if not self._remove(digest, forms, since or 0.0):
                    decision = Decision.UNMARK  # a put replaced or renewed it in this moment
            elif decision is Decision.MARK:
                self._marks.set(digest, forms)
            elif decision is Decision.WAIT:
                self._marks.keep(digest)
            elif decision is Decision.UNMARK:
                self._marks.drop(digest, forms)
        result.all.add(size)
        (result.referenced if referenced else result.unreferenced).add(size)
        tallies = {
            Decision.MARK: result.marked,
            Decision.WAIT: result.waiting,
            Decision.UNMARK: result.unmarked,
            Decision.REMOVE: result.removed,
        }
        if decision in tallies:
            tallies[decision].add(size)

    def _correct_times(self, forms: Sequence[Form]) -> bool:
        """Set file times in the future to now, and return whether there were any.

        Otherwise the blob would not age until the clock has passed them. The times of another user's file
        can't be set.
        """
        ahead = [
            form
            for form in forms
            if is_future(max(form.stat_result.st_mtime, form.stat_result.st_ctime), self._now)
        ]
        for form in ahead:
            with contextlib.suppress(PermissionError):
                os.utime(form.path)
        return bool(ahead)

    def _blob(self, digest: str, forms: Sequence[Form], since: float | None) -> Blob:
        """Return the ages of a blob, for the policy."""
        written = max(form.stat_result.st_mtime for form in forms)
        put = put_time(self._folder, digest) or written
        touched = max(written, put, since or 0.0, *(form.stat_result.st_ctime for form in forms))
        return Blob(written, touched, since is not None)

    def _remove(self, digest: str, forms: Sequence[Form], since: float) -> bool:
        """Remove a blob marked ``since`` a time, and return whether all its files are gone.

        A file put in this very moment goes back to its place.
        """

        def is_meant(looks: os.stat_result) -> bool:
            put = put_time(self._folder, digest)
            return is_marked(looks) and (put is None or put < since)

        gone = True
        for form in forms:
            taken = take_out(Path(form.path), self._trash / Path(form.path).name, is_meant)
            if taken:
                taken.unlink()
            else:
                gone = False
        if gone:
            Path(self._folder.path(digest) + LENGTH_SUFFIX).unlink(missing_ok=True)
        return gone

    def _clear_copies(self) -> None:
        """Remove copies from other disks left unfinished by kills; one in progress changes within a day."""
        home = os.stat(self._trash).st_dev  # noqa: PTH116
        for parent in self._folder.parents():
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                parts = () if os.stat(parent).st_dev == home else Path(parent).glob(f".*{PART}")  # noqa: PTH116
                for part in parts:
                    final = part.name.removeprefix(".").partition("~")[0]
                    ours = is_digest(final[:64]) and is_temporary_of(part.name, final)
                    if ours and age_of(part, part.lstat()) > _STALE:
                        part.unlink()

    def _try_marks(self) -> None:
        """Check for marks that can be set and read back here.

        Raises:
            LocalDiskError: the file system keeps no permissions.
        """
        probe = self._trash / "probe"
        probe.touch()
        with contextlib.ExitStack() as stack:
            stack.callback(probe.unlink)
            try:
                probe.chmod(_MARKED)
            except OSError as error:
                if error.errno not in NO_PERMISSIONS:
                    raise
            marked = is_marked(probe.lstat())
        if not marked:
            raise LocalDiskError(
                f"the file system of {self._folder.root} keeps no permissions, so no marks: gc can remove "
                "nothing there; move the blobs to another file system"
            )


def check_roots(folder: Folder, names: Some[str], forget: Some[str] = ()) -> None:
    """Check that every root of the last run is among ``names``, or among those to ``forget``.

    Raises:
        UsageError: a root is missing.
        LocalDiskError: the record of the last run can't be read.
    """
    lacking = sorted(known_roots(folder) - {*names, *forget})
    if lacking:
        raise UsageError(
            f"the last time, blobs were kept for {', '.join(lacking)}: name that again, "
            "or say --forget-root with its name"
        )


def known_roots(folder: Folder) -> set[str]:
    """Return the names of the last run's roots.

    Raises:
        LocalDiskError: the record can't be read.
    """
    record = gc_folder(folder) / "roots.json"
    with disk_errors("could not read", record):
        try:
            return {str(name) for name in parse_json(record.read_bytes())}
        except FileNotFoundError:
            return set()
        except (ValueError, TypeError):
            raise LocalDiskError(f"{record} is no list of roots; check the file, then remove it") from None


def remember_roots(folder: Folder, names: Some[str]) -> None:
    """Record the names of this run's roots, durably, for ``check_roots``.

    Raises:
        LocalDiskError: they can't be written.
    """
    place = gc_folder(folder)
    with disk_errors("could not use", place):
        make_own_folder(place)
    replace(place / "roots.json", json.dumps(sorted(names)).encode() + b"\n")


@contextlib.contextmanager
def _alone(folder: Folder) -> Iterator[None]:
    """Hold the lock for one gc at a time.

    Raises:
        DataDirInUse: another gc is under way.
    """
    place = gc_folder(folder)
    make_own_folder(place)
    with folder_lock(place, wait=False) as is_alone:
        if not is_alone:
            raise DataDirInUse(f"another gc is under way in {folder.root}; wait until it is done")
        yield
