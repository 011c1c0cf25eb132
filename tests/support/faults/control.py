"""Control of the shim through a file that it maps: which call fails next, and how."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "FAULTS_CONTROL"
SHORT = -1
"""Instead of an errno: half of the bytes are read or written."""
EVERYWHERE = "*"

_HEAD = struct.Struct("<IiIIIIII32s448s512s")
_ENTRY = struct.Struct("<24s228sI")
_ENTRIES = 4096
_RECORDING, _ARMED = 1, 2
_COUNTS = struct.Struct("<III")  # seen, hits, recorded
_AT_COUNTS = 16


def make_file(path: Path) -> None:
    """Make the file that the shim maps at its start."""
    path.write_bytes(bytes(_HEAD.size + _ENTRIES * _ENTRY.size))


class Control:
    """Control of this process's shim."""

    def __init__(self) -> None:
        descriptor = os.open(os.environ[VARIABLE], os.O_RDWR | os.O_CLOEXEC)
        try:
            self._map = mmap.mmap(descriptor, 0)
        finally:
            os.close(descriptor)

    @contextmanager
    def recording(self, folder: Path) -> Iterator[dict[tuple[str, str], int]]:
        """Record how often each call is made below a folder, and for which name, while the block runs."""
        found: dict[tuple[str, str], int] = {}
        self._set(_RECORDING, folder=folder)
        try:
            yield found
        finally:
            self._map[0:4] = bytes(4)
            _, _, count = self._counts()
            assert count < _ENTRIES, "more calls than the record holds"
            for index in range(count):
                call, place, often = _ENTRY.unpack_from(self._map, _HEAD.size + index * _ENTRY.size)
                found[_text(call), _text(place)] = often

    @contextmanager
    def failing(
        self, folder: Path, call: str, place: str, error: int, *, times: int, skip: int = 0
    ) -> Iterator[None]:
        """Let a call fail ``times`` times (0: always) while the block runs, after ``skip`` successes."""
        self._set(_ARMED, error=error, skip=skip, times=times, call=call, place=place, folder=folder)
        try:
            yield
        finally:
            self._map[0:4] = bytes(4)

    @property
    def hits(self) -> int:
        """Number of failures since the call was armed."""
        return self._counts()[1]

    def _counts(self) -> tuple[int, int, int]:
        """Return the shim's numbers of seen, failed and recorded calls."""
        seen, hits, recorded = _COUNTS.unpack_from(self._map, _AT_COUNTS)
        return seen, hits, recorded

    def _set(
        self,
        mode: int,
        *,
        error: int = 0,
        skip: int = 0,
        times: int = 0,
        call: str = "",
        place: str = "",
        folder: Path | None = None,
    ) -> None:
        """Write the next order of the shim, its mode last."""
        self._map[0:4] = bytes(4)
        words = (call.encode(), place.encode(), os.fsencode(folder or ""))
        _HEAD.pack_into(self._map, 0, 0, error, skip, times, 0, 0, 0, 0, *words)
        self._map[0:4] = struct.pack("<I", mode)


def _text(name: bytes) -> str:
    """Return a name that ends with a zero byte."""
    return name.partition(b"\0")[0].decode(errors="replace")
