"""Failed TLS in words: nothing is said of a certificate that could not be read."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta

import pytest

from shardcast.access.certificates import Certificate
from shardcast.peer import tls_failures
from shardcast.peer.tls_failures import describe_failure, presented_certificate

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
DAY = timedelta(days=1)
GOOD = Certificate(("origin.example",), NOW - DAY, NOW + DAY)
EXPIRED = Certificate(("origin.example",), NOW - 2 * DAY, NOW - DAY)
NOT_YET = Certificate(("origin.example",), NOW + DAY, NOW + 2 * DAY)


@pytest.mark.parametrize(
    ("code", "shown", "words"),
    [
        (10, EXPIRED, "its certificate expired on 2026-11-28 12:00 UTC; renew it"),
        (10, GOOD, "a certificate in the chain of its CA has expired; renew that"),
        (10, None, "its certificate or a certificate in the chain of its CA has expired; renew that"),
        (9, NOT_YET, "its certificate is not valid before 2026-11-30 12:00 UTC; here it is 2026-11-29"),
        (9, GOOD, "a certificate in the chain of its CA is not valid yet; here it is 2026-11-29"),
        (9, None, "its certificate or a certificate in the chain of its CA is not valid yet; here it is"),
    ],
)
def test_wrong_date_is_blamed_on_the_chain_only_if_the_certificate_was_read(
    code: int, shown: Certificate | None, words: str
) -> None:
    told = describe_failure("origin.example", "CERTIFICATE_VERIFY_FAILED", code, shown, NOW)
    assert told is not None and told.startswith(words)


def test_server_that_shows_no_certificate_any_more_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_failures, "_LOOK_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert presented_certificate(f"https://127.0.0.1:{silent.getsockname()[1]}") is None
