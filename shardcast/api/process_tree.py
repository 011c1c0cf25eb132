"""Ancestors of this process."""

from __future__ import annotations

import os
from pathlib import Path

_MAX_DEPTH = 64
"""Maximum number of ancestors to check."""


def is_descendant_of(pid: int) -> bool:
    """Return whether another process is an ancestor of this one.

    On systems that hide the parents of other processes, only the direct parent counts.
    """
    ancestor = os.getppid()
    for _ in range(_MAX_DEPTH):
        if ancestor == pid:
            return True
        if ancestor <= 1:
            return False
        ancestor = _parent_of(ancestor)
    return False


def _parent_of(pid: int) -> int:
    """Return the id of a process's parent; 0 if unreadable."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        # The name of the program, in brackets, may contain blanks and brackets.
        return int(stat.rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0
