"""How folders are received: what may serve again, and how the result is verified."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shardcast.errors import UsageError
from shardcast.folders.patterns import PathPatterns

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
        only: patterns of paths (``folders.patterns``) of which one must match; none for all paths.
        exclude: patterns of paths that are left out.
    """

    seeds: tuple[Path, ...] = ()
    links: bool = False
    verify: str | None = None
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def checked(self) -> FolderOptions:
        """Return these options.

        Raises:
            UsageError: a pattern is none, ``verify`` is no way of verifying, or the two don't go together.
        """
        if self.verify not in (None, SHARDS, WHOLE):
            raise UsageError(f"{self.verify!r} is no way of verifying; write {SHARDS} or {WHOLE}")
        if self.selects and self.verify == WHOLE:
            raise UsageError("a part of a folder has no whole digest: verify it by shards")
        PathPatterns((*self.only, *self.exclude))
        return self

    @property
    def selects(self) -> bool:
        """Whether only a part of each folder is wanted."""
        return bool(self.only or self.exclude)
