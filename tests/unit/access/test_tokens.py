"""Tokens and the lines by which a server knows them."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.access.scopes import Scope
from shardcast.access.tokens import Token, format_expiry, make_token, parse_expiry, parse_tokens, split_token
from shardcast.errors import UsageError

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", fullmatch=True)
TOKENS = st.builds(
    Token,
    st.from_regex(r"[0-9a-f]{8}", fullmatch=True),
    NAMES,
    st.frozensets(st.sampled_from(Scope), min_size=1),
    st.none() | st.integers(-60_000_000_000, 250_000_000_000).map(float),
    st.binary(min_size=32, max_size=32),
)
LINE = f"fleet read,report never 1f3a9c0e:{'ab' * 32}"


def test_new_token_is_found_by_its_id_and_the_digest_of_its_secret() -> None:
    new = make_token([Scope.READ], "fleet", 1_800_000_000.0)
    assert re.fullmatch(r"shardcast_[0-9a-f]{8}_[A-Za-z0-9_-]{43}", new.text)
    parts = split_token(new.text)
    assert parts is not None
    assert parse_tokens(new.token.line) == {parts[0]: new.token}
    assert new.token.digest == hashlib.sha256(parts[1].encode()).digest()
    assert make_token([Scope.READ]).text != make_token([Scope.READ]).text


def test_repr_of_token_hides_secret_and_digest() -> None:
    new = make_token([Scope.READ])
    secret = new.text.rpartition("_")[2] if new.text.count("_") == 2 else new.text[19:]
    assert secret not in repr(new)
    assert new.token.digest.hex() not in repr(new)
    assert repr(new.token.digest) not in repr(new)


@pytest.mark.parametrize(("name", "scopes"), [("two words", [Scope.READ]), ("", []), ("-x", [Scope.READ])])
def test_token_that_does_not_fit_the_file_is_refused(name: str, scopes: list[Scope]) -> None:
    with pytest.raises(UsageError):
        make_token(scopes, name)


@given(st.lists(TOKENS, unique_by=lambda token: token.id), st.sampled_from(["\n", "\r\n", "\n\n# note\n"]))
def test_lines_are_read_as_the_tokens_that_wrote_them(tokens: list[Token], between: str) -> None:
    text = "".join(token.line + between for token in tokens)
    assert parse_tokens(text) == {token.id: token for token in tokens}


@given(st.text() | st.lists(st.sampled_from(LINE.split()) | st.text(max_size=5)).map(" ".join))
def test_any_text_is_tokens_or_broken(text: str) -> None:
    try:
        tokens = parse_tokens(text)
    except UsageError as error:
        assert re.match(r"line \d+: ", str(error))
    else:
        assert all(key == token.id and token.scopes for key, token in tokens.items())


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (LINE.replace("report", "rapport"), "'rapport' is no scope; the scopes are read, report,"),
        (LINE.replace("read,report", "read,"), "no list of scopes"),
        (LINE.replace("never", "2027-02-30"), "the expiry is no date"),
        (LINE.replace("never", "2027-02-26T17:00:00+01:00"), "the expiry is no date"),
        (LINE.replace("never ", ""), "does not have four words"),
        (LINE[:-1], "64 hex digits"),
        (LINE.replace("fleet", "fl/eet"), "a token's name is"),
        (f"{LINE}\n{LINE}", "line 4: the id 1f3a9c0e is in an earlier line already"),
    ],
)
def test_broken_line_is_named(line: str, problem: str) -> None:
    with pytest.raises(UsageError, match=re.escape(problem)) as caught:
        parse_tokens(f"# tokens\n\n{line}\n")
    assert re.match(r"line [34]: ", str(caught.value))


@given(st.integers(0, 3))
def test_error_about_a_token_in_the_file_does_not_quote_it(place: int) -> None:
    token = make_token([Scope.READ]).text
    words = LINE.split()
    words[place] = token
    with pytest.raises(UsageError, match="a token itself is here") as caught:
        parse_tokens(" ".join(words))
    assert token[19:] not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("never", None), ("1970-01-02", 86400.0), ("1970-01-01T00:01Z", 60.0), ("1970-01-01T00:00:07Z", 7.0)],
)
def test_expiry_is_read_in_utc(text: str, seconds: float | None) -> None:
    assert parse_expiry(text) == seconds
    assert parse_expiry(format_expiry(seconds)) == seconds
