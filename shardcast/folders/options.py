"""How folders are received: the reuse of local files, and the verification of the result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shardcast.errors import UsageError
from shardcast.folders.patterns import PathPatterns

WHOLE = "whole"
SHARDS = "shards"


@dataclass(frozen=True, slots=True)
class FolderOptions:
    """The options of a client for folders.

    Attributes:
        seeds: downloaded folders with reusable files, beside those next to the output.
        links: whether files of a seed with equal mode and time are linked instead of copied.
        verify: ``shards`` or ``whole``: the digests checked before a folder gets its name; None for ``whole``
            if nothing of the folder was here before, else ``shards``.
        only: patterns of paths (``folders.patterns``), one of them to match; none for all paths.
        exclude: patterns of paths to leave out.
    """

    seeds: tuple[Path, ...] = ()
    links: bool = False
    verify: str | None = None
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def checked(self) -> FolderOptions:
        """Return these options.

        Raises:
            UsageError: a pattern is malformed, ``verify`` is no way of verifying, or patterns are combined
                with ``whole``.
        """
        if self.verify not in (None, SHARDS, WHOLE):
            raise UsageError(f"{self.verify!r} is no kind of verification; write {SHARDS} or {WHOLE}")
        if self.selects and self.verify == WHOLE:
            raise UsageError("a part of a folder has no whole digest: verify it by shards")
        PathPatterns((*self.only, *self.exclude))
        return self

    @property
    def selects(self) -> bool:
        """Whether only a part of each folder is wanted."""
        return bool(self.only or self.exclude)
