"""Folders of a run: one in memory and one on disk, removed at the end.

A run removes what earlier runs that were killed left.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from blake3 import blake3
from harness import GIB, MIB, Failed, Skipped

MEMORY = Path("/dev/shm")
DISK = Path("/var/tmp")
_PREFIX = f"shardcast-bench-{os.getuid()}-"


@dataclass(frozen=True, slots=True)
class Payload:
    """A file of random bytes."""

    path: Path
    size: int
    sha256: str
    blake3: str

    def check(self, output: Path) -> None:
        """Compare a file with the payload.

        Raises:
            Failed: ``output`` has other bytes.
        """
        if not output.is_file():
            raise Failed(f"there is no {output.name} at the end")
        if digest(output) != self.blake3:
            raise Failed(f"{output.name} has not the payload's digest")


@dataclass(frozen=True, slots=True)
class Place:
    """A folder of this run's own on one medium."""

    root: Path
    name: str
    _payloads: dict[int, Payload] = field(default_factory=dict)

    @contextlib.contextmanager
    def folder(self, name: str = "work") -> Iterator[Path]:
        """Make a folder for the block."""
        path = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=self.root))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def payload(self, size: int) -> Payload:
        """Return ``size`` random bytes, made once."""
        if size not in self._payloads:
            path, hasher = self.root / f"payload-{size}.bin", sha256()
            with path.open("wb", buffering=0) as file:
                for start in range(0, size, 4 * MIB):
                    chunk = os.urandom(min(4 * MIB, size - start))
                    file.write(chunk)
                    hasher.update(chunk)
            self._payloads[size] = Payload(path, size, hasher.hexdigest(), digest(path))
        return self._payloads[size]

    def drop_payload(self, size: int) -> None:
        """Remove a payload."""
        if size in self._payloads:
            self._payloads.pop(size).path.unlink()

    def free(self) -> int:
        """Bytes that can be written without using up what the machine needs otherwise."""
        room = shutil.disk_usage(self.root).free
        return min(room, _available_memory()) if self.in_memory else room

    def need(self, size: int) -> None:
        """Check that there is room for ``size`` bytes, and some more for the rest.

        Raises:
            Skipped: there is less.
        """
        if self.free() < size + GIB:
            raise Skipped(f"{self.name} has room for {self.free() / GIB:.1f} GiB, not {size / GIB + 1:.1f}")

    def touch(self, size: int) -> None:
        """Use the memory behind this place once.

        The first touch of fresh memory is slow (3 s a GiB on virtual machines), and would count against the
        side that is first.
        """
        if not self.in_memory:
            return
        with self.folder("touch") as folder, (folder / "zeros").open("wb", buffering=0) as file:
            zeros = bytes(4 * MIB)
            for _ in range(0, size, 4 * MIB):
                file.write(zeros)

    def settle(self) -> None:
        """Wait until the writes of earlier runs have reached the disk."""
        if not self.in_memory:
            os.sync()

    @property
    def in_memory(self) -> bool:
        """Whether the place is in memory."""
        return self.name == "tmpfs"


@dataclass(frozen=True, slots=True)
class Places:
    """Folders of this run."""

    memory: Place
    disk: Place

    def roomy(self, size: int) -> Place:
        """Return the place in memory if ``size`` bytes fit, else the one on disk.

        Raises:
            Skipped: they fit neither.
        """
        try:
            self.memory.need(size)
        except Skipped:
            self.disk.need(size)
            return self.disk
        return self.memory


@contextlib.contextmanager
def places(disk: Path = DISK) -> Iterator[Places]:
    """Make this run's folders, and remove them at the end."""
    with contextlib.ExitStack() as stack:
        memory = MEMORY if os.access(MEMORY, os.W_OK) else Path(tempfile.gettempdir())
        yield Places(
            Place(stack.enter_context(_own(memory)), "tmpfs"), Place(stack.enter_context(_own(disk)), "disk")
        )


@contextlib.contextmanager
def _own(medium: Path) -> Iterator[Path]:
    """Make a folder that is locked while this process lives, so that no other run takes it for a leftover."""
    with _locked(medium):
        for left in medium.glob(f"{_PREFIX}*"):
            with contextlib.suppress(BlockingIOError), _locked(left, fcntl.LOCK_NB):
                shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=medium))
        lock = contextlib.ExitStack()
        lock.enter_context(_locked(folder))
    with lock:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path, flags: int = 0) -> Iterator[None]:
    """Hold a lock on a folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | flags)
        yield
    finally:
        os.close(descriptor)


def digest(*paths: Path) -> str:
    """Return the BLAKE3 of files, one after the other: quick beside the runs."""
    hasher = blake3(max_threads=blake3.AUTO)
    for path in paths:
        hasher.update_mmap(path)
    return str(hasher.hexdigest())


def _available_memory() -> int:
    """Return the available memory in bytes."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def filesystem(path: Path) -> str:
    """Return the type of the file system that holds ``path``."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    holding = [(len(mount[1]), mount[2]) for mount in mounts if path.resolve().is_relative_to(mount[1])]
    return max(holding)[1] if holding else "?"
