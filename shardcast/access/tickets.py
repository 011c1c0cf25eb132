"""Tickets: a server's word that the holder of a key may have a version.

A ticket is two parts of base64url with a dot between them, a JSON object and its Ed25519 signature::

    {"version": 3, "origin": "ce0d…", "digest": "9f86…", "node": "81ab…", "key": "<base64url>",
     "site": "rack7", "expires": 1764367200, "signer": "3c1f…"}

A ticket carries no secret: its bearer proves to have the key in it (``proofs``).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Any, Protocol

from shardcast.access.signing import KEY_SIZE, SIGNATURE_SIZE, SigningKey, is_signed
from shardcast.json_text import parse_json

MAX_TICKET = 1024
"""Characters of a ticket."""
TICKET_SECONDS = 300.0
"""Seconds of a ticket's validity: for so long a member without rights any more stays one at its neighbours.
"""

_PURPOSE = b"shardcast ticket 1\0"
"""Prefix of the signed text, so no other signature of the same key passes for a ticket's."""
_ID = re.compile(r"[A-Za-z0-9]{1,64}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}", re.ASCII)
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_MAX_NUMBER = 10**18


class TicketRefused(ValueError):
    """A ticket that does not admit its holder."""


@dataclass(frozen=True, slots=True)
class TicketVersion:
    """The version of a ticket.

    Attributes:
        number: such as 3 for ``v3``.
        origin: the origin id; None while unknown.
        digest: SHA-256 of the payload in hex; None while the version is open.
    """

    number: int
    origin: str | None = None
    digest: str | None = None

    def is_same(self, other: TicketVersion) -> bool:
        """Return whether both are one version, as far as both are known; a number alone is not enough."""
        pairs = [(self.origin, other.origin), (self.digest, other.digest)]
        known = [(mine, theirs) for mine, theirs in pairs if mine is not None and theirs is not None]
        return self.number == other.number and bool(known) and all(mine == theirs for mine, theirs in known)


@dataclass(frozen=True, slots=True)
class Ticket:
    """The facts in a ticket.

    Attributes:
        version: the version allowed to the holder.
        node: the generation id of the holder.
        key: the public key of the holder.
        expires: the first second after the validity, since 1970, by the signer's clock.
        signer: the id of the signing key.
        site: the site of the holder; None where the server knows none.
    """

    version: TicketVersion
    node: str
    key: bytes
    expires: float
    signer: str
    site: str | None = None


class Vouchers(Protocol):
    """The servers whose tickets count."""

    def public_key(self, signer: str) -> bytes | None:
        """Return the public key of a server by the key's id; None for an unknown server."""

    def now(self, signer: str) -> float:
        """Return the time of a known server's clock by its key's id, in seconds since 1970."""


def sign_ticket(
    version: TicketVersion,
    node: str,
    key: bytes,
    *,
    expires: float,
    signer: SigningKey,
    site: str | None = None,
) -> str:
    """Return a ticket.

    Args:
        version: the version allowed to the holder.
        node: the generation id of the holder.
        key: the public key of the holder.
        expires: the first second after the validity, since 1970.
        signer: the server's key.
        site: the site of the holder, by which neighbours know the border between them.
    """
    values = {
        "version": version.number,
        "origin": version.origin,
        "digest": version.digest,
        "node": node,
        "key": _encode(key),
        "expires": int(expires),
        "signer": signer.id,
    }
    if site is not None:
        values["site"] = site
    text = _encode(json.dumps(values, separators=(",", ":")).encode())
    return f"{text}.{_encode(signer.sign(_PURPOSE + text.encode()))}"


def check_ticket(text: str, version: TicketVersion, vouchers: Vouchers) -> Ticket:
    """Return the facts in a ticket, once known to be a known server's, for this version, and valid now.

    The caller has yet to find out whether the bearer has the ticket's key (``proofs``).

    Raises:
        TicketRefused: the ticket lets nobody in; the text says why.
        UsageError: the library for keys is missing.
    """
    ticket, signed, signature = _parse(text)
    public = vouchers.public_key(ticket.signer)
    if public is None:
        raise TicketRefused("a server that is not known here signed the ticket")
    if not is_signed(_PURPOSE + signed, signature, public):
        raise TicketRefused("the ticket's signature is wrong")
    if not ticket.version.is_same(version):
        raise TicketRefused("the ticket is for another version")
    if vouchers.now(ticket.signer) >= ticket.expires:
        raise TicketRefused("the ticket has expired")
    return ticket


def signer_of(text: str) -> str | None:
    """Return the id of a ticket's signing key, unverified; None for a text that is no ticket."""
    try:
        return _parse(text)[0].signer
    except TicketRefused:
        return None


def _parse(text: str) -> tuple[Ticket, bytes, bytes]:
    """Return the facts in a ticket, unverified, the signed bytes, and the signature.

    Raises:
        TicketRefused: the text is no ticket.
    """
    if len(text) > MAX_TICKET:
        raise TicketRefused(f"the ticket has more than {MAX_TICKET} characters")
    signed, dot, signature = text.partition(".")
    try:
        values = parse_json(_decode(signed))
        if not dot or not isinstance(values, dict):
            raise ValueError("no ticket")
        ticket = _read(values)
        return ticket, signed.encode("ascii"), _sized(_decode(signature), SIGNATURE_SIZE)
    except ValueError:
        raise TicketRefused("the ticket is malformed") from None


def _read(values: dict[str, Any]) -> Ticket:
    """Return the ticket in a JSON object; unknown keys are ignored.

    Raises:
        ValueError: a value is malformed.
    """
    number, expires, key = values.get("version"), values.get("expires"), values.get("key")
    if type(number) is not int or not 0 < number < _MAX_NUMBER:
        raise ValueError("no version")
    if type(expires) is not int or not 0 < expires < 1 << 40:
        raise ValueError("no expiry")
    if not isinstance(key, str):
        raise ValueError("no key")
    origin, digest = values.get("origin"), values.get("digest")
    return Ticket(
        TicketVersion(
            number,
            None if origin is None else _matching(_ID, origin),
            None if digest is None else _matching(_DIGEST, digest),
        ),
        _matching(_ID, values.get("node")),
        _sized(_decode(key), KEY_SIZE),
        float(expires),
        _matching(_ID, values.get("signer")),
        None if values.get("site") is None else _matching(_SITE, values["site"]),
    )


def _matching(pattern: re.Pattern[str], value: object) -> str:
    """Return a text, if matched by a pattern.

    Raises:
        ValueError: the value is another.
    """
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError("malformed")
    return value


def _sized(data: bytes, size: int) -> bytes:
    """Return bytes of a certain number.

    Raises:
        ValueError: there are more or fewer.
    """
    if len(data) != size:
        raise ValueError("malformed")
    return data


def _encode(data: bytes) -> str:
    """Return bytes as base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    """Return the bytes of base64url without padding.

    Raises:
        ValueError: the text is something else.
    """
    if not _BASE64URL.fullmatch(text):
        raise ValueError("malformed")
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise ValueError("malformed") from None
