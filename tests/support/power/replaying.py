"""Power cuts, one after the other: each state that a cut may leave is restored, and a restart looks at it."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, cast
from unittest import mock

from tests.support.power.disk import Entry, File, Folder, Link, Node
from tests.support.power.recording import Record

SOME = int(os.environ.get("SHARDCAST_POWER_STATES", "200"))
"""States of each piece of work that are looked at."""
_AT_RANDOM = 3
"""States at random for each moment of a cut."""
_ELSEWHERE = 1 << 48
"""Added to the inodes of files that a restart made, so that none has that of a restored one."""

Said = list[dict[str, Any]]
Check = Callable[[Path, Said], None]
"""Starts again on what a cut left, and looks whether it keeps what was said until then."""
Case = tuple[list[Entry], Said, str]


def cuts(record: Record) -> list[Case]:
    """Return the different states that a cut at any moment may leave, with the messages until then.

    What isn't certain only grows until the next sync, and what a cut before it may leave, a cut then may
    leave, too. First come the moments of a message, with all or nothing of what is not certain, and those
    that lose a folder just after a rename; then, in any order, the other states at these moments, those that
    lose the thing that the next call would sync, and those that lose a folder.
    """
    seen: set[tuple[bytes, int]] = set()
    ranked: list[tuple[int, float, Case]] = []
    messages: Said = []
    chance = Random(record.base.rpartition("/")[2])
    for step in record.steps():
        if step.messages is not None:
            messages = [*messages, step.messages]
        is_last = step.call == "mark" or step.before_mark or step.synced is not None
        for index, state in enumerate(step.disk.states(chance, _AT_RANDOM if is_last else 0)):
            if index and not is_last and not state.loses_folder:
                continue
            entries = step.disk.entries(state)
            key = signature(entries), len(messages)
            if key not in seen:
                seen.add(key)
                is_said = step.call == "mark" or step.before_mark
                is_next = state.loses_folder or (
                    is_last
                    and (state.is_all or step.synced in state.alone or (is_said and not state.is_random))
                )
                is_moved = state.loses_folder and step.call in ("rename", "link")
                is_first = is_moved or (state.is_all and step.call == "mark")
                rank = 0 if is_first else 1 if is_next else 2
                words = f"cut after call {step.index} ({step.call}), {state.words}"
                ranked.append((rank, chance.random(), (entries, messages, words)))
    return [case for _, _, case in sorted(ranked, key=lambda one: one[:2])]


def replay(record: Record, check: Check) -> int:
    """Check what cuts may leave, and return the number of states.

    Raises:
        AssertionError: a promise is broken; the text describes the state.
    """
    cases = cuts(record)
    for entries, said, words in cases[:SOME]:
        with restored(entries) as place:
            try:
                check(place, said)
            except Exception as error:
                listing = "\n".join(f"  {entry.path} ({len(entry.data)} bytes)" for entry in entries)
                problem = f"{type(error).__name__}: {error}\n{words}\nsaid: {said}\nthere was:\n{listing}"
                raise AssertionError(problem) from error
    return len(cases)


@contextlib.contextmanager
def restored(entries: list[Entry]) -> Iterator[Path]:
    """Make a folder with what a cut left; files get the inodes that they had, which records may name."""
    memory = Path("/dev/shm")  # where a restart's own syncs take no time
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        place = Path(folder)
        inodes = restore(entries, place)
        try:
            with _inodes(inodes):
                yield place
        finally:
            for path in place.rglob("*"):
                if path.is_dir() and not path.is_symlink():
                    path.chmod(0o700)
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(exist_ok=True)


@contextlib.contextmanager
def _inodes(inodes: dict[int, int]) -> Iterator[None]:
    """Let the code under test see the old inodes."""

    def seen(look: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
        def looking(*given: Any, **named: Any) -> os.stat_result:
            found = look(*given, **named)
            if not stat.S_ISREG(found.st_mode):
                return found
            values, more = cast("tuple[Any, Any]", found.__reduce__()[1])
            changed = list(values)
            changed[1] = inodes.get(found.st_ino, found.st_ino + _ELSEWHERE)
            return os.stat_result(changed, more)

        return looking

    stats = {name: seen(getattr(os, name)) for name in ("stat", "lstat", "fstat")}

    def path_stat(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        return stats["stat"](path, follow_symlinks=follow_symlinks)

    with contextlib.ExitStack() as stack:
        for name, look in stats.items():
            stack.enter_context(mock.patch.object(os, name, look))
        stack.enter_context(mock.patch.object(Path, "stat", path_stat))
        stack.enter_context(mock.patch.object(Path, "lstat", lambda path: stats["lstat"](path)))
        yield


def signature(entries: list[Entry]) -> bytes:
    """Return what distinguishes two states."""
    digest = sha256()
    for entry in entries:
        inode = entry.node.inode if isinstance(entry.node, (File, Folder)) else 0
        times = entry.mtime if not isinstance(entry.node, Link) else 0
        digest.update(
            f"{entry.path}\0{inode}\0{times}\0{entry.mode}\0{len(entry.data)}\0".encode() + entry.data
        )
    return digest.digest()


def restore(entries: list[Entry], place: Path) -> dict[int, int]:
    """Make what a cut left, and return the former inode of each file by its present one."""
    files: dict[Node, Path] = {}
    inodes: dict[int, int] = {}
    for entry in entries:
        path = place / entry.path
        if isinstance(entry.node, Folder):
            path.mkdir()
        elif isinstance(entry.node, Link):
            path.symlink_to(entry.data.decode())
        elif entry.node in files:
            path.hardlink_to(files[entry.node])
        else:
            path.write_bytes(entry.data)
            path.chmod(entry.mode & 0o7777)
            os.utime(path, ns=(entry.mtime or 0, entry.mtime or 0))
            inodes[path.stat().st_ino] = entry.node.inode
            files[entry.node] = path
    for entry in reversed(entries):
        if isinstance(entry.node, Folder) and entry.mtime is not None:
            os.utime(place / entry.path, ns=(entry.mtime, entry.mtime))
    return inodes
