"""The open versions of other lines, received beside the current line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, ValuesView

from shardcast.store.open_version import OpenVersion
from shardcast.store.version_place import VersionPlace


class OpenBeside:
    """Open versions by their place, and when a shard of each was last begun; for the event loop."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._versions: dict[VersionPlace, OpenVersion] = {}
        self._touched: dict[VersionPlace, float] = {}

    def __len__(self) -> int:
        return len(self._versions)

    def __contains__(self, place: VersionPlace) -> bool:
        return place in self._versions

    def __iter__(self) -> Iterator[VersionPlace]:
        return iter(self._versions)

    def values(self) -> ValuesView[OpenVersion]:
        """Return the versions."""
        return self._versions.values()

    def get(self, place: VersionPlace) -> OpenVersion | None:
        """Return the version in reception in a place; None where there is none."""
        return self._versions.get(place)

    def begin(self, place: VersionPlace, opened: OpenVersion) -> None:
        """Count a version as being received."""
        self._versions[place] = opened
        self.note_progress(place)

    def note_progress(self, place: VersionPlace) -> None:
        """Record that a shard of a version begins to arrive now."""
        self._touched[place] = self._clock()

    def touched(self, place: VersionPlace) -> float:
        """Return when a shard of a version was last begun, by the clock of the directory."""
        return self._touched.get(place, self._clock())

    def end(self, place: VersionPlace) -> OpenVersion | None:
        """Forget a version in reception, and return it, None without one; the caller stops it."""
        self._touched.pop(place, None)
        return self._versions.pop(place, None)

    def idle_for(self, seconds: float) -> list[VersionPlace]:
        """Return the places of versions no shard of which was begun for so many seconds."""
        now = self._clock()
        return [place for place, last in self._touched.items() if now - last >= seconds]
