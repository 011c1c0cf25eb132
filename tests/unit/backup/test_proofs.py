"""Proofs of possession: of these bytes, and for one run."""

from __future__ import annotations

from blake3 import blake3

from shardcast.backup.proofs import PROOF_SIZE, proof_key, prove


def test_proof_is_of_the_bytes_and_the_run() -> None:
    key = proof_key("a" * 32)
    proof = prove(key, b"bytes")
    assert len(proof) == PROOF_SIZE and prove(proof_key("a" * 32), memoryview(b"bytes")) == proof
    assert proof not in (prove(key, b"Bytes"), prove(key, b""), prove(proof_key("b" * 32), b"bytes"))


def test_proof_is_what_the_protocol_says() -> None:
    key = blake3(
        b"00112233445566778899aabbccddeeff",
        derive_key_context="shardcast 2026-11-29 backup proof of possession",
    ).digest()
    expected = blake3(b"bytes", key=key).digest()
    assert prove(proof_key("00112233445566778899aabbccddeeff"), b"bytes") == expected
