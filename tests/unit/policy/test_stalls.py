"""When an answer has stalled."""

from __future__ import annotations

from shardcast.policy.stalls import AnswerProgress

PIECE = 1000


def stall(progress: AnswerProgress, now: float, *, can_move: bool = True) -> str | None:
    return progress.stall(now, 60.0, 2.0, lambda: can_move)


def test_silent_answer_stalls_when_another_server_can_serve() -> None:
    progress = AnswerProgress(0.0, 0.0)
    assert stall(progress, 1.9) is None
    assert stall(progress, 2.0) == "nothing came for 2 s, and another server can serve"
    assert stall(progress, 2.0, can_move=False) is None


def test_answer_without_a_piece_stalls_even_without_alternative() -> None:
    progress = AnswerProgress(0.0, 0.0)
    for second in range(1, 60):
        assert progress.observed(second, second, PIECE, writing=False) == 1
        assert stall(progress, second) is None
    assert stall(progress, 60.0, can_move=False) == "no piece within 60 s"


def test_each_piece_extends_the_deadline() -> None:
    progress = AnswerProgress(0.0, 0.0)
    progress.observed(50.0, PIECE, PIECE, writing=False)
    assert stall(progress, 109.0, can_move=False) is None
    assert stall(progress, 110.0, can_move=False) is not None


def test_time_spent_writing_does_not_count_as_stall() -> None:
    progress = AnswerProgress(0.0, 0.0)
    progress.observed(100.0, 0, PIECE, writing=True)
    assert stall(progress, 101.0) is None


def test_alternatives_are_checked_only_after_silence() -> None:
    def can_move() -> bool:
        raise AssertionError("not asked")

    assert AnswerProgress(0.0, 0.0).stall(1.0, 60.0, 2.0, can_move) is None
