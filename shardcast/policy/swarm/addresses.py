"""The addresses of members that a server names to others, and the sites that addresses stand for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from shardcast.addresses import Network

LOWEST_PORT = 1024
"""The lowest port that a member is named with: below are the services of the system."""
_SITE_BITS = {4: 24, 6: 64}
"""Bits of an address that tell its site, by the version of IP."""

Address = IPv4Address | IPv6Address


def can_be_named(address: Address, port: int) -> bool:
    """Return whether a place can be a member's: one machine's address, and no system port."""
    excluded = (
        address.is_multicast
        or address.is_unspecified
        or address.is_link_local
        or (address.is_reserved and not address.is_loopback)
    )
    broadcast = address.version == 4 and int(address) == 0xFFFFFFFF
    return port >= LOWEST_PORT and not excluded and not broadcast


def can_be_told(host: str, asker: str | None) -> bool:
    """Return whether a place is named to an asker: a loopback address only to who is on this machine too.

    Args:
        host: the place's address.
        asker: the asker's own address; None where it is unknown.
    """
    return not is_loopback(host) or (asker is not None and is_loopback(asker))


@lru_cache(4096)
def is_loopback(host: str) -> bool:
    """Return whether an address is of this machine alone; False for names."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


@lru_cache(4096)
def owner_of(address: Address | str | None) -> str:
    """Return the name by which bounds count an address: of IPv6 its subnet, which can be one machine's."""
    if isinstance(address, str):
        address = ip_address(address)
    if isinstance(address, IPv6Address) and not address.is_loopback:
        return str(ip_network((address, _SITE_BITS[6]), strict=False))
    return str(address or "")


def is_in(address: Address, networks: Sequence[Network]) -> bool:
    """Return whether an address lies in one of some networks."""
    return any(address in network for network in networks)


def guess_site(address: Address) -> str:
    """Return the site of a member that names none: its subnet, ``10.1.2.0/24``."""
    subnet = str(ip_network((address, _SITE_BITS[address.version]), strict=False))
    return f"0{subnet}" if subnet.startswith(":") else subnet  # a name begins with a letter or a digit


def site_beyond(
    named: str | None, seen: Address | None, *, home: str | None, here: Address | None
) -> str | None:
    """Return the site of a node that asks a server; None where it is the server's own.

    Args:
        named: the site that the node names; None to guess it.
        seen: the node's address; None where it is unknown.
        home: the site that the server's operator named; None to guess it.
        here: the server's address that the node reached; None where it is unknown.
    """
    site = named or (guess_site(seen) if seen else None)
    own = home or (guess_site(here) if here else None)
    return None if site is None or own is None or site == own else site
