"""Challenges of servers in ``WWW-Authenticate`` (RFC 6750, RFC 9110): the wanted token."""

from __future__ import annotations

import re
from dataclasses import dataclass

CHALLENGE_HEADER = "WWW-Authenticate"
"""The header of a challenge."""
_MAX_LENGTH = 2000
"""Maximum characters read from the header."""
_MAX_SCOPES = 8
"""Maximum scopes kept of a challenge."""
_SCOPE = re.compile(r"[a-z](?:[a-z0-9-]{0,30}[a-z0-9])?", re.ASCII)
_ITEM = re.compile(
    r"[\s,=/]*(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+)"
    r"(?:\s*=\s*(?:\"(?P<quoted>(?:[^\"\\]|\\.)*)\"|(?P<plain>[^\s,\"=]+)))?",
    re.ASCII | re.DOTALL,
)

INVALID_TOKEN = "invalid_token"
"""The token is unknown, expired or revoked."""
INSUFFICIENT_SCOPE = "insufficient_scope"
"""The token is known, and lacks a scope."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """The wish of a server for a bearer token.

    Attributes:
        error: reason of the denial, a word of RFC 6750; empty where the server saw no token.
        scopes: the scopes needed; empty where the server names none.
    """

    error: str = ""
    scopes: tuple[str, ...] = ()


def parse_challenge(header: str) -> Challenge | None:
    """Return the challenge of the scheme Bearer in a header; None where there is none.

    The header is a server's: everything but names of scopes and errors is left out.
    """
    header, position, found = header[:_MAX_LENGTH], 0, False
    parameters: dict[str, str] = {}
    while item := _ITEM.match(header, position):
        position = item.end()
        name, value = item["name"].lower(), item["quoted"] if item["quoted"] is not None else item["plain"]
        if value is None:  # the name of a scheme
            if found:
                break
            found = name == "bearer"
        elif found:
            parameters.setdefault(name, value)
    if not found:
        return None
    error = parameters.get("error", "")
    scopes = [word for word in parameters.get("scope", "").split() if _SCOPE.fullmatch(word)]
    known = error if error in (INVALID_TOKEN, INSUFFICIENT_SCOPE) else ""
    return Challenge(known, tuple(dict.fromkeys(scopes))[:_MAX_SCOPES])
