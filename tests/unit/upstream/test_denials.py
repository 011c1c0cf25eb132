"""The log of servers that refuse: one line for each change."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shardcast.errors import AccessDenied, PeerError, ServerUnreachable
from shardcast.upstream.denials import DenialLog
from shardcast.upstream.follower import Follower

URL = "http://10.0.0.1:8000"


def test_refusal_is_logged_when_it_begins_changes_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server: Any = SimpleNamespace(peer=SimpleNamespace(url=URL), failure=None, versions_known=False)
    denials = DenialLog()

    def logged(failure: PeerError | None) -> list[str]:
        caplog.clear()
        server.failure, server.versions_known = failure, failure is None
        for _ in range(3):
            denials.note([cast(Follower, server)])
        return [record.levelname for record in caplog.records]

    assert logged(None) == []
    assert logged(AccessDenied(URL, "GET /feed: 401: a token is needed")) == ["WARNING"]
    assert logged(ServerUnreachable(URL, "no connection")) == []
    assert logged(AccessDenied(URL, "GET /feed: 401: a token is needed")) == []
    assert logged(AccessDenied(URL, "GET /feed: 403: the token lacks a scope")) == ["WARNING"]
    assert URL in caplog.text
    assert logged(None) == ["INFO"]
    assert logged(AccessDenied(URL, "GET /feed: 403: the token lacks a scope")) == ["WARNING"]
