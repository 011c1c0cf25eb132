"""Announcements: a node tells a server of its version, complete or under way, and the address of its pieces.

::

    POST /v3/swarm
    {"node": "81ab…", "secret": "…", "key": "…", "proof": "…", "nonce": "…", "origin": "ce0d…",
     "digest": "9f86…", "port": 41234, "advertise": null, "site": "rack7", "certificate": null, "rate": 0,
     "sharing": true, "keys": "3c1f…", "leaving": false}

The path has the version. A server announcing itself to its upstream adds ``relay``: its keys, and some of its
members.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from shardcast.protocol.swarm_members import (
    MAX_KEYS,
    MAX_RELAYED,
    SIGNATURE_SIZE,
    Place,
    RelayedMember,
    ServerKey,
    SwarmError,
    key_text,
    optional,
    read_bytes,
    read_digest,
    read_host,
    read_id,
    read_key,
    read_list,
    read_message,
    read_nonce,
    read_object,
    read_port,
    read_rate,
    read_site,
)

MAX_ANNOUNCEMENT = 128 << 10
"""Bytes of an announcement."""


@dataclass(frozen=True, slots=True)
class Relay:
    """The facts of a server, for its upstream, about the swarm below.

    Attributes:
        keys: the valid keys below, the server's own among them.
        members: some of the members below.
    """

    keys: tuple[ServerKey, ...] = ()
    members: tuple[RelayedMember, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object on the wire."""
        return {
            "keys": [key.as_dict() for key in self.keys],
            "members": [member.as_dict() for member in self.members],
        }

    @classmethod
    def parse(cls, value: object) -> Relay:
        """Return the facts in a JSON object; unknown keys are ignored.

        Raises:
            SwarmError: a bound is broken.
        """
        values = read_object(value, "a relay")
        return cls(
            read_list(values.get("keys", []), ServerKey.parse, MAX_KEYS, "keys"),
            read_list(values.get("members", []), RelayedMember.parse, MAX_RELAYED, "members"),
        )


@dataclass(frozen=True, slots=True)
class Announcement:
    """The facts of a member about itself.

    Attributes:
        node: generation id of this run of the node.
        secret: shared by the node with the servers of its announcements: nobody else can change an
            announcement, or announce the node's departure.
        key: public key.
        proof: signature over the id and the secret, as a proof of having the key.
        nonce: nonce for the node's answer to a check at ``GET /swarm/check``.
        origin: the version's origin id; None while unknown.
        digest: SHA-256 of the payload in hex; None while the version is open.
        port: listening port; None for a node without a listener.
        advertise: the address for others, where it differs from the one seen by the server.
        site: site; None to have the server guess one.
        certificate: SHA-256 of the certificate in hex; None for plain HTTP.
        rate: possible upload rate in bytes a second; 0 while unknown.
        sharing: whether the node gives its pieces to others.
        keys: the name of the keys known through this server; None for none.
        leaving: whether the node leaves.
        relay: the facts of a server; None for other nodes.
    """

    node: str
    secret: str
    key: bytes
    proof: bytes
    nonce: str
    origin: str | None = None
    digest: str | None = None
    port: int | None = None
    advertise: Place | None = None
    site: str | None = None
    certificate: str | None = None
    rate: int = 0
    sharing: bool = True
    keys: str | None = None
    leaving: bool = False
    relay: Relay | None = None

    def encode(self) -> bytes:
        """Return the announcement on the wire."""
        values: dict[str, Any] = {
            "node": self.node,
            "secret": self.secret,
            "key": key_text(self.key),
            "proof": key_text(self.proof),
            "nonce": self.nonce,
            "origin": self.origin,
            "digest": self.digest,
            "port": self.port,
            "site": self.site,
            "certificate": self.certificate,
            "rate": self.rate,
            "sharing": self.sharing,
            "keys": self.keys,
            "leaving": self.leaving,
        }
        if self.advertise:
            values["advertise"] = {"host": self.advertise.host, "port": self.advertise.port}
        if self.relay:
            values["relay"] = self.relay.as_dict()
        return json.dumps(values).encode()

    @classmethod
    def parse(cls, raw: bytes) -> Announcement:
        """Return the announcement in bytes, every bound checked; unknown keys are ignored.

        Raises:
            SwarmError: the bytes are no announcement.
        """
        values = read_message(raw, MAX_ANNOUNCEMENT)
        return cls(
            node=read_id(values.get("node")),
            secret=read_nonce(values.get("secret")),
            key=read_key(values.get("key")),
            proof=read_bytes(values.get("proof"), SIGNATURE_SIZE),
            nonce=read_nonce(values.get("nonce")),
            origin=optional(read_id, values.get("origin")),
            digest=optional(read_digest, values.get("digest")),
            port=optional(read_port, values.get("port")),
            advertise=optional(_read_place, values.get("advertise")),
            site=optional(read_site, values.get("site")),
            certificate=optional(read_digest, values.get("certificate")),
            rate=read_rate(values.get("rate", 0)),
            sharing=_read_flag(values.get("sharing", True)),
            keys=optional(read_id, values.get("keys")),
            leaving=_read_flag(values.get("leaving", False)),
            relay=optional(Relay.parse, values.get("relay")),
        )


def _read_place(value: object) -> Place:
    """Return the place in a JSON object.

    Raises:
        SwarmError: the object is no place.
    """
    values = read_object(value, "a place")
    return Place(read_host(values.get("host")), read_port(values.get("port")))


def _read_flag(value: object) -> bool:
    """Return a truth value.

    Raises:
        SwarmError: the value is none.
    """
    if not isinstance(value, bool):
        raise SwarmError("a flag that is neither true nor false")
    return value
