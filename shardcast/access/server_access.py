"""The access rules of a listener."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from shardcast.access.own_certificate import OwnCertificate
from shardcast.access.tls import ServerTls
from shardcast.access.token_file import TokenFile


@dataclass(frozen=True)
class ServerAccess:
    """Who may send requests to a listener, and over which lines; by default everybody, in plain HTTP.

    Attributes:
        tokens: the tokens of which each route requires one; None where no route does.
        wall_clock: seconds since 1970, by which tokens expire.
        tls: its certificates; None for plain HTTP.
    """

    tokens: TokenFile | None = None
    wall_clock: Callable[[], float] = time.time
    tls: ServerTls | OwnCertificate | None = None

    @property
    def is_open(self) -> bool:
        """Whether everybody who reaches the listener may send requests."""
        return self.tokens is None and not (self.tls and self.tls.client_ca)
