"""The selection of a restore: patterns of included and excluded paths."""

from __future__ import annotations

from collections.abc import Sequence

from shardcast.folders.patterns import PathPatterns

_WILD = ("*", "?", "[")


class RestoreSelection:
    """Paths of a snapshot to restore: all, or those matching an include pattern, without excluded ones."""

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        """Compile patterns, as ``folders/patterns.py`` describes them.

        Raises:
            UsageError: one is no pattern.
        """
        self._include = PathPatterns(include) if include else None
        self._exclude = PathPatterns(exclude)
        self._starts = [_fixed_start(pattern) for pattern in include]

    @property
    def is_all(self) -> bool:
        """Whether there is no include pattern, so every path is included; some may still be excluded."""
        return self._include is None

    def excludes(self, path: bytes) -> bool:
        """Return whether a path, with everything below, is left out; a folder's path ends in ``/``."""
        return self._exclude.match(path)

    def includes(self, path: bytes) -> bool:
        """Return whether a pattern includes this path, with all below; a folder's path ends in ``/``."""
        return self._include is None or self._include.match(path)

    def may_hold(self, folder: bytes) -> bool:
        """Return whether a pattern may include something below a folder: others need not be listed."""
        names = folder.rstrip(b"/").split(b"/")
        return self._include is None or any(
            all(name == fixed for name, fixed in zip(names, start, strict=False)) for start in self._starts
        )


def _fixed_start(pattern: str) -> list[bytes]:
    """Return the leading folders common to all paths that match a pattern; none for a pattern of names."""
    if "/" not in pattern.rstrip("/"):
        return []
    names = pattern.removeprefix("/").removeprefix("./").rstrip("/").split("/")
    wild = next((at for at, name in enumerate(names) if any(char in name for char in _WILD)), len(names))
    return [name.encode("utf-8", "surrogateescape") for name in names[:wild]]
