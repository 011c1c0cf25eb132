"""Files named by a caller ─▶ options of the child process."""

from __future__ import annotations

import os
from pathlib import Path


def file_options(**files: str | os.PathLike[str] | None) -> list[str]:
    """Return the file options of a node's command, from keyword arguments of the same names."""
    return [
        word
        for name, path in files.items()
        if path is not None
        for word in (f"--{name.replace('_', '-')}", str(Path(path).absolute()))
    ]
