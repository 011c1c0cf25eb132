"""The check of a member's address: one connection, over which the member gives its nonce back."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl
from hmac import compare_digest

from shardcast.access.nonces import challenge_of
from shardcast.protocol.swarm_members import Place
from shardcast.protocol.wire import CHECK_HEADER, SWARM_CHECK_PATH

CHECK_SECONDS = 2.0
"""Seconds that a check takes at most, and that one takes that fails."""
_MAX_ANSWER = 4096
"""Bytes of an answer that are read."""


async def gives_nonce(place: Place, nonce: str, certificate: str | None) -> bool:
    """Return whether a member at a place gives a nonce back.

    Args:
        place: where it is asked.
        nonce: of its announcement; the request has only its challenge.
        certificate: SHA-256 of the certificate that it must have, in hex; None for plain HTTP.
    """
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            answer = await _ask(place, challenge_of(nonce), certificate)
    except (TimeoutError, OSError, ValueError):  # a ValueError: of the address or of TLS
        return False
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.startswith(b"HTTP/1.1 200 ") and compare_digest(body.strip(), nonce.encode())


async def _ask(place: Place, challenge: str, certificate: str | None) -> bytes:
    """Return the answer of a member, as far as it is read; empty where its certificate is another one.

    Raises:
        OSError: there is no connection.
    """
    context = _any_certificate() if certificate else None
    reader, writer = await asyncio.open_connection(place.host, place.port, ssl=context, limit=_MAX_ANSWER)
    try:
        if certificate and not _has_certificate(writer, certificate):
            return b""
        writer.write(
            f"GET {SWARM_CHECK_PATH} HTTP/1.1\r\nHost: {place}\r\n{CHECK_HEADER}: {challenge}\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        await writer.drain()
        answer = b""
        while len(answer) <= _MAX_ANSWER and (more := await reader.read(_MAX_ANSWER)):
            answer += more
        return answer
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _any_certificate() -> ssl.SSLContext:
    """Return a context that takes each certificate: a member's has no CA, and is told by its digest."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _has_certificate(writer: asyncio.StreamWriter, certificate: str) -> bool:
    """Return whether the other end of a connection has a certificate of this SHA-256."""
    tls = writer.get_extra_info("ssl_object")
    found = tls.getpeercert(binary_form=True) if tls else None
    return found is not None and hashlib.sha256(found).hexdigest() == certificate
