"""A connection to a server that leaves HTTP by ``Upgrade`` (RFC 9110, 7.8) for another protocol."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from dataclasses import dataclass
from typing import cast

from shardcast.constants import CONNECT_TIMEOUT
from shardcast.errors import (
    BadAnswer,
    CannotAsk,
    LocalLimit,
    PeerError,
    ServerLacks,
    ServerStalled,
    ServerUnreachable,
    TlsFailure,
)
from shardcast.peer.connecting import connect
from shardcast.plain_text import one_line
from shardcast.protocol.wire import ABSENT_STATUSES

_MAX_HEAD = 16 << 10
_MAX_SHOWN = 100
_REQUEST = (
    "GET {path} HTTP/1.1\r\nHost: {place}\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n"
    "Content-Length: 0\r\n\r\n"
)


@dataclass(frozen=True, slots=True)
class UpgradedConnection:
    """A connection that speaks another protocol from now on.

    Attributes:
        transport: the connection.
        early: bytes of that protocol that have come already.
        certificate: SHA-256 of the server's certificate; empty without TLS.
    """

    transport: asyncio.Transport
    early: bytes
    certificate: bytes


class _HeadReader(asyncio.Protocol):
    """The head of an answer.

    Attributes:
        head: ends with the head, and the bytes behind it.
    """

    def __init__(self) -> None:
        self.head: asyncio.Future[tuple[bytes, bytes]] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self._came = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Take bytes; none are read behind the head until another protocol takes over."""
        self._came += data
        head, end, rest = self._came.partition(b"\r\n\r\n")
        if self.head.done() or self._transport is None:
            return
        if end:
            self._transport.pause_reading()
            self.head.set_result((bytes(head), bytes(rest)))
        elif len(self._came) > _MAX_HEAD:
            self.head.set_exception(ValueError(f"a head of more than {_MAX_HEAD} bytes"))

    def connection_lost(self, error: Exception | None) -> None:
        """Fail, unless the head is there."""
        if not self.head.done():
            self.head.set_exception(error or ConnectionResetError("the connection was ended"))
            self.head.exception()  # retrieved: the caller may have gone


async def open_upgraded(
    host: str,
    port: int,
    path: str,
    protocol: str,
    *,
    certificate: bytes | None = None,
    seconds: float = CONNECT_TIMEOUT,
) -> UpgradedConnection:
    """Connect to a server, and switch to a protocol.

    Args:
        host: an address.
        port: of the server.
        path: of the request.
        protocol: the value of ``Upgrade``.
        certificate: SHA-256 of the certificate that the server must show; None for plain HTTP.
        seconds: for the handshake of TLS, and then for the answer.

    Raises:
        ServerUnreachable, ServerStalled: there is no connection, or no answer in time.
        CannotAsk: this machine can't make a connection.
        TlsFailure: there is no TLS with the server, or it shows another certificate.
        ServerLacks, BadAnswer: the server does not switch.
    """
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    server = f"{'http' if certificate is None else 'https'}://{place}"
    transport: asyncio.Transport | None = None
    try:
        sock, _ = await connect(host, port)
        try:
            transport, reader = await asyncio.get_running_loop().create_connection(
                _HeadReader,
                sock=sock,
                ssl=None if certificate is None else _unverified(),
                server_hostname=None if certificate is None else host,
                ssl_handshake_timeout=None if certificate is None else seconds,
            )
        except BaseException:
            sock.close()
            raise
        shown = _shown_certificate(transport)
        if shown != (certificate or b""):
            raise TlsFailure(server, "it shows another certificate than it was announced with")
        async with asyncio.timeout(seconds):
            transport.write(_REQUEST.format(path=path, place=place, protocol=protocol).encode())
            head, early = await reader.head
        _check_head(server, path, protocol, head)
        return UpgradedConnection(transport, early, shown)
    except BaseException as error:
        if transport is not None:
            transport.abort()
        if translated := _peer_error(server, path, seconds, error):
            raise translated from error
        raise


def _peer_error(server: str, path: str, seconds: float, error: BaseException) -> PeerError | None:
    """Return the server's error for a system error or a malformed answer; None for any other error."""
    if isinstance(error, PeerError) or not isinstance(error, (OSError, ValueError)):
        return None
    if limit := LocalLimit.of(error):
        return CannotAsk(server, str(limit))
    if isinstance(error, ssl.SSLError):
        return TlsFailure(server, f"no TLS with it: {error.reason or error}")
    if isinstance(error, TimeoutError):
        return ServerStalled(server, f"GET {path}: no answer within {seconds:g} s")
    if isinstance(error, ValueError):
        return BadAnswer(server, f"GET {path}: {error}")
    return ServerUnreachable(server, f"no connection ({error.strerror or error})")


def _unverified() -> ssl.SSLContext:
    """Return a context for a server whose certificate is known by its digest, which the caller compares."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _shown_certificate(transport: asyncio.BaseTransport) -> bytes:
    """Return the SHA-256 of the certificate of a connection; empty without TLS."""
    ssl_object = transport.get_extra_info("ssl_object")
    shown = ssl_object.getpeercert(True) if ssl_object is not None else None
    return hashlib.sha256(shown).digest() if shown else b""


def _check_head(server: str, path: str, protocol: str, head: bytes) -> None:
    """Check that an answer switches to a protocol.

    Raises:
        ServerLacks, BadAnswer: it does not.
    """
    status, *lines = head.decode("latin-1").split("\r\n")
    words = status.split(" ", 2)
    fields = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    what = f"GET {path}: it does not switch to {protocol}: {one_line(status, _MAX_SHOWN)}"
    if words[1:2] != ["101"] or not words[0].startswith("HTTP/1."):
        code = int(words[1]) if words[1:] and words[1].isdigit() and len(words[1]) == 3 else 0
        raise (ServerLacks if code in ABSENT_STATUSES else BadAnswer)(server, what)
    if fields.get("upgrade") != protocol:
        raise BadAnswer(server, what)
