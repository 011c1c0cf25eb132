"""The fields of a message in the log."""

from __future__ import annotations

import logging

from shardcast.errors import BadAnswer
from shardcast.log_fields import about, fields_of


def test_only_given_fields_are_there() -> None:
    assert about(version="v3") == {"version": "v3"}
    assert about(server="http://a", shard=1) == {"server": "http://a", "shard": 1}


def test_a_given_server_goes_before_that_of_a_failure() -> None:
    log, failure = logging.getLogger("shardcast.test_log_fields"), BadAnswer("http://a", "404")
    made = log.makeRecord(
        log.name, logging.INFO, "x.py", 1, "%s", (failure,), None, extra=about(server="http://b")
    )
    assert fields_of(made) == {"server": "http://b"}
