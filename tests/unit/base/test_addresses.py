"""Servers as people write them in options and in IP_ADDR_LIST."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shardcast import addresses
from shardcast.addresses import parse_ip_addr_list, parse_servers, server_url, server_urls
from shardcast.errors import UsageError
from tests.support.payloads import patient

HOSTS = st.one_of(
    st.from_regex(r"\A[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?(\.[a-z][a-z0-9]{0,8}){0,3}\Z"),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
)
PREFIXES = st.from_regex(r"\A(/[A-Za-z0-9._~-]{1,8}){0,3}/?\Z")
ADDRESSES = st.builds(
    lambda scheme, host, port, prefix: scheme + host + port + prefix,
    st.sampled_from(["", "http://", "https://", "HTTP://"]),
    HOSTS,
    st.one_of(st.just(""), st.integers(1, 65535).map(lambda port: f":{port}")),
    PREFIXES,
)
#: What addresses and lists are made of, so that chance finds what almost is one.
NEARLY = st.text(st.one_of(st.sampled_from("a1.:[]/%@?#()\"', \t\n-_\\\0é٣"), st.characters()), max_size=30)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("1.2.3.4", "http://1.2.3.4:8000"),
        ("host", "http://host:8000"),
        ("node_7.rack-2.example.org.", "http://node_7.rack-2.example.org.:8000"),
        ("host:9000", "http://host:9000"),
        (" Host:9000 ", "http://host:9000"),
        ("[::1]", "http://[::1]:8000"),
        ("[::1]:9000", "http://[::1]:9000"),
        ("[2001:DB8:0:0::1]:9000", "http://[2001:db8::1]:9000"),
        ("http://host", "http://host:8000"),
        ("http://host:80/", "http://host:80"),
        ("https://host", "https://host:443"),
        ("https://host:8443/models/a/", "https://host:8443/models/a"),
        ("host/models", "http://host:8000/models"),
        ("HTTPS://host/%7Ea", "https://host:443/%7Ea"),
    ],
)
def test_address_is_parsed_to_base_url(address: str, url: str) -> None:
    assert server_url(address) == url


@pytest.mark.parametrize(
    "address",
    [
        "", " ", ":9000", "host:", "https://host:", "host:0", "host:65536", "host:http", "host:-1",
        "host:+1", "host:1:2", "::1", "[::1", "::1]", "[::1]]", "[::1]x", "x[::1]", "[1.2.3.4]", "[v1.x]",
        "[fe80::1%a b]", "ftp://host", "://host", "http://", "http:///path", "http://http://host",
        "user@host", "user:pass@host", "host?a=b", "host#a", "host/a b", "host/a?b", "a b", "a\tb", "a\nb",
        "a\0", "ho st:9000", "hôst", "-host", "host/\n/a", "a" * 300, "host\\path", "<host>", "*",
    ],
)  # fmt: skip
def test_malformed_address_raises_usage_error_naming_it(address: str) -> None:
    with pytest.raises(UsageError) as caught:
        server_url(address)
    assert repr(address) in str(caught.value)


def test_address_without_port_gets_configured_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "HTTP_PORT", 9000)
    assert server_url("host") == "http://host:9000"
    assert server_url("https://host") == "https://host:443"
    monkeypatch.setattr(addresses, "HTTP_PORT", 0)  # a server picks a free one; a reader can't
    assert server_url("host") == "http://host:8000"


@patient
@given(HOSTS, st.integers(1, 65535), PREFIXES)
def test_base_url_keeps_host_port_and_prefix(host: str, port: int, prefix: str) -> None:
    assert server_url(f"{host}:{port}{prefix}") == f"http://{host}:{port}{prefix.rstrip('/')}"


@patient
@given(st.one_of(ADDRESSES, NEARLY, NEARLY.map("http://{}".format)))
@example("http://[::%1 ]")
@example("h:" + "9" * 5000)
def test_any_text_is_usage_error_or_stable_url(text: str) -> None:
    try:
        url = server_url(text)
    except UsageError:
        return
    assert server_url(url) == url
    assert url.isascii() and url.isprintable() and " " not in url


@pytest.mark.parametrize(
    "text",
    [
        "a b:9000",
        "  a   b:9000\n",
        "a\nb:9000",
        "a,b:9000",
        "a, b:9000,",
        '("a" "b:9000")',
        "('a' 'b:9000')",
        '( "a"\n  "b:9000" )',
        "(a b:9000)",
        '"a" "b:9000"',
        "a b:9000 a http://b:9000/",
    ],
)
def test_ip_addr_list_accepts_shell_and_plain_forms(text: str) -> None:
    assert parse_ip_addr_list(text) == ["http://a:8000", "http://b:9000"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "()",
        "( )",
        "(a b",
        "a b)",
        '("a" "b',
        '"a',
        "a'",
        '"a""b"',
        '""',
        ",a",
        "a ftp://b",
        "(a) (b)",
    ],
)
def test_malformed_ip_addr_list_raises_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        parse_ip_addr_list(text)


def _array(quote: str) -> Callable[[list[str]], str]:
    return lambda words: "(" + " ".join(f"{quote}{word}{quote}" for word in words) + ")"


@patient
@given(
    st.lists(ADDRESSES, min_size=1, max_size=5),
    st.sampled_from([" ".join, "\n".join, ",".join, ", ".join, _array('"'), _array("'"), _array("")]),
)
def test_every_list_syntax_gives_the_same_servers(words: list[str], join: Callable[[list[str]], str]) -> None:
    assert parse_ip_addr_list(join(words)) == server_urls(words)
    assert parse_servers(",".join(words)) == server_urls(words)


@patient
@given(NEARLY)
def test_any_list_is_distinct_urls_or_usage_error(text: str) -> None:
    for parse in (parse_ip_addr_list, parse_servers):
        try:
            urls = parse(text)
        except UsageError:
            continue
        assert urls and len(urls) == len(set(urls))
        assert server_urls(urls) == urls


def test_servers_keep_order_and_duplicates_are_dropped() -> None:
    assert parse_servers("b,a,http://B:8000, a:8000 ,c") == [
        "http://b:8000",
        "http://a:8000",
        "http://c:8000",
    ]


@pytest.mark.parametrize("text", ["", " , ", ","])
def test_empty_server_list_raises_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="no servers"):
        parse_servers(text)
