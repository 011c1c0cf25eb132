"""Answers to announcements: a ticket, the servers' keys, and other members of the same version.

::

    {"ticket": "…", "keys_id": "3c1f…", "keys": [{"key": "…", "now": 1764367200.0, "age": 0.0}],
     "neighbours": [{"node": "c2d0…", "key": "…", "host": "10.0.0.7", "port": 41234, "site": "rack7",
     "certificate": null}], "members": 812,
     "reachable": true, "host": "10.0.0.5", "port": 40001, "site": "rack7", "announce_again": 3.0}
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from shardcast.protocol.swarm_members import (
    MAX_KEYS,
    MAX_RELAYED,
    NamedMember,
    Place,
    RelayedMember,
    ServerKey,
    SwarmError,
    optional,
    read_host,
    read_id,
    read_list,
    read_message,
    read_port,
    read_seconds,
    read_site,
)

MAX_ANSWER = 128 << 10
"""Bytes of an answer to an announcement."""
MAX_NEIGHBOURS = 50
"""Maximum members named in an answer."""
_MAX_TICKET = 1024
_MAX_MEMBERS = 10**9
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.05, 60.0
"""Seconds until the next announcement, at least and at most."""


@dataclass(frozen=True, slots=True)
class AnnouncementAnswer:
    """The answer of a server to an announcement.

    Attributes:
        ticket: the member's ticket.
        announce_again: seconds until the member announces itself again.
        keys: the keys of the servers whose tickets are valid; None where the member knows them all.
        keys_id: the name of these keys, repeated in the member's later announcements.
        neighbours: other members.
        members: members of the version known to the server.
        reachable: whether the server reached the member; None while the server does not know.
        place: the member's address as told to others; None for none.
        site: the member's site in the view of the server; None for none.
        relayed: members of other servers, for a member with the role of a server.
    """

    ticket: str
    announce_again: float
    keys: tuple[ServerKey, ...] | None = None
    neighbours: tuple[NamedMember, ...] = ()
    members: int = 0
    reachable: bool | None = None
    place: Place | None = None
    site: str | None = None
    relayed: tuple[RelayedMember, ...] = ()
    keys_id: str | None = None

    def encode(self) -> bytes:
        """Return the answer on the wire."""
        values: dict[str, Any] = {
            "ticket": self.ticket,
            "announce_again": round(self.announce_again, 2),
            "neighbours": [member.as_dict() for member in self.neighbours],
            "members": self.members,
            "reachable": self.reachable,
            "host": self.place.host if self.place else None,
            "port": self.place.port if self.place else None,
            "site": self.site,
        }
        if self.keys is not None:
            values["keys"] = [key.as_dict() for key in self.keys]
            values["keys_id"] = self.keys_id
        if self.relayed:
            values["relayed"] = [member.as_dict() for member in self.relayed]
        return json.dumps(values).encode()

    @classmethod
    def parse(cls, raw: bytes) -> AnnouncementAnswer:
        """Return the answer in bytes, every bound checked; unknown keys are ignored.

        Raises:
            SwarmError: the bytes are no answer.
        """
        values = read_message(raw, MAX_ANSWER)
        ticket, count = values.get("ticket"), values.get("members", 0)
        reachable, host = values.get("reachable"), values.get("host")
        if not isinstance(ticket, str) or not ticket.isascii() or not 0 < len(ticket) <= _MAX_TICKET:
            raise SwarmError("a malformed ticket")
        if type(count) is not int or not 0 <= count <= _MAX_MEMBERS:
            raise SwarmError("a malformed number of members")
        if reachable is not None and not isinstance(reachable, bool):
            raise SwarmError("reachable that is neither true, false nor null")
        keys = values.get("keys")
        return cls(
            ticket,
            read_seconds(values.get("announce_again"), _SHORTEST_PAUSE, _LONGEST_PAUSE),
            None if keys is None else read_list(keys, ServerKey.parse, MAX_KEYS, "keys"),
            read_list(values.get("neighbours", []), NamedMember.parse, MAX_NEIGHBOURS, "neighbours"),
            count,
            reachable,
            None if host is None else Place(read_host(host), read_port(values.get("port"))),
            optional(read_site, values.get("site")),
            read_list(values.get("relayed", []), RelayedMember.parse, MAX_RELAYED, "relayed members"),
            optional(read_id, values.get("keys_id")),
        )
