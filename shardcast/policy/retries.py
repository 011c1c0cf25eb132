"""Retries of a shard: the failed answers that count as attempts, and the maximum length of an outage."""

from __future__ import annotations


def counts_as_attempt(*, useful: bool, wrong: bool, lacking: bool, too_early: bool, asked_all: bool) -> bool:
    """Return whether a failed answer counts against the attempts at its shard.

    Args:
        useful: whether the answer brought a verified piece before the failure.
        wrong: whether the answer brought wrong bytes.
        lacking: whether the server lacks the shard; counts only after every server was asked.
        too_early: whether the shard may still come to the server.
        asked_all: whether every server has failed at this shard.
    """
    if useful and not wrong:
        return False
    return not too_early and (not lacking or asked_all)


def outage_exceeds(budget: float, since: float | None, now: float, *, asked_all: bool) -> bool:
    """Return whether no server has been reachable for longer than ``budget`` seconds.

    Args:
        budget: seconds.
        since: when the outage began; None when a server was reached since.
        now: the time.
        asked_all: whether every server was tried for the shard: one dead server is no outage.
    """
    return asked_all and since is not None and now - since >= budget
