"""The addresses that a server listens on, taken before it serves, and the URL that others reach it by."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shardcast.errors import AddressTaken

EVERY_ADDRESS = "::"
"""The host that is every address of this machine, of IPv4 and of IPv6."""

_FAMILIES = {
    EVERY_ADDRESS: {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"},
    "": {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"},
    "0.0.0.0": {socket.AF_INET: "0.0.0.0"},
}
"""Hosts that are more than one address: what is bound for them in each family."""
_NO_FAMILY = (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EADDRNOTAVAIL)
"""What keeps from an address whose family this machine, or this container, does without."""
_SAME_PORT = 20
"""Attempts to find a port that is free at each of several addresses."""
_ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Addresses of nobody (RFC 5737, RFC 3849), on whose way this machine uses the address that others know."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bound:
    """Sockets that are bound to the addresses of a host, at the same port, and do not listen yet."""

    host: str
    sockets: tuple[socket.socket, ...]

    @property
    def port(self) -> int:
        return int(self.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """Where others reach it."""
        host = self.host
        if host in _FAMILIES:
            families = [one.family for one in self.sockets]
            found = (address for one in families if (address := _own_address(one)))
            host = next(found, "127.0.0.1" if socket.AF_INET in families else "::1")
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def close(self) -> None:
        for one in self.sockets:
            one.close()


def bind(host: str, port: int) -> Bound:
    """Take the addresses of a host, to listen on them later. IPv4 and IPv6 have sockets of their own, so that
    nobody's address is an IPv6 one that stands for one of IPv4.

    Raises:
        AddressTaken: they can't be bound.
    """
    try:
        places = list(_places(host, port))
        for attempt in range(1, _SAME_PORT + 1):
            try:
                return Bound(host, _bind_all(places, port))
            except OSError as error:
                if port or error.errno != errno.EADDRINUSE or attempt == _SAME_PORT:
                    raise
        raise AssertionError
    except (OSError, OverflowError) as error:
        raise AddressTaken(_why(error, host, port)) from error


def _places(host: str, port: int) -> Iterator[tuple[socket.AddressFamily, tuple[Any, ...]]]:
    if host in _FAMILIES:
        yield from ((family, (address, port)) for family, address in _FAMILIES[host].items())
        return
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    yield from dict.fromkeys((family, address) for family, _, _, _, address in found)


def _bind_all(
    places: list[tuple[socket.AddressFamily, tuple[Any, ...]]], port: int
) -> tuple[socket.socket, ...]:
    taken: list[socket.socket] = []
    missing: OSError | None = None
    with contextlib.ExitStack() as stack:
        for family, (address, _, *scope) in places:
            try:
                one = stack.enter_context(_bind_one(family, (address, port, *scope)))
            except OSError as error:
                if error.errno not in _NO_FAMILY:
                    raise
                missing = error
                log.debug("not listening on %s: %s", address, error.strerror)
            else:
                taken.append(one)
                port = one.getsockname()[1]
        if missing and not taken:
            raise missing
        stack.pop_all()
    return tuple(taken)


def _bind_one(family: socket.AddressFamily, address: tuple[Any, ...]) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
    except BaseException:
        one.close()
        raise
    return one


def _own_address(family: socket.AddressFamily) -> str | None:
    """Return the address of this machine that its connections to others come from; None where it has no way
    to others. Nothing is sent."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((_ELSEWHERE[family], 9))
            return str(probe.getsockname()[0])
    except OSError:
        return None


def _why(error: OSError | OverflowError, host: str, port: int) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is taken; stop what listens there, or choose another --port"
    if isinstance(error, OSError) and error.errno == errno.EACCES:
        return f"no permission to listen on port {port} of {host}; choose one from 1024 on"
    return f"can't listen on {host} port {port}: {getattr(error, 'strerror', None) or error}"
