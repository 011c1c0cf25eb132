"""The access of a node to the servers above it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from shardcast.access.credentials import Credentials, CredentialsFile
from shardcast.access.secret import Secret, bearer
from shardcast.access.tls import ClientTls
from shardcast.constants import ENVIRONMENT_PREFIX
from shardcast.errors import UsageError

TOKEN_VARIABLE = f"{ENVIRONMENT_PREFIX}TOKEN"
"""The environment variable with the tokens themselves."""
TOKEN_FILE_VARIABLE = f"{ENVIRONMENT_PREFIX}TOKEN_FILE"
"""The environment variable with the path of a token file; goes before ``TOKEN_VARIABLE``."""
REQUIRE_TLS_VARIABLE = f"{ENVIRONMENT_PREFIX}REQUIRE_TLS"
"""The environment variable for https servers only."""
_TRUE = frozenset({"1", "true", "yes", "on", "y", "t"})


@dataclass(frozen=True)
class ClientAccess:
    """The tokens and certificates a node shows to servers, and its demands on them; by default none.

    Attributes:
        credentials: the tokens for the servers; None for no tokens.
        require_tls: whether requests go to https servers only.
        tls: the trusted CAs, and the node's own certificate, for servers with an ``https://`` URL.
    """

    credentials: Credentials | None = None
    require_tls: bool = False
    tls: ClientTls = field(default_factory=ClientTls)

    @classmethod
    def from_environment(
        cls, credentials: Credentials | None = None, tls: ClientTls | None = None
    ) -> ClientAccess:
        """Return the access of this process: the given parts, and those of the environment variables.

        ``SHARDCAST_REQUIRE_TLS`` allows https servers only.

        Args:
            credentials: the tokens; None for those of ``SHARDCAST_TOKEN_FILE`` or ``SHARDCAST_TOKEN``.
            tls: the certificate files; None for the CAs of the system, and no certificate.

        Raises:
            UsageError: a token is malformed. The error does not show the token.
            LocalDiskError: the token file can't be read.
        """
        file = os.environ.get(TOKEN_FILE_VARIABLE)
        return cls(
            credentials=credentials or load_credentials(Path(file) if file else None),
            require_tls=os.environ.get(REQUIRE_TLS_VARIABLE, "").strip().lower() in _TRUE,
            tls=tls or ClientTls(),
        )

    def check_server(self, url: str) -> None:
        """Check that requests may go to a server.

        Raises:
            UsageError: the server is not https, and TLS is required.
        """
        if self.require_tls and not url.lower().startswith("https://"):
            raise UsageError(
                f"{url} is no https server, and --require-tls (SHARDCAST_REQUIRE_TLS) allows no other; "
                "write https://…, or leave the option out"
            )

    def check_servers(self, urls: Iterable[str]) -> None:
        """Check that requests may go to several servers.

        Raises:
            UsageError: one of them is not https, and TLS is required.
        """
        for url in urls:
            self.check_server(url)

    def headers_for(self, url: str, proxy: str | None = None) -> dict[str, str]:
        """Return the headers with this node's token for a server; none where there is no token for it.

        A proxy would read the token of a plain request, and was not named as a server: no token goes through
        a proxy, unless the request is encrypted.

        Args:
            url: the server's base URL.
            proxy: the proxy of the request; None for none.

        Raises:
            UsageError: the server is not https, and TLS is required.
        """
        self.check_server(url)
        if self.credentials is None or (proxy and not url.startswith("https://")):
            return {}
        token = self.credentials.token_for(url)
        return bearer(token) if token else {}


def token_environment(token: Secret) -> dict[str, Secret]:
    """Return the environment variables for a child process with this token, and no other.

    Raises:
        UsageError: the token is malformed. The error does not show the token.
    """
    Credentials.from_text(token, "the token")
    return {TOKEN_VARIABLE: token, TOKEN_FILE_VARIABLE: Secret("")}


def load_credentials(file: Path | None, variable: str = TOKEN_VARIABLE) -> Credentials | None:
    """Return the credentials of a file, else of an environment variable; None without either.

    Args:
        file: a file with tokens.
        variable: the environment variable with tokens.

    Raises:
        UsageError: the tokens are malformed. The error does not show them.
        LocalDiskError: the file can't be read.
    """
    if file is not None:
        return CredentialsFile(file)
    found = Secret(os.environ.get(variable, "").strip())
    return Credentials.from_text(found, variable) if found else None
