"""The address of an announcer behind proxies."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.addresses import parse_networks
from shardcast.server.announcer_address import forwarded_for

PROXIES = parse_networks("10.0.0.0/24, fd00::/64")


@pytest.mark.parametrize(
    ("header", "address"),
    [
        ("for=192.0.2.60", "192.0.2.60"),
        ("For=192.0.2.60:4711;proto=http;by=10.0.0.1", "192.0.2.60"),
        ('by=10.0.0.1 ; for="[2001:db8::7]:4711"', "2001:db8::7"),
        ('for="[::ffff:192.0.2.60]"', "192.0.2.60"),
        ("for=6.6.6.6, for=192.0.2.60", "192.0.2.60"),  # what comes first, the client may have written
        ("for=6.6.6.6, for=192.0.2.60, for=10.0.0.9", "192.0.2.60"),  # over two proxies
        ("for=192.0.2.60, for=unknown", None),
        ("for=_hidden", None),
        ("for=10.0.0.9", None),
        ("for=999.1.1.1", None),
        ('for="192.0.2.60\\"', None),
        ("xfor=192.0.2.60", None),
        ("", None),
    ],
)
def test_address_is_the_last_one_that_is_no_proxy(header: str, address: str | None) -> None:
    found = forwarded_for(header, PROXIES)
    assert found == (ip_address(address) if address else None)


@given(st.text(max_size=200) | st.text('for=0123.,;"[]:', max_size=200))
def test_any_header_is_read(header: str) -> None:
    forwarded_for(header, PROXIES)


def test_long_header_is_read_from_its_end() -> None:
    assert forwarded_for("x" * 100_000 + ", for=192.0.2.60", PROXIES) == ip_address("192.0.2.60")
