"""The hello: the first frame of each end of a stream between neighbours, as JSON.

::

    {"version": 3, "origin": "ce0d…", "digest": "9f86…", "node": "81ab…", "ticket": "…", "challenge": "…"}
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from shardcast.protocol.swarm_members import SwarmError, optional, read_digest, read_id, read_message
from shardcast.protocol.wire import MAX_VERSION

MAX_HELLO = 16 << 10
"""Bytes of a hello."""
MAX_TICKET_TEXT = 4096
"""Characters of a ticket in a frame."""
_CHALLENGE = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class HelloFrame:
    """The first frame of each end.

    Attributes:
        version: number of the stream's version.
        origin: origin id of the version; None for unknown.
        digest: SHA-256 of the version in hex; None while open.
        node: generation id of the sender: of this run of its node.
        ticket: the sender's ticket; empty where none is needed.
        challenge: the bytes for the other end's proof to sign.
    """

    version: int
    origin: str | None
    digest: str | None
    node: str
    ticket: str = ""
    challenge: bytes = bytes(32)

    def payload(self) -> bytes:
        """Return the JSON on the wire."""
        values = {
            "version": self.version,
            "origin": self.origin,
            "digest": self.digest,
            "node": self.node,
            "ticket": self.ticket,
            "challenge": self.challenge.hex(),
        }
        return json.dumps(values, separators=(",", ":")).encode()

    @classmethod
    def parse(cls, payload: bytes) -> HelloFrame:
        """Return the hello in a payload; unknown keys are ignored.

        Raises:
            SwarmError: the payload is no hello.
        """
        values = read_message(payload, MAX_HELLO)
        number, challenge = values.get("version"), values.get("challenge")
        if type(number) is not int or not 0 < number <= MAX_VERSION:
            raise SwarmError("a hello without a version")
        if not isinstance(challenge, str) or not _CHALLENGE.fullmatch(challenge):
            raise SwarmError("a hello without a challenge")
        return cls(
            number,
            optional(read_id, values.get("origin")),
            optional(read_digest, values.get("digest")),
            read_id(values.get("node")),
            read_ticket(values.get("ticket", "")),
            bytes.fromhex(challenge),
        )


def read_ticket(value: object) -> str:
    """Return the text of a ticket, without a look inside.

    Raises:
        SwarmError: the value is no ticket.
    """
    if not isinstance(value, str) or len(value) > MAX_TICKET_TEXT or not value.isascii():
        raise SwarmError("a malformed ticket")
    return value
