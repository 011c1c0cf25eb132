"""Members of a swarm on the wire, and the checks of the fields shared by announcements and answers."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, TypeVar

from shardcast.digest import is_digest
from shardcast.json_text import parse_json
from shardcast.protocol.wire import is_id, is_site

MAX_RATE = 1 << 50
"""Maximum claimed upload rate of a member, in bytes a second."""
MAX_KEYS = 128
"""Keys of servers in a message."""
MAX_RELAYED = 200
"""Maximum members in a message between servers."""
MAX_AGE = 300.0
"""Maximum seconds since a member's announcement, or since the news of a server's key, in a message between
servers."""
KEY_SIZE, SIGNATURE_SIZE = 32, 64
"""Bytes of a public key, and of a signature."""

_MAX_BRACKETS = 2 * (MAX_KEYS + MAX_RELAYED) + 100
"""Lists and objects in a message."""
_LAST_SECOND = float(1 << 40)
"""Seconds since 1970 beyond any server's clock."""
_MAX_HOST = 64
_NONCE = re.compile(r"[0-9a-f]{32}", re.ASCII)

T = TypeVar("T")


class SwarmError(ValueError):
    """Bytes that are no message of a swarm, or a message beyond its bounds."""


@dataclass(frozen=True, slots=True)
class Place:
    """A listening address of a member.

    Attributes:
        host: an IP address.
        port: a port.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class NamedMember:
    """A reachable member, as named to another member by a server.

    Attributes:
        node: generation id.
        key: public key.
        place: listening address.
        site: site; None for none.
        certificate: SHA-256 of the certificate in hex; None for plain HTTP.
    """

    node: str
    key: bytes
    place: Place
    site: str | None = None
    certificate: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object on the wire."""
        return {
            "node": self.node,
            "key": key_text(self.key),
            "host": self.place.host,
            "port": self.place.port,
            "site": self.site,
            "certificate": self.certificate,
        }

    @classmethod
    def parse(cls, value: object) -> NamedMember:
        """Return the member in a JSON object; unknown keys are ignored.

        Raises:
            SwarmError: the object is no member.
        """
        values = read_object(value, "a member")
        host = read_host(values.get("host"))
        return cls(
            read_id(values.get("node")),
            read_key(values.get("key")),
            Place(host, read_port(values.get("port"))),
            optional(read_site, values.get("site")),
            optional(read_digest, values.get("certificate")),
        )


@dataclass(frozen=True, slots=True)
class RelayedMember:
    """A member of one server, as told to another server of the same origin.

    Attributes:
        member: the member.
        age: seconds since its announcement.
        rate: claimed upload rate, in bytes a second.
        nonce: nonce of the last announcement, for a check of the place; None where the teller is an upstream,
            whose check counts.
    """

    member: NamedMember
    age: float
    rate: int = 0
    nonce: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object on the wire."""
        relayed = {"age": round(self.age, 1), "rate": self.rate, "nonce": self.nonce}
        return self.member.as_dict() | relayed

    @classmethod
    def parse(cls, value: object) -> RelayedMember:
        """Return the member in a JSON object; unknown keys are ignored.

        Raises:
            SwarmError: the object is no member.
        """
        values = read_object(value, "a member")
        return cls(
            NamedMember.parse(values),
            read_seconds(values.get("age"), 0, MAX_AGE),
            read_rate(values.get("rate", 0)),
            optional(read_nonce, values.get("nonce")),
        )


@dataclass(frozen=True, slots=True)
class ServerKey:
    """The key behind a server's tickets, as told between servers.

    Attributes:
        key: the public key.
        now: the time of the server's clock, in seconds since 1970.
        age: seconds since the server told the key.
    """

    key: bytes
    now: float
    age: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object on the wire."""
        return {"key": key_text(self.key), "now": round(self.now, 1), "age": round(self.age, 1)}

    @classmethod
    def parse(cls, value: object) -> ServerKey:
        """Return the key in a JSON object; unknown keys are ignored.

        Raises:
            SwarmError: the object is no key.
        """
        values = read_object(value, "a key")
        return cls(
            read_key(values.get("key")),
            read_seconds(values.get("now"), 0, _LAST_SECOND),
            read_seconds(values.get("age", 0), 0, MAX_AGE),
        )


def read_message(raw: bytes, max_bytes: int) -> Mapping[str, Any]:
    """Return the JSON object of a message.

    Raises:
        SwarmError: the bytes are none, or too many.
    """
    if len(raw) > max_bytes:
        raise SwarmError(f"more than {max_bytes} bytes")
    if raw.count(b"[") + raw.count(b"{") > _MAX_BRACKETS:
        raise SwarmError("too many lists and objects")
    try:
        value = parse_json(raw)
    except ValueError:
        raise SwarmError("no JSON") from None
    return read_object(value, "a message")


def read_object(value: object, what: str) -> Mapping[str, Any]:
    """Return a JSON object.

    Raises:
        SwarmError: the value is something else; ``what`` names it.
    """
    if not isinstance(value, dict):
        raise SwarmError(f"{what} that is no JSON object")
    return value


def read_list(value: object, read: Callable[[object], T], max_items: int, what: str) -> tuple[T, ...]:
    """Return the items of a JSON list.

    Raises:
        SwarmError: the value is no list, is too long, or has an item refused by ``read``.
    """
    if not isinstance(value, list) or len(value) > max_items:
        raise SwarmError(f"{what} that are no list, or too many")
    return tuple(map(read, value))


def optional(read: Callable[[object], T], value: object) -> T | None:
    """Return the result of ``read`` for a value, or raise its error; None for None."""
    return None if value is None else read(value)


def read_id(value: object) -> str:
    """Return the id of a node, an origin, or a set of keys.

    Raises:
        SwarmError: the value is no id.
    """
    if not is_id(value):
        raise SwarmError("a malformed id")
    return value


def read_digest(value: object) -> str:
    """Return a SHA-256 in hex.

    Raises:
        SwarmError: the value is none.
    """
    if not isinstance(value, str) or not is_digest(value):
        raise SwarmError("a malformed digest")
    return value


def read_nonce(value: object) -> str:
    """Return a nonce or a secret: 32 hex digits.

    Raises:
        SwarmError: the value is none.
    """
    if not isinstance(value, str) or not _NONCE.fullmatch(value):
        raise SwarmError("a malformed nonce or secret")
    return value


def read_site(value: object) -> str:
    """Return a site's name: letters, digits and ``._:/-``.

    Raises:
        SwarmError: the value is none.
    """
    if not is_site(value):
        raise SwarmError("a malformed site's name")
    return value


def read_rate(value: object) -> int:
    """Return a number of bytes a second.

    Raises:
        SwarmError: the value is none.
    """
    if type(value) is not int or not 0 <= value <= MAX_RATE:
        raise SwarmError("a malformed rate")
    return value


def read_seconds(value: object, least: float, most: float) -> float:
    """Return a number of seconds.

    Raises:
        SwarmError: the value is none, or out of bounds.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise SwarmError("seconds that are none, or out of bounds")
    return float(value)


def read_port(value: object) -> int:
    """Return a port.

    Raises:
        SwarmError: the value is none.
    """
    if type(value) is not int or not 0 < value < 1 << 16:
        raise SwarmError("a malformed port")
    return value


def read_host(value: object) -> str:
    """Return an IP address in its usual text; an IPv4 address mapped into IPv6 as an IPv4 address.

    Raises:
        SwarmError: the value is a name, has a zone, or is no address.
    """
    try:
        if not isinstance(value, str) or len(value) > _MAX_HOST or "%" in value:
            raise ValueError("no address")
        return str(canonical(ip_address(value)))
    except ValueError:
        raise SwarmError("a host that is no IP address") from None


def canonical(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the IPv4 address behind a mapped IPv6 address; other addresses unchanged."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def key_text(key: bytes) -> str:
    """Return the text of a key or a signature: base64."""
    return base64.b64encode(key).decode()


def read_key(value: object) -> bytes:
    """Return a public key.

    Raises:
        SwarmError: the value is none.
    """
    return read_bytes(value, KEY_SIZE)


def read_bytes(value: object, size: int) -> bytes:
    """Return the ``size`` bytes of a key or a signature in base64.

    Raises:
        SwarmError: the value is no base64, or has more or fewer bytes.
    """
    try:
        data = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except (ValueError, binascii.Error):
        data = b""
    if len(data) != size:
        raise SwarmError("a malformed key or signature")
    return data
