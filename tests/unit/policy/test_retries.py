"""Which failures count, and when an outage has lasted too long."""

from __future__ import annotations

import pytest

from shardcast.policy.retries import counts_as_attempt, outage_exceeds

FAILED = {"useful": False, "wrong": False, "lacking": False, "too_early": False, "asked_all": False}


@pytest.mark.parametrize(
    ("failure", "counts"),
    [
        ({}, True),
        ({"useful": True}, False),
        ({"useful": True, "wrong": True}, True),
        ({"lacking": True}, False),
        ({"lacking": True, "asked_all": True}, True),
        ({"lacking": True, "asked_all": True, "too_early": True}, False),
    ],
)
def test_failure_counts_as_attempt_by_its_kind(failure: dict[str, bool], counts: bool) -> None:
    assert counts_as_attempt(**{**FAILED, **failure}) is counts


def test_outage_needs_every_server_and_its_budget() -> None:
    assert outage_exceeds(10.0, 0.0, 10.0, asked_all=True)
    assert not outage_exceeds(10.0, 0.0, 9.9, asked_all=True)
    assert not outage_exceeds(10.0, 0.0, 10.0, asked_all=False)
    assert not outage_exceeds(10.0, None, 10.0, asked_all=True)
