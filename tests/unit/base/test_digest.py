"""Digests of payloads and shards, and of pieces."""

from __future__ import annotations

import hashlib

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from shardcast.digest import PIECE_DIGEST_SIZE, PieceDigests, is_digest, new_hasher, piece_digest, pieces_of
from tests.support.payloads import cut, patient, pieces, random_bytes


def test_hasher_supports_manifest_algorithm_names() -> None:
    for name, known in (("sha256", hashlib.sha256), ("blake3", blake3)):
        hasher = new_hasher(name)
        hasher.update(b"some ")
        hasher.update(memoryview(b"bytes"))
        assert hasher.hexdigest() == known(b"some bytes").hexdigest()


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("0123456789abcdef" * 4, True),
        ("0123456789ABCDEF" * 4, False),
        ("0" * 63, False),
        ("0" * 65, False),
        ("0" * 63 + "g", False),
        ("0" * 64 + "\n", False),
        ("٣" * 64, False),
        (b"0" * 64, False),
        (None, False),
        (0, False),
    ],
)
def test_digest_is_64_lower_case_hex_digits(text: object, right: bool) -> None:
    assert is_digest(text) is right


def test_piece_digest_is_blake3() -> None:
    assert piece_digest(b"abc") == blake3(b"abc").digest()
    assert len(piece_digest(b"")) == PIECE_DIGEST_SIZE


@patient
@given(st.integers(0, 100), st.integers(1, 40), st.lists(st.integers(0, 50)))
def test_piece_digests_do_not_depend_on_chunk_lengths(size: int, piece_size: int, chunks: list[int]) -> None:
    data, digests = random_bytes(size), PieceDigests(piece_size)
    assert [bytes(piece) for piece in pieces_of(data, piece_size)] == (cut(data, piece_size) if data else [])
    for _ in range(2):  # pieces begin anew with each shard
        rest = data
        for count in [*chunks, size]:
            digests.update(rest[:count])
            rest = rest[count:]
        assert digests.finish() == pieces(data, piece_size)
