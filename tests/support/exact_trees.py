"""Folders of the disk to the last attribute: what a restore must give back."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def dress(root: Path, seed: int) -> None:
    """Give the entries of a folder times in nanoseconds and extended attributes, and add a FIFO."""
    chance = random.Random(seed)
    os.mkfifo(os.path.join(os.fsencode(root), b"fifo \xff"), 0o622)
    for path in sorted(_paths(os.fsencode(root)), reverse=True):
        found = os.lstat(path)
        if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
            try:
                os.setxattr(path, "user.seed", chance.randbytes(chance.randrange(40)))
            except OSError:
                pass
            if chance.random() < 0.2:
                os.chmod(path, stat.S_IMODE(found.st_mode) | stat.S_ISGID)
        ns = chance.randrange(4 * 10**18)
        os.utime(path, ns=(ns, ns), follow_symlinks=False)


def read_exactly(root: Path) -> dict[bytes, dict[str, Any]]:
    """Return all that a backup keeps of each path in a folder, the folder itself among them."""
    top = os.fsencode(root)
    names: dict[tuple[int, int], list[bytes]] = {}
    found = {path[len(top) + 1 :]: _facts(path) for path in _paths(top)}
    for path in found:
        facts = os.lstat(os.path.join(top, path))
        names.setdefault((facts.st_dev, facts.st_ino), []).append(path)
    for path, facts_of_path in found.items():
        facts = os.lstat(os.path.join(top, path))
        facts_of_path["names"] = sorted(names[facts.st_dev, facts.st_ino])
    return found


def _paths(top: bytes) -> Iterator[bytes]:
    yield top
    with os.scandir(top) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _paths(entry.path)
            else:
                yield entry.path


def _facts(path: bytes) -> dict[str, Any]:
    """Return what one path is."""
    found = os.lstat(path)
    facts: dict[str, Any] = {
        "mode": found.st_mode,
        "owner": (found.st_uid, found.st_gid),
        "mtime": found.st_mtime_ns,
        "device": found.st_rdev,
    }
    if stat.S_ISREG(found.st_mode):
        with open(path, "rb") as file:
            facts["data"] = file.read()
    elif stat.S_ISLNK(found.st_mode):
        facts["target"] = os.readlink(path)
    if hasattr(os, "listxattr"):
        names = os.listxattr(path, follow_symlinks=False)
        facts["xattrs"] = {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
    return facts
