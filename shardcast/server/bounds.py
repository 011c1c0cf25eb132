"""The bounds of a listener: the maximum cost of one client, and of all together, to a node.

Each field is a setting (``SHARDCAST_*`` in ``constants``) except the proxies, named by an option.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address

from aiohttp import web

from shardcast import constants
from shardcast.addresses import Network, parse_networks
from shardcast.fair_limit import FairLimit

Address = IPv4Address | IPv6Address

SMALL_BODY = 64 << 10
"""Bytes of a body read without a reservation: a node without free memory still takes small requests."""


@dataclass(frozen=True)
class Bounds:
    """Bounds of a listener.

    Attributes:
        head_seconds: seconds for the head of a request, from its first byte or the connection's beginning.
        idle_seconds: seconds for which a connection stays open between two requests.
        body_seconds: seconds for a whole body kept in memory.
        body_pace: minimum pace of a body, in bytes a second on average over each ``body_seconds``; None where
            bodies stay open on purpose.
        reader_seconds: seconds until an inactive reader is dropped.
        body_bytes: bytes of one body in memory.
        all_bytes: bytes of bodies and of unsent answers in memory, of all connections together.
        connections: open connections of one address.
        trusted: networks with uncounted connections; those of this machine never count.
        uploads: limit of the bytes sent by all listeners of the node together; None for no limit.
    """

    head_seconds: float = field(default_factory=lambda: constants.HEAD_TIMEOUT)
    idle_seconds: float = field(default_factory=lambda: constants.KEEP_ALIVE)
    body_seconds: float = field(default_factory=lambda: constants.BODY_TIMEOUT)
    body_pace: float | None = field(default_factory=lambda: constants.BODY_PACE)
    reader_seconds: float = field(default_factory=lambda: constants.STALLED_READER)
    body_bytes: int = field(default_factory=lambda: constants.BODY_MEMORY)
    all_bytes: int = field(default_factory=lambda: constants.LISTENER_MEMORY)
    connections: int = field(default_factory=lambda: constants.CONNECTIONS_PER_ADDRESS)
    trusted: tuple[Network, ...] = field(default_factory=lambda: parse_networks(constants.TRUSTED_PROXY))
    uploads: FairLimit | None = None

    def counted_address(self, host: str) -> Address | None:
        """Return the address for counting a connection from ``host``; None for an uncounted one."""
        address = self.limited_address(host)
        return None if address is None or address.is_loopback else address

    def limited_address(self, host: str) -> Address | None:
        """Return the address for the byte limit of ``host``; None for a trusted proxy or a Unix socket.

        This machine is an address like others: a proxy here is named as trusted.
        """
        try:
            address = ip_address(host.partition("%")[0])
        except ValueError:
            return None
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return None if any(address in network for network in self.trusted) else address


@dataclass
class BodyMemory:
    """The memory of all request bodies of a listener.

    Attributes:
        max_bytes: maximum bytes.
        used: reserved bytes.
    """

    max_bytes: int
    used: int = 0

    @contextmanager
    def reservation(self) -> Iterator[Reservation]:
        """Yield a reservation of no bytes yet, released at the end of the block."""
        reservation = Reservation(self)
        try:
            yield reservation
        finally:
            self.used -= reservation.size


class Reservation:
    """The memory of one request's body.

    Attributes:
        size: reserved bytes.
    """

    def __init__(self, memory: BodyMemory) -> None:
        self._memory = memory
        self.size = 0

    def grow(self, size: int) -> bool:
        """Reserve ``size`` bytes in all; return False where there is no room for them."""
        more = size - self.size
        if self._memory.used + more > self._memory.max_bytes:
            return False
        self._memory.used += more
        self.size = size
        return True


BOUNDS = web.AppKey("bounds", Bounds)


def owner_bounds() -> Bounds:
    """Return the bounds of a data directory's socket, where requests stay open until their work is done."""
    return Bounds(body_pace=None)


def bounds_of(request: web.Request) -> Bounds:
    """Return the bounds of a request's listener."""
    return request.app[BOUNDS]
