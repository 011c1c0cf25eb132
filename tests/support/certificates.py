"""Certificates for tests: a private CA, and what it signs, in files."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

from shardcast.access.client_access import ClientAccess
from shardcast.access.server_access import ServerAccess
from shardcast.access.tls import ClientTls, ServerTls

NAMES = ("localhost", "127.0.0.1", "::1")
"""The names of servers on this machine."""


class Certificates:
    """A CA and the certificates that it signs, each in a file below a folder.

    Attributes:
        ca: the file with the CA's certificate.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.ca))

    def issue(
        self,
        *names: str,
        file: str = "server.pem",
        common_name: str | None = None,
        days: tuple[float, float] = (-1, 30),
    ) -> Path:
        """Write a certificate and its key into a file; ``days``: from and until when, counted from now."""
        now = datetime.now(UTC)
        begins, ends = (now + timedelta(days=day) for day in days)
        issued = self._authority.issue_cert(
            *(names or NAMES), common_name=common_name, not_before=begins, not_after=ends
        )
        path, part = self._folder / file, self._folder / f"{file}.part"
        issued.private_key_and_cert_chain_pem.write_to_path(str(part))
        part.replace(path)
        return path

    def server(self, *, mutual: bool = False) -> ServerAccess:
        """Return the access of a listener with a good certificate."""
        return ServerAccess(tls=ServerTls(self.issue(), client_ca=self.ca if mutual else None))

    def client(self, certificate: Path | None = None) -> ClientAccess:
        """Return the access of a client that trusts the CA."""
        return ClientAccess(tls=ClientTls(self.ca, certificate))
