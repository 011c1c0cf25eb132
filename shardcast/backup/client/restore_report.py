"""The report of a restore: counts, and problems by path."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from shardcast.backup.client.snapshot_tree import shown

Tell = Callable[[str, str], object]
"""Called with a path and a message about the path, from any thread."""


@dataclass
class RestoreCounts:
    """Numbers of a restore.

    Attributes:
        files: files made, including hard links.
        folders: folders made.
        others: symbolic links, FIFOs and devices made.
        kept: equal files, links and devices found on the disk.
        kept_bytes: bytes of these files.
        bytes: bytes of the files made.
        replaced: entries replaced by ``--overwrite``.
        differing: differing entries on the disk, left unchanged.
        damaged: files with damaged or lost chunks at the server.
        failed: entries that could not be made, and attributes that could not be set.
    """

    files: int = 0
    folders: int = 0
    others: int = 0
    kept: int = 0
    kept_bytes: int = 0
    bytes: int = 0
    replaced: int = 0
    differing: int = 0
    damaged: int = 0
    failed: int = 0


class RestoreReport:
    """Counts and messages of a restore that runs in several threads.

    Attributes:
        counts: the numbers.
        matched: whether the selection matched any entry of the snapshot.
        owners: whether owners were left out, since only root can set them.
        system_attributes: whether attributes of the system were left out.
        devices: number of devices left out.
    """

    def __init__(self, tell: Tell) -> None:
        """Start with zero counts; ``tell`` is called with each path that has a problem."""
        self.counts = RestoreCounts()
        self.matched = False
        self.owners = False
        self.system_attributes = False
        self.devices = 0
        self._tell = tell
        self._lock = threading.Lock()

    def add(self, **numbers: int) -> None:
        """Add to counts."""
        with self._lock:
            for name, number in numbers.items():
                setattr(self.counts, name, getattr(self.counts, name) + number)

    def problem(self, path: bytes, text: str, kind: str = "failed") -> None:
        """Count a problem and report the message.

        Args:
            path: of the entry.
            text: the message.
            kind: the count: ``failed``, ``differing`` or ``damaged``.
        """
        self.add(**{kind: 1})
        self._tell(shown(path), text)

    def as_json(self) -> dict[str, Any]:
        """Return the counts for a program."""
        return asdict(self.counts) | {
            "owners_left_out": self.owners,
            "devices_left_out": self.devices,
            "system_attributes_left_out": self.system_attributes,
        }
