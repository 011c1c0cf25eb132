"""Proofs between neighbours: each end of a connection proves to have the key of its ticket.

Both ends send a fresh challenge, and each signs both challenges, both keys and the certificate of the
connection. So a proof is worth nothing on another connection, to another neighbour, or to its own sender.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from enum import Enum

from shardcast.access.signing import SIGNATURE_SIZE, SigningKey, is_signed

CHALLENGE_SIZE = 32
"""Bytes of a challenge."""
_PURPOSE = b"shardcast proof 1\0"
_ANNOUNCING = b"shardcast announcement 1\0"
_ASKING = b"shardcast next 1\0"
"""Prefix of the signed bytes, so no signature passes for another kind."""
_ASKING_DIGITS = 32


class End(Enum):
    """An end of a connection between neighbours."""

    OPENER = b"opener"
    """The connecting end."""
    ACCEPTOR = b"acceptor"
    """The accepting end."""


def new_challenge() -> bytes:
    """Return a fresh challenge."""
    return secrets.token_bytes(CHALLENGE_SIZE)


@dataclass(frozen=True, slots=True)
class ProofContext:
    """The facts about a connection signed by both ends.

    Attributes:
        opener_key: the public key of the opener's ticket.
        acceptor_key: the public key of the acceptor's ticket.
        opener_challenge: the opener's challenge.
        acceptor_challenge: the acceptor's challenge.
        certificate: SHA-256 of the acceptor's certificate; empty for a connection without TLS.
    """

    opener_key: bytes
    acceptor_key: bytes
    opener_challenge: bytes
    acceptor_challenge: bytes
    certificate: bytes = b""

    def signed_by(self, end: End) -> bytes:
        """Return the message for an end to sign; each field has its length before it."""
        fields = (
            end.value,
            self.opener_key,
            self.acceptor_key,
            self.opener_challenge,
            self.acceptor_challenge,
            self.certificate,
        )
        return _PURPOSE + b"".join(len(field).to_bytes(2) + field for field in fields)


def prove(context: ProofContext, end: End, key: SigningKey) -> bytes:
    """Return the proof of this end's key; ``end`` is this end."""
    return key.sign(context.signed_by(end))


def is_proof(context: ProofContext, end: End, proof: bytes) -> bool:
    """Return whether a proof shows the other end, ``end``, to have the key of its ticket.

    Raises:
        UsageError: the library for keys is missing.
    """
    public = context.opener_key if end is End.OPENER else context.acceptor_key
    return len(proof) == SIGNATURE_SIZE and is_signed(context.signed_by(end), proof, public)


def prove_to_server(key: SigningKey, node: str, secret: str) -> bytes:
    """Return the proof of a node's key for its announcements."""
    return key.sign(_ANNOUNCING + f"{node} {secret}".encode())


def is_proof_to_server(public: bytes, node: str, secret: str, proof: bytes) -> bool:
    """Return whether an announcement's proof shows its node to have its key.

    Raises:
        UsageError: the library for keys is missing.
    """
    return is_signed(_ANNOUNCING + f"{node} {secret}".encode(), proof, public)


def prove_asking(node: str, secret: str) -> str:
    """Return the proof in a node's requests for ranges, known only to servers with its announcement.

    A signature would cost more than the rest of such a request.
    """
    return hashlib.sha256(_ASKING + f"{node} {secret}".encode()).hexdigest()[:_ASKING_DIGITS]
