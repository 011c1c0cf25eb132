"""Small disks of their own: a tmpfs that is mounted for a test, and gone whatever becomes of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_WATCH = """
import subprocess, sys
sys.stdin.read()
while subprocess.run(["umount", "-l", sys.argv[1]], capture_output=True).returncode == 0:
    pass
"""


class SmallDisk:
    """A disk of a few megabytes.

    Attributes:
        path: where it is mounted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def free(self) -> int:
        """Bytes that are free."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    @property
    def used(self) -> int:
        """Bytes that are not."""
        found = os.statvfs(self.path)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def fill(self, leaving: int, name: str = "ballast") -> Path:
        """Take all but so many bytes by a file."""
        ballast = self.path / name
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, self.free - leaving))
        return ballast


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[SmallDisk]:
    """Mount a disk; the test is skipped where none can be mounted. A process of its own unmounts it, also
    when this one is killed."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    path.mkdir()
    watch = subprocess.Popen(
        [sys.executable, "-c", _WATCH, str(path)], stdin=subprocess.PIPE, start_new_session=True
    )
    assert watch.stdin
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if mounted.returncode:
            pytest.skip(f"can't mount a small disk here: {mounted.stderr.strip()}")
        yield SmallDisk(path)
    finally:
        watch.stdin.close()
        watch.wait()
