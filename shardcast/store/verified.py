"""What verified files looked like, so that unchanged ones need no second look after a restart."""

from __future__ import annotations

from pathlib import Path


class Verified:
    """The record of a version: a line for each of its shards, with number, SHA-256, inode, size, mtime."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, shard: int, sha256: str | None, file: Path) -> None:
        """A shard was verified just now."""
        with self._path.open("a") as record:
            record.write(f"{shard} {sha256} {looks_of(file)}\n")

    def read(self) -> dict[int, tuple[str, str]]:
        """The digest of each shard, and what its file looked like then."""
        try:
            lines = self._path.read_text().splitlines()
        except OSError:
            return {}
        found = (line.split(" ", 2) for line in lines)
        return {
            int(words[0]): (words[1], words[2]) for words in found if len(words) == 3 and words[0].isdigit()
        }

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


def looks_of(file: Path) -> str | None:
    """What tells a file from one that was changed: inode, size, mtime; None when there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns}"
