"""The room that the versions of a data directory may take: claimed before it is filled, made by retiring."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from shardcast.errors import NoRoom
from shardcast.policy.retention import room_for
from shardcast.sizes import format_size
from shardcast.store.complete import CompleteVersions
from shardcast.store.holds import Holds
from shardcast.store.open_version import OpenVersion
from shardcast.wire import version_name

log = logging.getLogger(__name__)


class Room:
    """The room of a data directory's versions.

    Attributes:
        most: bytes that they may take; None for no bound.
    """

    def __init__(
        self,
        root: Path,
        most: int | None,
        complete: CompleteVersions,
        opened: Mapping[int, OpenVersion],
        holds: Holds,
        retire: Callable[[int], Awaitable[None]],
    ) -> None:
        """``complete`` and ``opened``: the versions in the directory ``root``, as they are at any time;
        ``retire`` has one of them go."""
        self.most = most
        self._root = root
        self._complete = complete
        self._open = opened
        self._holds = holds
        self._retire = retire
        self._claimed: dict[int, int] = {}  # bytes that open versions may take
        self._claiming = asyncio.Lock()

    @property
    def used(self) -> int:
        """Bytes that the versions take, or may take: those that are open claim them before they come."""
        opened = (max(one.bytes_here, self._claimed.get(number, 0)) for number, one in self._open.items())
        return sum(self._complete.sizes.values()) + sum(opened)

    def begin(self, number: int) -> None:
        """A version is open; what is here of it is claimed, more of it before it comes."""
        self._claimed[number] = self._open[number].bytes_here

    def let_go(self, number: int) -> None:
        """A version is not open any more."""
        self._claimed.pop(number, None)

    async def claim(self, number: int, size: int) -> None:
        """See to it that an open version can take ``size`` bytes in all, at the cost of older ones that are
        not pinned.

        Raises:
            NoRoom: it can't.
        """
        async with self._claiming:
            if number not in self._open:
                return
            self._claimed[number], before = size, self._claimed[number]
            try:
                while self._over:  # what is in the way may be pinned at any moment
                    going = self.in_the_way(number)
                    if self._over > sum(self._complete.sizes[one] for one in going):
                        raise self._no_room(number, size)
                    log.info("retired %s: its room is needed", version_name(going[0]))
                    await self._retire(going[0])
            except BaseException:
                if number in self._open:
                    self._claimed[number] = before
                raise

    def check(self, number: int, size: int) -> None:
        """
        Raises:
            NoRoom: a version of so many bytes could not be taken.
        """
        if self.most is not None:
            over = self.used - self._claimed.get(number, 0) + size - self.most
            sizes, holds = self._complete.sizes, self._holds
            if over > sum(sizes[one] for one in room_for(number, over, sizes, holds.pinned, holds.read())):
                raise self._no_room(number, size)

    def in_the_way(self, number: int) -> list[int]:
        """The versions that can go so that this one has room; none while there is enough."""
        return room_for(number, self._over, self._complete.sizes, self._holds.pinned, self._holds.read())

    @property
    def _over(self) -> int:
        """Bytes beyond what the versions may take."""
        return 0 if self.most is None else max(0, self.used - self.most)

    def _no_room(self, number: int, size: int) -> NoRoom:
        names = ", ".join(map(version_name, sorted(self._holds.pinned)))
        pinned = names and (self.most or 0) >= size
        why = f"{names} pinned here, `shardcast unpin` some or" if pinned else "nothing older can go;"
        return NoRoom(
            f"no room for {version_name(number)} with {format_size(size)}: the versions in "
            f"{self._root} may take {format_size(self.most or 0)}; {why} allow more with "
            "--max-bytes"
        )
