"""Connections to names with several addresses, raced instead of tried one by one (RFC 8305)."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from contextlib import suppress
from itertools import chain, zip_longest
from typing import Any

from shardcast.concurrency import cancel
from shardcast.constants import CONNECT_TIMEOUT

_HEAD_START = 0.25
"""Seconds until the next address is tried beside a silent one."""

SocketAddress = tuple[Any, ...]
"""The family, type, protocol and address of a socket."""


async def connect(
    host: str, port: int, preferred: SocketAddress | None = None
) -> tuple[socket.socket, SocketAddress]:
    """Connect to the first address of a host to answer; return the socket and its place.

    Args:
        host: name or address.
        port: port of the server.
        preferred: the place with the last answer, tried before the others.

    Returns:
        A non-blocking socket, and its place.

    Raises:
        TimeoutError: no address answered within ``CONNECT_TIMEOUT``, the look-up of the name included.
        OSError: no address can be connected to; the error of the last one.
    """
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            return await _race(host, port, preferred)
    except TimeoutError:
        raise TimeoutError(f"no answer within {CONNECT_TIMEOUT:g} s") from None


async def _race(host: str, port: int, first: SocketAddress | None) -> tuple[socket.socket, SocketAddress]:
    """Connect as ``connect`` does, for as long as it takes."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    places = [(family, kind, protocol, address) for family, kind, protocol, _, address in found]
    left = deque(sorted(_families_in_turn(places), key=lambda place: place != first))
    racing: dict[asyncio.Future[socket.socket], SocketAddress] = {}
    failure = OSError("no address")
    try:
        while left or racing:
            if left:
                place = left.popleft()
                racing[asyncio.ensure_future(_connect_to(place))] = place
            done, _ = await asyncio.wait(
                racing, timeout=_HEAD_START if left else None, return_when=asyncio.FIRST_COMPLETED
            )
            for attempt in done:
                place = racing.pop(attempt)
                error = attempt.exception()
                if error is None:
                    return attempt.result(), place
                if not isinstance(error, OSError):
                    raise error
                failure = error
        raise failure
    finally:
        await cancel(racing)
        for attempt in racing:
            with suppress(asyncio.CancelledError, OSError):
                attempt.result().close()  # connected as well, a moment later


async def _connect_to(place: SocketAddress) -> socket.socket:
    """Connect to one address.

    Raises:
        OSError: the connection failed.
    """
    family, kind, protocol, address = place
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _families_in_turn(places: list[SocketAddress]) -> list[SocketAddress]:
    """Return the places with their families in turn, and else in the system's order of preference.

    Where one family leads nowhere, the second attempt is of the other.
    """
    families: dict[int, list[SocketAddress]] = {}
    for place in places:
        families.setdefault(place[0], []).append(place)
    return [place for place in chain.from_iterable(zip_longest(*families.values())) if place is not None]
