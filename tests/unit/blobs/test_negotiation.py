"""Content negotiation: weights order what a client takes, and nonsense weighs nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.blobs.server.negotiation import accepted_forms, prefers_json
from tests.support.payloads import patient


@pytest.mark.parametrize(
    ("accept", "json"),
    [
        ("", False),
        ("application/json", True),
        ("text/html, application/json", False),
        ("application/json, text/html", True),
        ("text/html;q=0.5, application/json", True),
        ("*/*", False),
        ("APPLICATION/JSON; q=0.1", True),
        ("application/json;q=0", False),
        ("application/json;q=x", False),
        ("application/json;q=nan", False),
    ],
)
def test_json_is_preferred_when_weighted_higher_or_listed_first(accept: str, json: bool) -> None:
    assert prefers_json(accept) is json


@patient
@given(st.text(), st.lists(st.sampled_from(["gzip", "zstd"]), unique=True))
def test_accepted_forms_are_known_and_distinct(header: str, codings: list[str]) -> None:
    forms, decoded = accepted_forms(header, codings)
    assert len(set(forms)) == len(forms)
    assert set(forms) <= {None, *codings}
    assert decoded == (None in forms)


@pytest.mark.parametrize("identity", ["identity;q=0", "*;q=0"])
def test_refused_identity_is_not_an_accepted_form(identity: str) -> None:
    assert accepted_forms(f"gzip, {identity}", ("zstd", "gzip")) == (("gzip",), False)
