"""Challenges of servers: only scopes and errors that are known words leave the parser."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.access.challenge import Challenge, parse_challenge
from shardcast.access.scopes import Scope
from shardcast.peer.failures import status_error

SCOPES = st.lists(st.sampled_from([scope.value for scope in Scope]), unique=True, max_size=7)


@given(SCOPES, st.sampled_from(["", "invalid_token", "insufficient_scope"]), st.booleans())
def test_challenge_of_our_servers_is_read_whole(scopes: list[str], error: str, behind: bool) -> None:
    header = 'Bearer realm="shardcast"'
    header += f', error="{error}"' if error else ""
    header += f', scope="{" ".join(scopes)}"' if scopes else ""
    header = f'Basic realm="a, Bearer b", {header}' if behind else f"{header}, Basic realm=x"
    assert parse_challenge(header) == Challenge(error, tuple(scopes))


@pytest.mark.parametrize(
    "header", ["", "Basic realm=x", "bearer=1", 'Digest nonce="Bearer scope=read"', ",,,", '"Bearer"']
)
def test_header_without_bearer_is_no_challenge(header: str) -> None:
    assert parse_challenge(header) is None


@pytest.mark.parametrize(
    "header", ["bearer SCOPE=read", "Negotiate abc==, Bearer scope=read", "Bearer scope=read"]
)
def test_odd_forms_are_read(header: str) -> None:
    assert parse_challenge(header) == Challenge("", ("read",))


@given(st.text(max_size=300) | st.text(max_size=50).map(lambda text: f"Bearer scope={text}"))
def test_no_text_of_a_server_leaves_the_parser(header: str) -> None:
    challenge = parse_challenge(header)
    if challenge:
        assert len(challenge.scopes) <= 8
        assert all(re.fullmatch(r"[a-z0-9-]{1,32}", scope) for scope in challenge.scopes)
        assert challenge.error in ("", "invalid_token", "insufficient_scope")


def test_flood_in_a_header_is_bounded() -> None:
    assert parse_challenge('Bearer scope="' + "read " * 10**6) == Challenge()
    flood = parse_challenge('Bearer scope="' + " ".join(f"s{n}" for n in range(100)) + '"')
    assert flood is not None
    assert len(flood.scopes) == 8


@pytest.mark.parametrize(
    ("status", "header", "said"),
    [
        (401, 'Bearer realm="shardcast", scope="read"',
         'GET /feed: 401: a token with the scope "read" is needed; give --token-file or SHARDCAST_TOKEN'),
        (401, 'Bearer realm="shardcast", error="invalid_token", scope="read"',
         "GET /feed: 401: the token is unknown there, expired or revoked; "
         'give a token with the scope "read"'),
        (403, 'Bearer error="insufficient_scope", scope="store-read"',
         'GET /feed: 403: the token lacks the scope "store-read"; give a token with the scope "store-read"'),
        (401, 'Bearer scope="store-read"',
         'GET /feed: 401: a token with the scope "store-read" is needed; '
         "give --token-file (a mirror: --mirror-token-file) or SHARDCAST_TOKEN"),
        (401, "Bearer", "GET /feed: 401: a token is needed; give --token-file or SHARDCAST_TOKEN"),
        (403, "", "GET /feed: 403: the server, or a gateway before it, refuses; check who may read there"),
    ],
)  # fmt: skip
def test_denial_says_which_scope_is_missing_where(status: int, header: str, said: str) -> None:
    error = status_error("http://h:8000", "GET /feed", status, {"WWW-Authenticate": header})
    assert str(error) == f"http://h:8000: {said}"
