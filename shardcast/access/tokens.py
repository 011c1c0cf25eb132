"""Tokens: the text shown by a client, and the line by which a server knows the token.

A token is ``shardcast_<id>_<secret>``: 8 hex digits, and 32 random bytes as 43 characters of base64url. The
server's file has a line for each::

    gpu-fleet read,report 2027-02-26T17:00:00Z 1f3a9c0e:<SHA-256 of the secret, hex>

The secret is random, so its plain SHA-256 tells nobody anything: a slow digest would only cost time.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from shardcast.access.scopes import Scope
from shardcast.errors import UsageError

NEVER = "never"
"""The expiry of a token without one."""

_TOKEN = re.compile(r"shardcast_([0-9a-f]{8})_([A-Za-z0-9_-]{43})", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", re.ASCII)
_WORD = re.compile(r"[a-z-]{1,20}", re.ASCII)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}(:[0-9]{2})?Z)?", re.ASCII)
_KEY = re.compile(r"([0-9a-f]{8}):([0-9a-f]{64})", re.ASCII)
_SECRET_BYTES = 32


@dataclass(frozen=True)
class Token:
    """A token in the view of a server.

    Attributes:
        id: 8 hex digits, to find the token among others.
        name: people's name for its bearers; in logs and ``/status``.
        scopes: the permissions.
        expires: the first second after the validity, since 1970; None for a token without expiry.
        digest: SHA-256 of the secret.
    """

    id: str
    name: str
    scopes: frozenset[Scope]
    expires: float | None
    digest: bytes = field(repr=False)

    def expired(self, now: float) -> bool:
        """Return whether the token is no longer valid."""
        return self.expires is not None and now >= self.expires

    @property
    def line(self) -> str:
        """The token's line in the file of a server, without a newline."""
        scopes = ",".join(scope for scope in Scope if scope in self.scopes)
        return f"{self.name} {scopes} {format_expiry(self.expires)} {self.id}:{self.digest.hex()}"


@dataclass(frozen=True)
class NewToken:
    """A new token: the text, kept nowhere, and the record for a server."""

    text: str = field(repr=False)
    token: Token


def make_token(scopes: Iterable[Scope], name: str = "", expires: float | None = None) -> NewToken:
    """Return a new token.

    Args:
        scopes: the permissions.
        name: people's name for its bearers; empty for ``token-<id>``.
        expires: the first second after the validity, since 1970; None for never.

    Raises:
        UsageError: no scope is named, or the name does not fit the file.
    """
    token_id, secret = make_secret()
    allowed = frozenset(scopes)
    if not allowed:
        raise UsageError(f"a token without a scope allows nothing; the scopes are {_SCOPES}")
    if name:
        check_name(name)
    token = Token(token_id, name or f"token-{token_id}", allowed, expires, digest_of(secret))
    return NewToken(join_token(token_id, secret), token)


def make_secret() -> tuple[str, str]:
    """Return the id and the secret of a new token."""
    secret = base64.urlsafe_b64encode(secrets.token_bytes(_SECRET_BYTES)).rstrip(b"=").decode()
    return secrets.token_hex(4), secret


def join_token(token_id: str, secret: str) -> str:
    """Return the text of a token; see ``split_token``."""
    return f"shardcast_{token_id}_{secret}"


def split_token(text: str) -> tuple[str, str] | None:
    """Return the id and the secret of a token; None for text that is no token."""
    match = _TOKEN.fullmatch(text)
    return (match[1], match[2]) if match else None


def digest_of(secret: str) -> bytes:
    """Return the SHA-256 of a token's secret."""
    return hashlib.sha256(secret.encode()).digest()


def parse_tokens(text: str) -> Mapping[str, Token]:
    """Return the tokens in the text of a server's file, by id.

    Raises:
        UsageError: a line is no token; the message names the line, and quotes no secret.
    """
    tokens: dict[str, Token] = {}
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            token = _parse_line(line, words)
            if token.id in tokens:
                raise UsageError(f"the id {token.id} is in an earlier line already")
        except UsageError as error:
            raise UsageError(f"line {number}: {error}") from None
        tokens[token.id] = token
    return tokens


def _parse_line(line: str, words: list[str]) -> Token:
    """Return the token of a line.

    Raises:
        UsageError: the line is no token.
    """
    if _TOKEN.search(line):
        raise UsageError(
            "a token itself is here; the file takes only the line that `shardcast token new` prints"
        )
    if len(words) != 4:
        raise UsageError("a line is `name scopes expiry id:sha256`; this one does not have four words")
    name, scopes, expiry, key = words
    match = _KEY.fullmatch(key)
    if not match:
        raise UsageError("the last word is not 8 hex digits, a colon, and a SHA-256 of 64 hex digits")
    return Token(
        match[1], check_name(name), parse_scopes(scopes), parse_expiry(expiry), bytes.fromhex(match[2])
    )


def check_name(name: str) -> str:
    """Return a name fit for the file.

    Raises:
        UsageError: the name does not fit, or has a token in it.
    """
    if not _NAME.fullmatch(name) or _TOKEN.search(name):
        raise UsageError(
            "a token's name is 1 to 64 of A-Z a-z 0-9 . _ @ -, starts with a letter or digit, and has no "
            "token in it"
        )
    return name


def parse_scopes(text: str) -> frozenset[Scope]:
    """Return the scopes in a list with commas.

    Raises:
        UsageError: there is none, or an unknown one.
    """
    scopes = set()
    for word in text.split(","):
        try:
            scopes.add(Scope(word.strip()))
        except ValueError:
            quoted = f"{word.strip()!r} is no scope" if _WORD.fullmatch(word.strip()) else "no list of scopes"
            raise UsageError(f"{quoted}; the scopes are {_SCOPES}") from None
    return frozenset(scopes)


def parse_expiry(text: str) -> float | None:
    """Return the seconds since 1970 of a date or a time in UTC; None for ``never``.

    Raises:
        UsageError: it is none of these.
    """
    if text == NEVER:
        return None
    try:
        if not _DATE.fullmatch(text):
            raise ValueError("no date")
        return datetime.fromisoformat(text.removesuffix("Z")).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise UsageError("the expiry is no date: write never, 2027-02-26 or 2027-02-26T17:00:00Z") from None


def format_expiry(expires: float | None) -> str:
    """Return the text of an expiry, in whole seconds of UTC."""
    if expires is None:
        return NEVER
    return datetime.fromtimestamp(int(expires), UTC).isoformat().replace("+00:00", "Z")


_SCOPES = ", ".join(Scope)
