"""Announcements: a node tells a server that it has or is getting a version, and where it gives it.

::

    POST /v3/swarm
    {"node": "81ab…", "secret": "…", "key": "…", "proof": "…", "nonce": "…", "origin": "ce0d…",
     "digest": "9f86…", "port": 41234, "advertise": null, "site": "rack7", "certificate": null, "rate": 0,
     "sharing": true, "keys": "3c1f…", "leaving": false}

The path has the version. A server that announces itself to its upstream adds ``relay``: its keys, and some of
its members.
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
    """What a server tells its upstream about the swarm below it.

    Attributes:
        keys: the keys whose tickets count below it, its own among them.
        members: some of the members below it.
    """

    keys: tuple[ServerKey, ...] = ()
    members: tuple[RelayedMember, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return its JSON object on the wire."""
        return {
            "keys": [key.as_dict() for key in self.keys],
            "members": [member.as_dict() for member in self.members],
        }

    @classmethod
    def parse(cls, value: object) -> Relay:
        """Return what a JSON object tells; unknown keys are ignored.

        Raises:
            SwarmError: it breaks a bound.
        """
        values = read_object(value, "a relay")
        return cls(
            read_list(values.get("keys", []), ServerKey.parse, MAX_KEYS, "keys"),
            read_list(values.get("members", []), RelayedMember.parse, MAX_RELAYED, "members"),
        )


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a member says about itself.

    Attributes:
        node: the generation id of this run of the node.
        secret: known to the node and to the servers that it announces itself to: nobody else can change what
            it announced, or announce that it leaves.
        key: its public key.
        proof: signature by which the node shows that it has the key, over its id and the secret.
        nonce: which its check at ``GET /swarm/check`` answers with.
        origin: the version's origin id; None while unknown.
        digest: SHA-256 of the payload in hex; None while the version is open.
        port: where it listens; None for a node that does not listen.
        advertise: the address by which others reach it, where it is not the one that the server sees.
        site: its site; None to have the server guess it.
        certificate: SHA-256 of its certificate in hex; None where it speaks plain HTTP.
        rate: bytes a second that it can give; 0 while unknown.
        sharing: whether it gives what it has.
        keys: the name of the keys that it knows by this server; None where it knows none.
        leaving: whether it leaves.
        relay: what a server tells; None where the node is none.
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
        SwarmError: it is none.
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
