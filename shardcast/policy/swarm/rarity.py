"""Counters of ranges: how many neighbours offer each, or how often each was handed out.

The counters are kept as planes: plane ``p`` is the mask of the ranges whose count has bit ``p`` set. Adding
the mask of a neighbour adds one to all its ranges at once, and the rarest ones are found without a look at
each. With 512 ranges and 20 neighbours either costs about a microsecond.
"""

from __future__ import annotations


class RangeCounts:
    """A counter for each range, all of them zero at first."""

    __slots__ = ("_planes",)

    def __init__(self) -> None:
        self._planes: list[int] = []

    def add(self, mask: int) -> None:
        """Add one to the counter of each range of a mask."""
        planes = self._planes
        for position, plane in enumerate(planes):
            planes[position] = plane ^ mask
            mask &= plane
            if not mask:
                return
        if mask:
            planes.append(mask)

    def remove(self, mask: int) -> None:
        """Subtract one from the counter of each range of a mask; those at zero stay there."""
        mask &= self.counted
        planes = self._planes
        for position, plane in enumerate(planes):
            planes[position] = plane ^ mask
            mask &= ~plane
            if not mask:
                return

    @property
    def counted(self) -> int:
        """The ranges whose counter is not zero."""
        union = 0
        for plane in self._planes:
            union |= plane
        return union

    def rarest(self, candidates: int) -> int:
        """Return the candidates with the lowest counter."""
        for plane in reversed(self._planes):
            candidates = candidates & ~plane or candidates
        return candidates

    def count(self, number: int) -> int:
        """Return the counter of one range."""
        return sum((plane >> number & 1) << position for position, plane in enumerate(self._planes))
