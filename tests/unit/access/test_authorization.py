"""Authorization: which requests a server's tokens allow."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.access.authorization import Refusal, authorize, still_allows
from shardcast.access.scopes import Scope
from shardcast.access.tokens import make_token

NEW = make_token([Scope.READ, Scope.REPORT], "fleet", expires=1000.0)
TOKENS = {NEW.token.id: NEW.token}
OTHER = make_token([Scope.READ])
RIGHT = f"Bearer {NEW.text}"


@pytest.mark.parametrize(
    ("headers", "refusal"),
    [
        ([], Refusal.MISSING),
        ([""], Refusal.MALFORMED),
        (["Bearer"], Refusal.MALFORMED),
        (["Bearer password"], Refusal.MALFORMED),
        ([f"Basic {NEW.text}"], Refusal.MALFORMED),
        ([RIGHT + "A"], Refusal.MALFORMED),
        ([f"{RIGHT}, {RIGHT}"], Refusal.MALFORMED),
        ([RIGHT, RIGHT], Refusal.MALFORMED),
        ([RIGHT, "Bearer password"], Refusal.MALFORMED),
        ([f"Bearer {OTHER.text}"], Refusal.WRONG),
        ([f"Bearer shardcast_{NEW.token.id}{OTHER.text[18:]}"], Refusal.WRONG),
    ],
)
def test_other_credentials_are_refused(headers: list[str], refusal: Refusal) -> None:
    assert authorize(headers, TOKENS, Scope.READ, 0.0) is refusal


@pytest.mark.parametrize(
    "header",
    [RIGHT, f"bearer {NEW.text}", f" BEARER   {NEW.text} "],
    ids=["as usual", "lower case", "padded"],
)
def test_token_with_the_scope_is_allowed(header: str) -> None:
    assert authorize([header], TOKENS, Scope.REPORT, 999.9) == NEW.token


def test_token_is_refused_from_the_second_of_its_expiry() -> None:
    assert authorize([RIGHT], TOKENS, Scope.READ, 1000.0) is Refusal.EXPIRED


def test_token_without_the_scope_is_refused_with_403_and_all_others_with_401() -> None:
    assert authorize([RIGHT], TOKENS, Scope.STATUS, 0.0) is Refusal.LACKS_SCOPE
    assert {refusal: refusal.status for refusal in Refusal if refusal.status != 401} == {
        Refusal.LACKS_SCOPE: 403
    }


@given(st.lists(st.text()), st.sampled_from(Scope))
def test_no_other_header_is_ever_allowed(headers: list[str], scope: Scope) -> None:
    assert isinstance(authorize(headers, TOKENS, scope, 0.0), Refusal)


@pytest.mark.parametrize("scope", Scope)
def test_token_allows_its_scopes_only(scope: Scope) -> None:
    assert isinstance(authorize([RIGHT], TOKENS, scope, 0.0), Refusal) is (scope not in NEW.token.scopes)


def test_open_answer_is_allowed_until_its_token_ends() -> None:
    token, key = NEW.token, NEW.token.id
    assert still_allows(token, TOKENS, Scope.READ, 999.0)
    assert not still_allows(token, TOKENS, Scope.READ, 1000.0)
    assert not still_allows(token, {}, Scope.READ, 0.0)
    assert not still_allows(token, {key: replace(token, digest=OTHER.token.digest)}, Scope.READ, 0.0)
    assert not still_allows(token, {key: replace(token, scopes=frozenset({Scope.REPORT}))}, Scope.READ, 0.0)
    assert still_allows(token, {key: replace(token, expires=2000.0)}, Scope.READ, 1000.0)
