"""The record of verified files, so that unchanged files are not hashed again after a restart."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from shardcast.digest import new_hasher
from shardcast.file_identity import FileIdentity
from shardcast.filesystem import append, replace

_CHUNK = 1 << 20
"""Bytes hashed at a time."""
_LINE = re.compile(r"([1-9][0-9]*) ([0-9a-f]{64}) ([0-9]+ [0-9]+ -?[0-9]+)", re.ASCII)


class VerificationRecord:
    """The record of a version: a line a shard with its number, SHA-256, inode, size and mtime."""

    def __init__(self, path: Path) -> None:
        """Read nothing yet."""
        self._path = path

    def add(self, shard: int, sha256: str | None, file: Path) -> None:
        """Record a shard verified just now.

        The line starts with a line end, in case a full disk cut the last line short.

        Raises:
            OSError: the line can't be written.
        """
        identity = FileIdentity.at(file)
        if identity:
            append(self._path, f"\n{shard} {sha256} {identity.text}\n".encode())

    def read(self) -> dict[int, tuple[str, FileIdentity]]:
        """Return the digest of each shard, and the identity of its file at the verification, by number.

        Damaged lines are left out; nothing for an unreadable record.
        """
        try:
            lines = self._path.read_text(errors="replace").splitlines()
        except OSError:
            return {}
        return {
            int(found[1]): (found[2], identity)
            for line in lines
            if (found := _LINE.fullmatch(line)) and (identity := FileIdentity.parse(found[3]))
        }

    def write(self, shards: Mapping[int, tuple[str, FileIdentity]]) -> None:
        """Replace the record by these shards.

        Raises:
            LocalDiskError: the record can't be written.
        """
        lines = (f"{shard} {sha256} {identity.text}\n" for shard, (sha256, identity) in shards.items())
        replace(self._path, "".join(lines).encode())

    def remove(self) -> None:
        """Remove the record.

        Raises:
            OSError: the record can't be removed.
        """
        self._path.unlink(missing_ok=True)


def recorded_identity(file: Path) -> FileIdentity | None:
    """Return the identity of a file as recorded; None without a visible file."""
    identity = FileIdentity.at(file)
    return identity and identity.recorded


def identity_if_right(
    file: Path, spans: Iterable[tuple[int, int, str | None]], stop: Callable[[], bool] = lambda: False
) -> FileIdentity | None:
    """Return the recorded form of the identity of a file whose spans (offset, length, SHA-256) are right.

    None for a wrong span, for a file changed while being read, or after ``stop()``. Another identity need not
    mean other bytes: a copy of the directory has other inodes. Blocks on the disk.

    Raises:
        OSError: the file can't be read.
    """
    with file.open("rb", buffering=0) as opened:
        before = FileIdentity.from_stat(os.fstat(opened.fileno())).recorded
        for offset, length, sha256 in spans:
            hasher, left = new_hasher("sha256"), length
            opened.seek(offset)
            while left and not stop() and (chunk := opened.read(min(left, _CHUNK))):
                hasher.update(chunk)
                left -= len(chunk)
            if left or sha256 not in (None, hasher.hexdigest()):
                return None
        after = FileIdentity.from_stat(os.fstat(opened.fileno())).recorded
    # The last look is by name: another file may have got the name while this one was read.
    return before if before == after == recorded_identity(file) else None
