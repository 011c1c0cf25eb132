"""TLS of a node: its certificate, key and CAs, from their files into contexts."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from shardcast.access.certificates import certificate_sha256
from shardcast.disk_errors import disk_errors
from shardcast.errors import UsageError

_MAX_FILE = 4 << 20
"""Bytes of a file with certificates; the CAs of a whole system take some 300 KB."""
_CERTIFICATE, _KEY = b"CERTIFICATE-----", b"PRIVATE KEY-----"
"""Parts of the first line of a certificate and of a key in PEM."""


@dataclass(frozen=True)
class ServerTls:
    """The TLS of a listener.

    Attributes:
        certificate: file with the listener's certificate, followed by its chain.
        key: file with the key of the certificate; None for the key in ``certificate``.
        client_ca: file with the CAs of acceptable client certificates; None where clients need none.
    """

    certificate: Path
    key: Path | None = None
    client_ca: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of a context."""
        return tuple(path for path in (self.certificate, self.key, self.client_ca) if path)

    def load(self) -> ssl.SSLContext:
        """Return a new context of the files as they are now.

        Raises:
            UsageError: a file has no certificate or no key, the two do not belong together, or the key is
                encrypted.
            LocalDiskError: a file can't be read.
        """
        context = listener_context()
        _load_pair(context, self.certificate, self.key)
        if self.client_ca:
            _load_authorities(context, self.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def digest(self) -> str | None:
        """Return the SHA-256 of the present certificate, in hex; None where the file can't be read."""
        return certificate_sha256(self.certificate)


@dataclass(frozen=True)
class ClientTls:
    """The TLS of connections to servers.

    Attributes:
        ca: file with the CAs to trust, and no others; None for those of the system.
        certificate: file with the certificate for servers that ask for one; None for none.
        key: file with the key of the certificate; None for the key in ``certificate``.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        """Check the parts against each other.

        Raises:
            UsageError: there is a key and no certificate.
        """
        if self.key and not self.certificate:
            raise UsageError(f"the key {self.key} has no certificate: give --client-certificate too")

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of a context; none for the system's."""
        return tuple(path for path in (self.ca, self.certificate, self.key) if path)

    def load(self) -> ssl.SSLContext:
        """Return a new context of the files as they are now.

        Raises:
            UsageError, LocalDiskError: as for ``ServerTls.load``.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # Python 3.11.2 (Debian 12) otherwise takes a connection cut off for one closed in order.
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        if self.ca:
            _load_authorities(context, self.ca)
        else:
            context.load_default_certs()
        if self.certificate:
            _load_pair(context, self.certificate, self.key)
        return context


def listener_context() -> ssl.SSLContext:
    """Return a context for a listener without a certificate yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.num_tickets = 0  # no node resumes a session, and each ticket costs memory and a write
    context.options |= ssl.OP_NO_RENEGOTIATION  # a client could ask for the costly part again and again
    return context


StrPath = str | os.PathLike[str]


def client_tls(
    ca: StrPath | None, certificate: StrPath | None = None, key: StrPath | None = None
) -> ClientTls:
    """Return the TLS of a client whose files are named by paths of any kind.

    Raises:
        UsageError: there is a key and no certificate.
    """
    return ClientTls(*(None if path is None else Path(path) for path in (ca, certificate, key)))


def server_tls(
    certificate: StrPath | None, key: StrPath | None = None, client_ca: StrPath | None = None
) -> ServerTls | None:
    """Return the TLS of a listener's options; None for plain HTTP.

    Raises:
        UsageError: there is a key or a CA, and no certificate.
    """
    if certificate:
        return ServerTls(
            Path(certificate), Path(key) if key else None, Path(client_ca) if client_ca else None
        )
    if key or client_ca:
        name = "--key" if key else "--client-ca"
        raise UsageError(f"{name} needs the certificate of this server: give --certificate too")
    return None


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    """Load a certificate and its key into ``context``.

    Args:
        context: the context.
        certificate: file with the certificate.
        key: file with the key; None for the file of the certificate.

    Raises:
        UsageError, LocalDiskError: as for ``ServerTls.load``.
    """
    _check_pem(certificate, _CERTIFICATE, "certificate")
    _check_pem(key or certificate, _KEY, "key", "" if key else ", or name another file with the key")
    key = key or certificate

    def refuse() -> str:
        raise UsageError(f"the key in {key} is encrypted; write it without a password (openssl pkey)")

    try:
        context.load_cert_chain(certificate, key, password=refuse)
    except ssl.SSLError as error:
        if "MISMATCH" in (error.reason or ""):
            raise UsageError(
                f"the key in {key} does not belong to the certificate in {certificate}"
            ) from None
        raise UsageError(
            f"the certificate in {certificate} or the key in {key} can't be read: {error}"
        ) from None


def _load_authorities(context: ssl.SSLContext, path: Path) -> None:
    """Have ``context`` trust the CAs in a file.

    Raises:
        UsageError: the file has no certificate, or a malformed one.
        LocalDiskError: the file can't be read.
    """
    _check_pem(path, _CERTIFICATE, "certificate")
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise UsageError(f"the certificates in {path} can't be read: {error}") from None


def _check_pem(path: Path, mark: bytes, what: str, advice: str = "") -> None:
    """Check that a file has a certificate or a key; OpenSSL's own errors name no file.

    Args:
        path: the file.
        mark: the text to find in the file.
        what: name of the text, for the error.
        advice: end of the error.

    Raises:
        UsageError: the file has none.
        LocalDiskError: the file can't be read.
    """
    with disk_errors(f"could not read the {what} in", path), path.open("rb") as file:
        content = file.read(_MAX_FILE)
    if mark not in content:
        raise UsageError(f"there is no {what} in {path}; it must be PEM, as openssl writes it{advice}")
