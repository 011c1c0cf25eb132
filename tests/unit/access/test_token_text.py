"""The text of token files and variables: parsed whole, or refused without a word of it."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.access.secret import Secret
from shardcast.access.token_text import MAX_TOKEN, parse_credentials

TOKENS = st.from_regex(r"[A-Za-z0-9._~+/-]{1,60}={0,2}", fullmatch=True)
HOSTS = st.from_regex(r"[a-z][a-z0-9]{0,20}(\.[a-z]{2,5})?", fullmatch=True)
PORTS = st.none() | st.integers(1, 65535)


def shown(text: str, url: str) -> str | None:
    tokens, problem = parse_credentials(Secret(text))
    assert problem is None
    token = tokens.for_server(url)
    return token.reveal() if token else None


@given(TOKENS)
def test_lone_token_is_for_every_server(token: str) -> None:
    assert shown(f"\n# ours\n{token}\r\n", "http://10.0.0.1:8000") == token
    assert shown(f"*={token}", "https://host:443/prefix") == token


@given(st.dictionaries(st.tuples(HOSTS, PORTS), TOKENS, min_size=1, max_size=5), st.none() | TOKENS)
def test_servers_get_their_own_tokens_only(
    lines: dict[tuple[str, int | None], str], general: str | None
) -> None:
    text = "\n".join(f"{host}{f':{port}' if port else ''}={token}" for (host, port), token in lines.items())
    text += f"\n{general}" if general else ""
    for (host, port), token in lines.items():
        assert shown(text, f"http://{host.upper()}:{port or 64000}") == (
            token if port or (host, 64000) not in lines else lines[host, 64000]
        )
    assert shown(text, "http://elsewhere.example.org:8000") == general


@pytest.mark.parametrize(
    ("line", "url"),
    [
        ("[::1]:8000=t", "http://[::1]:8000"),
        ("[::1]=t", "http://[::1]:9"),
        ("10.0.0.1=t", "http://10.0.0.1:8000/a"),
        ("host:443=t", "https://host"),
    ],
)
def test_address_is_that_of_the_url(line: str, url: str) -> None:
    assert shown(line, url) == "t"
    assert shown(line, "http://[::2]:8000") is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "there is nothing"),
        ("# only a comment", "there is nothing"),
        ("two words", "one word of ASCII"),
        ("good\nba d", "line 2: blanks"),
        ("grün", "one word of ASCII"),
        ("a\nb", "line 2: a second token for all servers"),
        ("h=a\nH=b", "line 2: a second token for the same server"),
        ("h:1=", "no token follows"),
        ("=secret", "no address before the ="),
        ("http://h=secret", "no address before the ="),
        ("u@h=secret", "no address before the ="),
        ("h:x=secret", "no address before the ="),
        ("h:99999=secret", "no address before the ="),
        ("x" * (MAX_TOKEN + 1), "more than 4096 bytes"),
    ],
)
def test_malformed_text_is_refused_by_its_line(text: str, problem: str) -> None:
    tokens, said = parse_credentials(Secret(text))
    assert said is not None
    assert problem in said
    assert (tokens.general, tokens.by_server) == (None, {})


@given(st.text(alphabet=string.printable + "ü\0\x85", max_size=200))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    tokens, problem = parse_credentials(Secret(text))
    assert bool(problem) == (tokens.general is None and not tokens.by_server)
    for token in [tokens.general, *tokens.by_server.values()]:
        assert token is None or token.reveal() in text


@given(TOKENS.filter(lambda token: len(token) > 8), st.sampled_from(["{} x", "=.{}", "a\n{}", "[{}]=x"]))
def test_refusal_shows_nothing_of_the_text(token: str, form: str) -> None:
    _, problem = parse_credentials(Secret(form.format(token)))
    assert problem
    assert token not in problem
