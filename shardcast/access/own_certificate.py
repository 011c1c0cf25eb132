"""The certificate made by a sharing client at each start; neighbours know it by its digest."""

from __future__ import annotations

import hashlib
import os
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from shardcast.access.signing import check_available
from shardcast.access.tls import listener_context
from shardcast.disk_errors import disk_errors

_VALID = timedelta(days=3650)
"""Longer than a node runs: neighbours compare the digest, and look at no date."""
_NAME = "shardcast"


class OwnCertificate:
    """A self-signed certificate with a key in this process alone (the TLS of a listener).

    Attributes:
        files: none, since nothing changes.
        client_ca: None: neighbours show tickets, not certificates.
    """

    files: tuple[Path, ...] = ()
    client_ca: Path | None = None

    def __init__(self) -> None:
        """Make a key and its certificate; blocks for some milliseconds.

        Raises:
            UsageError: the library for keys is missing.
            LocalDiskError: the temporary file for OpenSSL to read the key from can't be written.
        """
        check_available()
        der, pem = _self_signed()
        self._digest = hashlib.sha256(der).hexdigest()
        self._context = listener_context()
        folder = Path(os.environ.get("TMPDIR", "/tmp"))
        with (
            disk_errors("could not hand a key to OpenSSL through a file in", folder),
            tempfile.NamedTemporaryFile(prefix="shardcast-") as file,  # mode 0600, gone at once
        ):
            file.write(pem)
            file.flush()
            self._context.load_cert_chain(file.name)

    def load(self) -> ssl.SSLContext:
        """Return the context of a listener with this certificate."""
        return self._context

    def digest(self) -> str:
        """Return the SHA-256 of the certificate, in hex."""
        return self._digest


def _self_signed() -> tuple[bytes, bytes]:
    """Return a new certificate as DER, and its key and the certificate as PEM for OpenSSL."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _NAME)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _VALID)
        .sign(key, SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.DER), private + certificate.public_bytes(Encoding.PEM)
