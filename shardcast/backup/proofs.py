"""Proofs of possession: a client shows that it has the bytes of a chunk without sending them.

The key of proofs comes from the id of the run, which the server draws at random: a proof of another run is
worthless, and so is an id without the bytes.
"""

from __future__ import annotations

from blake3 import blake3

from shardcast.digest import Buffer

PROOF_SIZE = 32
"""Bytes of a proof."""
_CONTEXT = "shardcast 2026-11-29 backup proof of possession"
"""The context of BLAKE3's key derivation: no other digest of shardcast can serve as a proof."""


def proof_key(run: str) -> bytes:
    """Return the key for proofs in a run, from the id of the run."""
    return blake3(run.encode(), derive_key_context=_CONTEXT).digest()


def prove(key: bytes, plain: Buffer) -> bytes:
    """Return the proof that a client has the plain bytes of a chunk: BLAKE3, keyed, of these bytes."""
    return blake3(plain, key=key).digest()
