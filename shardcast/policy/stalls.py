"""Stalled answers: the progress of an answer, and the maximum silence of its server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class AnswerProgress:
    """The progress of one answer at the last look.

    Attributes:
        byte_at: time of the last byte.
        piece_at: time at which the last piece's worth of bytes was complete.
        received: bytes.
        piece_received: bytes at ``piece_at``.
    """

    byte_at: float
    piece_at: float
    received: int = 0
    piece_received: int = 0

    def observed(self, now: float, received: int, piece_size: int, *, writing: bool) -> int:
        """Record the bytes received by now, and return the number of new ones.

        Args:
            now: time of the look.
            received: bytes received by now.
            piece_size: bytes of a piece.
            writing: whether the answer waits for this machine's disk, through no fault of its server.
        """
        new = max(0, received - self.received)
        if new:
            self.received, self.byte_at = received, now
        if writing:
            self.byte_at = self.piece_at = now
        if received - self.piece_received >= piece_size:
            self.piece_received, self.piece_at = received, now
        return new

    def stall(self, now: float, timeout: float, patience: float, can_move: Callable[[], bool]) -> str | None:
        """Return in words why to cancel the answer; None while the answer makes progress.

        Args:
            now: time of the look.
            timeout: seconds without a piece after which to cancel in any case. One byte a second is no
                progress.
            patience: seconds without a byte after which to cancel where the rest can move elsewhere.
            can_move: whether another server can serve the rest now; called only when needed.
        """
        if now - self.piece_at >= timeout:  # and so where no byte comes
            return f"no piece within {timeout:g} s"
        if now - self.byte_at >= patience and can_move():
            return f"nothing came for {patience:g} s, and another server can serve"
        return None
