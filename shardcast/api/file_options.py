"""Files that a caller names ─▶ options of the child process."""

from __future__ import annotations

import os
from pathlib import Path


def file_options(**files: str | os.PathLike[str] | None) -> list[str]:
    """Return the options of a node's command that name files, by their names in the library."""
    return [
        word
        for name, path in files.items()
        if path is not None
        for word in (f"--{name.replace('_', '-')}", str(Path(path).absolute()))
    ]
