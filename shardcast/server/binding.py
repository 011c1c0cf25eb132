"""The addresses of a listener, bound before it serves, and the listener's URL for other machines."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from shardcast.errors import AddressTaken

EVERY_ADDRESS = "::"
"""The host that stands for all addresses of this machine, IPv4 and IPv6."""

_FAMILIES = {
    EVERY_ADDRESS: {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"},
    "": {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"},
    "0.0.0.0": {socket.AF_INET: "0.0.0.0"},
}
"""Hosts with more than one address: the address to bind for them in each family."""
_NO_FAMILY = (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EADDRNOTAVAIL)
"""Errors of binding an address whose family this machine, or this container, lacks."""
_SAME_PORT = 20
"""Attempts to find a port free at each of several addresses."""
_ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Addresses of no machine (RFC 5737, RFC 3849): this machine's source address towards them is the one by
which others know it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bound:
    """Sockets bound to the addresses of a host, at the same port, not listening yet."""

    host: str
    sockets: tuple[socket.socket, ...]

    @property
    def port(self) -> int:
        """Port of all sockets."""
        return int(self.sockets[0].getsockname()[1])

    def url(self, scheme: str = "http") -> str:
        """Return the base URL of the listener for other machines."""
        host = self.host
        if host in _FAMILIES:
            families = [sock.family for sock in self.sockets]
            addresses = (address for family in families if (address := _own_address(family)))
            host = next(addresses, "127.0.0.1" if socket.AF_INET in families else "::1")
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        hosts = (sock.getsockname()[0].partition("%")[0] for sock in self.sockets)
        return all(ip_address(host).is_loopback for host in hosts)

    def close(self) -> None:
        """Close all sockets."""
        for sock in self.sockets:
            sock.close()


def bind(host: str, port: int) -> Bound:
    """Bind sockets to the addresses of a host, to listen on them later.

    IPv4 and IPv6 have sockets of their own, so a client over IPv4 never appears under an IPv6 address.

    Raises:
        AddressTaken: the addresses can't be bound.
    """
    try:
        addresses = list(_addresses(host, port))
        for attempt in range(1, _SAME_PORT + 1):
            try:
                return Bound(host, _bind_all(addresses, port))
            except OSError as error:
                if port or error.errno != errno.EADDRINUSE or attempt == _SAME_PORT:
                    raise
        raise AssertionError
    except (OSError, OverflowError) as error:
        raise AddressTaken(_why(error, host, port)) from error


def _addresses(host: str, port: int) -> Iterator[tuple[socket.AddressFamily, tuple[Any, ...]]]:
    """Yield each family and address of a host, once."""
    if host in _FAMILIES:
        yield from ((family, (address, port)) for family, address in _FAMILIES[host].items())
        return
    resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    yield from dict.fromkeys((family, address) for family, _, _, _, address in resolved)


def _bind_all(
    addresses: list[tuple[socket.AddressFamily, tuple[Any, ...]]], port: int
) -> tuple[socket.socket, ...]:
    """Bind a socket to each address; families missing on the machine are left out.

    Raises:
        OSError: an address can't be bound, or no family is available.
    """
    bound: list[socket.socket] = []
    missing: OSError | None = None
    with contextlib.ExitStack() as stack:
        for family, (address, _, *scope) in addresses:
            try:
                sock = stack.enter_context(_bind_address(family, (address, port, *scope)))
            except OSError as error:
                if error.errno not in _NO_FAMILY:
                    raise
                missing = error
                log.debug("not listening on %s: %s", address, error.strerror)
            else:
                bound.append(sock)
                port = sock.getsockname()[1]
        if missing and not bound:
            raise missing
        stack.pop_all()
    return tuple(bound)


def _bind_address(family: socket.AddressFamily, address: tuple[Any, ...]) -> socket.socket:
    """Return a socket bound to an address."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _own_address(family: socket.AddressFamily) -> str | None:
    """Return this machine's source address of connections to others; None without a route.

    No packet is sent.
    """
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((_ELSEWHERE[family], 9))
            return str(probe.getsockname()[0])
    except OSError:
        return None


def _why(error: OSError | OverflowError, host: str, port: int) -> str:
    """Return the message for an address that cannot be bound."""
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is taken; stop what listens there, or choose another --port"
    if isinstance(error, OSError) and error.errno == errno.EACCES:
        return f"no permission to listen on port {port} of {host}; choose one from 1024 on"
    if isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL:
        return f"can't listen on {host} port {port}: this machine has no such address; choose another --host"
    return f"can't listen on {host} port {port}: {getattr(error, 'strerror', None) or error}"
