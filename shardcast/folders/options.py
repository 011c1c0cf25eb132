"""How folders are received: what may serve again, and how the result is verified."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

WHOLE = "whole"
SHARDS = "shards"


@dataclass(frozen=True, slots=True)
class FolderOptions:
    """The options of a client for versions that are folders.

    Attributes:
        seeds: downloaded folders whose files may serve again, beside those next to the output.
        links: whether files that a seed has are linked, where mode and time are equal, instead of copied.
        verify: ``shards`` or ``whole``: by which digests a folder gets its name; None for ``whole`` where
            nothing of the folder was here before, else ``shards``.
    """

    seeds: tuple[Path, ...] = ()
    links: bool = False
    verify: str | None = None
