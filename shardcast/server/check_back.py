"""The check of a member's address: one connection, for the member to return its nonce."""

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
"""Maximum seconds of a check, and the seconds of a failed one."""
_MAX_ANSWER = 4096
"""Maximum bytes read from an answer."""


async def gives_nonce(place: Place, nonce: str, certificate: str | None) -> bool:
    """Return whether a member at a place returns a nonce.

    Args:
        place: the place to ask.
        nonce: nonce of the announcement; the request has only its challenge.
        certificate: SHA-256 of the required certificate, in hex; None for plain HTTP.
    """
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            answer = await _ask(place, challenge_of(nonce), certificate)
    except (TimeoutError, OSError, ValueError):  # a ValueError: of the address or of TLS
        return False
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.startswith(b"HTTP/1.1 200 ") and compare_digest(body.strip(), nonce.encode())


async def _ask(place: Place, challenge: str, certificate: str | None) -> bytes:
    """Return the answer of a member, as far as read; empty for an unexpected certificate.

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
    """Return a context for any certificate: a member's has no CA, and is told by its digest."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _has_certificate(writer: asyncio.StreamWriter, certificate: str) -> bool:
    """Return whether the other end of a connection has a certificate of this SHA-256."""
    tls = writer.get_extra_info("ssl_object")
    found = tls.getpeercert(binary_form=True) if tls else None
    return found is not None and hashlib.sha256(found).hexdigest() == certificate
