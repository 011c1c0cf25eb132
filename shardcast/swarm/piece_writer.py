"""The writer of the pieces exchanged by a node, of all its versions together."""

from __future__ import annotations

import time
from collections.abc import Callable

from shardcast.digest import Buffer
from shardcast.policy.landing_place import LandingPlace
from shardcast.store.landing import Landing


class PieceWriter:
    """Verifies and writes pieces, on the event loop or in threads as ``policy.landing_place`` says."""

    def __init__(
        self, *, place: LandingPlace | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin on the loop.

        Args:
            place: the choice of where.
            clock: gives seconds.
        """
        self._place = place or LandingPlace()
        self._clock = clock

    async def write(self, landing: Landing, offset: int, data: Buffer) -> None:
        """Verify and write a piece.

        Raises:
            WrongPiece: the piece is wrong.
            LocalDiskError: the piece could not be written, or the landing is closed.
        """
        began = self._clock()
        if self._place.is_loop(began):
            try:
                if landing.land_now(offset, data):
                    return
            finally:
                self._place.took(began, self._clock())
        await landing.land(offset, data)
