"""Failed TLS, in words: which name, date or CA was wrong, and what to do.

OpenSSL's texts name neither the names of the certificate that was shown nor its dates. Where these matter,
the certificate is fetched once more, without any trust, and nothing else is sent over that connection.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from datetime import UTC, datetime
from urllib.parse import urlsplit

import aiohttp

from shardcast.access.certificates import Certificate, read_certificate
from shardcast.errors import PeerError, TlsFailure
from shardcast.peer.proxies import proxy_of

_LOOK_SECONDS = 5.0
"""Seconds to connect, and seconds to shake hands, for a second look at a certificate."""
_MAX_NAMES = 5
"""Names of a certificate in an error."""
_REASON = re.compile(r"\[(?:SSL|X509): ([A-Z0-9_]+)\]", re.ASCII)
"""OpenSSL's reason in the text of an error; aiohttp passes on the text alone."""

_EXPIRED, _NOT_YET = 10, 9
_WRONG_NAMES = (62, 64)
_UNKNOWN_CA = (2, 18, 19, 20, 21, 27)
"""Codes of ``SSLCertVerificationError.verify_code`` (x509_vfy.h)."""

_TRUST = "name the CA that signed it (--ca)"
_PLAIN_HTTP = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "HTTP_REQUEST"})
_TOO_OLD = frozenset({"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "NO_PROTOCOLS_AVAILABLE"})
_WANTS_CERTIFICATE = frozenset(
    {"TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_HANDSHAKE_FAILURE", "SSL/TLS_ALERT_HANDSHAKE_FAILURE"}
)
_REFUSES_CERTIFICATE = {
    "TLSV1_ALERT_UNKNOWN_CA": "it does not know the CA",
    "TLSV1_ALERT_DECRYPT_ERROR": "the signature is wrong",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the certificate is wrong",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the certificate is not acceptable",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "the certificate is of a wrong kind",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the certificate has expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "the certificate was revoked",
    "TLSV1_ALERT_ACCESS_DENIED": "the server denies access",
}
"""Why a server refuses a client's certificate, by the alert that it sends."""
_BROKEN = frozenset({"UNEXPECTED_EOF_WHILE_READING", "EOF_OCCURRED"})
"""Reasons of a connection that merely ended."""


async def tls_failure(server: str, error: BaseException) -> PeerError | None:
    """Return the error of a request by aiohttp that TLS prevented; None where TLS did not."""
    cause: BaseException = error
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
    elif isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
    return await asyncio.to_thread(tls_failure_in_thread, server, cause) if _reason(cause) else None


def tls_failure_in_thread(server: str, error: BaseException) -> PeerError | None:
    """Return the error of a connection that TLS prevented; None where TLS did not. Takes some seconds."""
    code = error.verify_code if isinstance(error, ssl.SSLCertVerificationError) else None
    shown = None
    if code in (_EXPIRED, _NOT_YET, *_WRONG_NAMES) and proxy_of(server) is None:
        shown = presented_certificate(server)
    what = describe_failure(urlsplit(server).hostname or "", _reason(error), code, shown)
    return TlsFailure(server, what) if what else None


def presented_certificate(server: str) -> Certificate | None:
    """Return the certificate that a server shows, trusted or not; None for none now, or an unreadable one."""
    url = urlsplit(server)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((url.hostname, url.port or 443), _LOOK_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=url.hostname) as sock,
        ):
            return read_certificate(sock.getpeercert(binary_form=True) or b"")
    except (OSError, ValueError):
        return None


def describe_failure(
    host: str, reason: str, code: int | None, shown: Certificate | None, now: datetime | None = None
) -> str | None:
    """Return in words why there is no TLS with a server, and what to do; None where TLS is not to blame.

    Args:
        host: the name or address by which the server was asked.
        reason: OpenSSL's, such as ``WRONG_VERSION_NUMBER``; empty for none.
        code: of a certificate that could not be verified; None for any other failure.
        shown: the server's certificate; None where it is not known.
        now: the present time; None for the clock's.
    """
    if code is not None:
        return _describe_certificate(host, code, shown, now or datetime.now(UTC))
    if not reason or reason in _BROKEN:
        return None
    if reason in _PLAIN_HTTP:
        return "it does not answer in TLS; if it speaks plain http, write http:// before its address"
    if reason in _TOO_OLD:
        return "it speaks no TLS that is new enough; this needs TLS 1.2 or newer at both ends"
    if reason in _WANTS_CERTIFICATE:
        return (
            "it wants a certificate of this client (--client-certificate, --client-key), "
            "or has no cipher in common with it"
        )
    if reason in _REFUSES_CERTIFICATE:
        return (
            f"it refuses the certificate of this client: {_REFUSES_CERTIFICATE[reason]}; show one that the "
            "CA of its --client-ca signed (--client-certificate)"
        )
    return f"no TLS with it: {reason.lower().replace('_', ' ')}"


def _describe_certificate(host: str, code: int, shown: Certificate | None, now: datetime) -> str:
    """Return what is wrong with a server's certificate, and what to do."""
    if code in _WRONG_NAMES:
        names = ", ".join(shown.names[:_MAX_NAMES]) if shown else ""
        more = ", …" if shown and len(shown.names) > _MAX_NAMES else ""
        whose = f"for {names}{more}" if names else "for other names"
        return (
            f"its certificate is {whose}, not for {host}; ask it by a name of its certificate, "
            f"or give it one for {host}"
        )
    if code == _EXPIRED:
        if shown and shown.ends < now:
            return f"its certificate expired on {_day(shown.ends)}; renew it, or set this machine's clock"
        return f"{_which(shown)} has expired; renew that, or set this machine's clock"
    if code == _NOT_YET:
        if shown and shown.begins > now:
            what = f"its certificate is not valid before {_day(shown.begins)}"
        else:
            what = f"{_which(shown)} is not valid yet"
        return f"{what}; here it is {_day(now)}: set the clock that is wrong"
    if code in _UNKNOWN_CA:
        what = "signed by itself" if code == 18 else "signed by a CA that is not trusted here"
        return f"its certificate is {what}; {_TRUST}"
    return f"its certificate is not accepted ({code}: {_VERIFY.get(code, 'see x509_vfy.h')})"


def _which(shown: Certificate | None) -> str:
    """Return which certificate has a wrong date, if not the server's by the dates in ``shown``."""
    chain = "a certificate in the chain of its CA"
    return chain if shown else f"its certificate or {chain}"


_VERIFY = {
    23: "it was revoked",
    24: "its chain has a certificate of no CA",
    26: "it is not for servers",
    66: "its key is too short",
    67: "the key of its CA is too short",
    68: "its signature is too weak",
}
"""Further codes of verification, in words."""


def _reason(error: BaseException) -> str:
    """Return OpenSSL's reason of an error; empty for none."""
    if isinstance(error, ssl.SSLEOFError):
        return "UNEXPECTED_EOF_WHILE_READING"
    found = _REASON.search(str(error))
    return found[1] if found else ""


def _day(moment: datetime) -> str:
    """Return a moment for people."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"
