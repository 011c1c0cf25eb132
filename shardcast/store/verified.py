"""What verified files looked like, so that unchanged ones need no second look after a restart."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from shardcast.digest import new_hasher
from shardcast.filesystem import append, replace

_CHUNK = 1 << 20
_LINE = re.compile(r"([1-9][0-9]*) ([0-9a-f]{64}) ([0-9]+ [0-9]+ -?[0-9]+)", re.ASCII)


class VerificationRecord:
    """The record of a version: a line for each of its shards, with number, SHA-256, inode, size, mtime."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, shard: int, sha256: str | None, file: Path) -> None:
        """A shard was verified just now. The line begins anew, whatever a full disk left of the last one."""
        append(self._path, f"\n{shard} {sha256} {looks_of(file)}\n".encode())

    def read(self) -> dict[int, tuple[str, str]]:
        """The digest of each shard, and what its file looked like then."""
        try:
            lines = self._path.read_text(errors="replace").splitlines()
        except OSError:
            return {}
        return {int(found[1]): (found[2], found[3]) for line in lines if (found := _LINE.fullmatch(line))}

    def write(self, shards: Mapping[int, tuple[str, str]]) -> None:
        """Keep these, and no others."""
        lines = (f"{shard} {sha256} {looks}\n" for shard, (sha256, looks) in shards.items())
        replace(self._path, "".join(lines).encode())

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


def looks_if_right(
    file: Path, spans: Iterable[tuple[int, int, str | None]], stop: Callable[[], bool] = lambda: False
) -> str | None:
    """Return what a file looks like whose spans (offset, length, SHA-256) are right; None where one is not,
    where it changed while it was read, or after ``stop()``. What looks otherwise than it did need not be
    otherwise: a copy of the directory has other inodes. Blocks on the disk.

    Raises:
        OSError: it can't be read.
    """
    with file.open("rb", buffering=0) as opened:
        before = looks_in(os.fstat(opened.fileno()))
        for offset, length, sha256 in spans:
            hasher, left = new_hasher("sha256"), length
            opened.seek(offset)
            while left and not stop() and (chunk := opened.read(min(left, _CHUNK))):
                hasher.update(chunk)
                left -= len(chunk)
            if left or sha256 not in (None, hasher.hexdigest()):
                return None
        after = looks_in(os.fstat(opened.fileno()))
    # The name is still that of the file that was read.
    return before if before == after == looks_of(file) else None


def looks_of(file: Path) -> str | None:
    """What tells a file from one that was changed: inode, size, mtime; None when there is none."""
    try:
        return looks_in(file.stat())
    except OSError:
        return None


def looks_in(found: os.stat_result) -> str:
    """Return the same from what the file system says of a file."""
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns}"
