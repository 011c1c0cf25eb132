"""Small disks: a tmpfs that is mounted for a test and unmounted whatever becomes of the test."""

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
        path: the mount point.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def free(self) -> int:
        """Free bytes."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    @property
    def used(self) -> int:
        """Used bytes."""
        found = os.statvfs(self.path)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def fill(self, leaving: int, name: str = "ballast") -> Path:
        """Fill the disk with a file, except for ``leaving`` bytes, and return the file."""
        ballast = self.path / name
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, self.free - leaving))
        return ballast


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[SmallDisk]:
    """Mount a disk; skip where none can be mounted."""
    with mounted(path, "tmpfs", f"size={size}"):
        yield SmallDisk(path)


@contextlib.contextmanager
def overlay(path: Path, lower: Path) -> Iterator[None]:
    """Mount an overlay over a lower layer, as a container's image has them; skip where none can be mounted.

    Written files lie beside the path.
    """
    upper, work = path.with_name(f"{path.name}-upper"), path.with_name(f"{path.name}-work")
    upper.mkdir()
    work.mkdir()
    options = f"lowerdir={lower},upperdir={upper},workdir={work},redirect_dir=off"
    with mounted(path, "overlay", options):
        yield


@contextlib.contextmanager
def mounted(path: Path, kind: str, options: str) -> Iterator[None]:
    """Mount a file system; skip where it can't be mounted.

    A process of its own unmounts it, also when this one is killed.
    """
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip(f"only root can mount a {kind}")
    path.mkdir()
    watch = subprocess.Popen(
        [sys.executable, "-c", _WATCH, str(path)], stdin=subprocess.PIPE, start_new_session=True
    )
    assert watch.stdin
    try:
        done = subprocess.run(
            ["mount", "-t", kind, "-o", options, kind, str(path)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            pytest.skip(f"can't mount a {kind} here: {done.stderr.strip()}")
        yield
    finally:
        watch.stdin.close()
        watch.wait()
