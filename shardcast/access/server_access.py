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
    """The right to send requests to a listener, and over which lines; by default everybody's, in plain HTTP.

    Attributes:
        tokens: the valid tokens; None where no route requires one.
        wall_clock: seconds since 1970, for the expiry of tokens.
        tls: the listener's certificates; None for plain HTTP.
    """

    tokens: TokenFile | None = None
    wall_clock: Callable[[], float] = time.time
    tls: ServerTls | OwnCertificate | None = None

    @property
    def is_open(self) -> bool:
        """Whether everybody within reach may send requests."""
        return self.tokens is None and not (self.tls and self.tls.client_ca)
