"""The source address of a request: the connection's, or the one in ``Forwarded`` of a trusted proxy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address

from aiohttp import web

from shardcast.addresses import Network
from shardcast.policy.swarm.addresses import is_in
from shardcast.server.bounds import Address, bounds_of

_MAX_HEADER = 4096
"""Maximum characters read from a header."""
_FOR = re.compile(r'(?:^|;)\s*for\s*=\s*(?:"([^"\\]*)"|([^\s;",]+))', re.ASCII | re.IGNORECASE)
_HOST = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]+)?|([0-9.]+)(?::[0-9]+)?", re.ASCII)


def announcer_address(request: web.Request) -> Address | None:
    """Return the address of the sender of a request; None for unknown, as over a Unix socket.

    Behind a trusted proxy this is the last address in ``Forwarded`` (RFC 7239) without a trusted proxy:
    anybody can have written those before.
    """
    trusted = bounds_of(request).trusted
    seen = _address(request.remote or "")
    if seen is None or not is_in(seen, trusted):
        return seen
    return forwarded_for(",".join(request.headers.getall("Forwarded", [])), trusted)


def reached_address(request: web.Request) -> Address | None:
    """Return the address of this machine reached by a request; None for unknown."""
    place = request.get_extra_info("sockname")
    return _address(str(place[0])) if isinstance(place, tuple) and place else None


def forwarded_for(header: str, trusted: Sequence[Network]) -> Address | None:
    """Return the last address in ``Forwarded`` that is no trusted proxy's.

    None where there is none, or where an element without an address comes after it.

    Args:
        header: the value.
        trusted: networks of proxies.
    """
    for element in reversed(header[-_MAX_HEADER:].split(",")):
        match = _FOR.search(element)
        host = _HOST.fullmatch(match[1] or match[2] or "") if match else None
        address = _address(host[1] or host[2]) if host else None
        if address is None or not is_in(address, trusted):
            return address
    return None


def _address(host: str) -> Address | None:
    """Return the address in a text; an IPv4 address where IPv6 maps one. None for anything else."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
