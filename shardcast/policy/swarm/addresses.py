"""The addresses of members as told to other members, and the sites of addresses."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from shardcast.addresses import Network

LOWEST_PORT = 1024
"""The lowest port of a member: below are the services of the system."""
_SITE_BITS = {4: 24, 6: 64}
"""Bits of an address in common within a site, by the version of IP."""

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
    """Return whether to tell a place to an asker: a loopback address only to askers on the same machine.

    Args:
        host: the place's address.
        asker: the asker's own address; None for unknown.
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
    """Return the text by which members of an address are counted; empty for None.

    This is the address itself, or of IPv6 the subnet: a machine can have a whole one.
    """
    if isinstance(address, str):
        address = ip_address(address)
    if isinstance(address, IPv6Address) and not address.is_loopback:
        return str(ip_network((address, _SITE_BITS[6]), strict=False))
    return str(address or "")


def is_in(address: Address, networks: Sequence[Network]) -> bool:
    """Return whether an address lies in one of some networks."""
    return any(address in network for network in networks)


def guess_site(address: Address) -> str:
    """Return the site of a member without a named one: its subnet, ``10.1.2.0/24``."""
    subnet = str(ip_network((address, _SITE_BITS[address.version]), strict=False))
    return f"0{subnet}" if subnet.startswith(":") else subnet  # a name begins with a letter or a digit


def site_beyond(
    named: str | None, seen: Address | None, *, home: str | None, here: Address | None
) -> str | None:
    """Return the site of a node asking a server; None for the server's own site.

    Args:
        named: the node's named site; None to guess one.
        seen: the node's address; None for unknown.
        home: the site named by the server's operator; None to guess one.
        here: the server's address as reached by the node; None for unknown.
    """
    site = named or (guess_site(seen) if seen else None)
    own = home or (guess_site(here) if here else None)
    return None if site is None or own is None or site == own else site
