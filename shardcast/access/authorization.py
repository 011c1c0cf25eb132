"""Authorization: from the headers of a request to the token behind its permission, or to the refusal."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from enum import Enum

from shardcast.access.scopes import Scope
from shardcast.access.tokens import Token, digest_of, split_token

_NO_DIGEST = digest_of("")
"""Compared with where no token has the id, so an unknown id takes as long as a wrong secret."""


class Refusal(Enum):
    """A reason to refuse a request; the value is a sentence for its sender."""

    MISSING = "this server asks for a token, and none came"
    MALFORMED = "the Authorization header is not one `Bearer shardcast_…`"
    WRONG = "this server does not know the token"
    EXPIRED = "the token has expired"
    LACKS_SCOPE = "the token does not have the scope"

    @property
    def status(self) -> int:
        """Status of the answer: 403 for a valid token without this permission, else 401."""
        return 403 if self is Refusal.LACKS_SCOPE else 401


def bearer_of(headers: Sequence[str]) -> str | Refusal:
    """Return the bearer's credentials from the values of the ``Authorization`` headers, or the refusal.

    The refusal is ``MISSING`` without a header, and ``MALFORMED`` for another scheme or several headers: two
    readers of one request could each take another one.
    """
    if not headers:
        return Refusal.MISSING
    scheme, _, credentials = headers[0].strip().partition(" ")
    if len(headers) > 1 or scheme.lower() != "bearer":
        return Refusal.MALFORMED
    return credentials.strip()


def authorize(
    headers: Sequence[str], tokens: Mapping[str, Token], scope: Scope, now: float
) -> Token | Refusal:
    """Return the token with the permission for a request, or the refusal.

    Args:
        headers: the values of the ``Authorization`` headers.
        tokens: the server's tokens, by id.
        scope: the scope required by the route.
        now: seconds since 1970.
    """
    bearer = bearer_of(headers)
    if isinstance(bearer, Refusal):
        return bearer
    parts = split_token(bearer)
    if parts is None:
        return Refusal.MALFORMED
    token_id, secret = parts
    token = tokens.get(token_id)
    right = hmac.compare_digest(digest_of(secret), token.digest if token else _NO_DIGEST)
    if token is None or not right:
        return Refusal.WRONG
    if token.expired(now):
        return Refusal.EXPIRED
    return token if scope in token.scopes else Refusal.LACKS_SCOPE


def still_allows(token: Token, tokens: Mapping[str, Token], scope: Scope, now: float) -> bool:
    """Return whether the token behind an open answer would still allow the request."""
    known = tokens.get(token.id)
    if known is None or known.digest != token.digest:
        return False
    return scope in known.scopes and not known.expired(now)
