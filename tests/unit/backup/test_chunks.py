"""Chunks: ids, cuts, encodings, packs."""

from __future__ import annotations

import hashlib
import io
import os
import random
import struct
from collections.abc import Callable

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from shardcast.backup import chunking, encoding
from shardcast.backup.encoding import decode_chunk, encode_chunk, encode_chunks
from shardcast.backup.ids import MAX_CHUNK, ChunkKind, chunk_id
from shardcast.backup.packs import MAGIC, PackedChunk, PackWriter, parse_index
from shardcast.errors import IntegrityError, UsageError

KEY, OTHER_KEY = bytes(range(32)), bytes(32)


def test_id_depends_on_key_and_kind() -> None:
    data = chunk_id(KEY, ChunkKind.DATA, b"bytes")
    assert data == blake3(b"dbytes", key=KEY).digest()
    assert (
        len({data, chunk_id(OTHER_KEY, ChunkKind.DATA, b"bytes"), chunk_id(KEY, ChunkKind.LISTING, b"bytes")})
        == 3
    )


@given(st.binary(max_size=3000), st.integers(1, 40))
def test_encoded_chunk_gives_back_its_bytes(data: bytes, repeats: int) -> None:
    assert decode_chunk(encode_chunk(data * repeats)) == data * repeats


def test_chunk_is_compressed_only_where_it_shrinks() -> None:
    assert len(encode_chunk(bytes(1 << 20))) < 1000
    noise = random.Random(1).randbytes(1 << 20)
    assert encode_chunk(noise) == b"\0" + noise
    assert encode_chunk(b"") == b"\0"


@given(st.binary(max_size=200))
def test_decoder_raises_only_integrity_errors(encoded: bytes) -> None:
    for candidate in (encoded, b"\1" + encoded, b"\1\x28\xb5\x2f\xfd" + encoded):
        try:
            assert len(decode_chunk(candidate)) <= MAX_CHUNK
        except IntegrityError:
            pass


@given(st.integers(0, 500), st.integers(1, 255))
def test_damaged_compressed_chunk_never_raises_another_error(at: int, change: int) -> None:
    encoded = bytearray(encode_chunk(b"the same words again and again " * 40))
    encoded[at % len(encoded)] ^= change
    try:
        decode_chunk(bytes(encoded))
    except IntegrityError:
        pass


def test_decoder_bounds_size_before_it_allocates() -> None:
    zstandard = pytest.importorskip("zstandard")
    bomb = zstandard.ZstdCompressor().compress(bytes(MAX_CHUNK + 1))
    with pytest.raises(IntegrityError, match="8388609"):
        decode_chunk(b"\1" + bomb)
    with pytest.raises(IntegrityError, match="8388609"):
        decode_chunk(b"\0" + bytes(MAX_CHUNK + 1))
    unknown = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100))
    with pytest.raises(IntegrityError):
        decode_chunk(b"\1" + unknown)


def test_without_zstandard_chunks_are_plain_and_compressed_ones_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compressed = encode_chunk(bytes(10_000))
    monkeypatch.setattr(encoding, "zstandard", None)
    assert encode_chunk(bytes(10)) == bytes(11)
    with pytest.raises(UsageError, match="zstandard"):
        decode_chunk(compressed)


def cut(data: bytes, step: int = 1 << 30) -> list[bytes]:
    stream = io.BytesIO(data)
    return [bytes(chunk) for chunk in chunking.cut_chunks(lambda count: stream.read(min(count, step)))]


def test_chunks_join_to_the_stream_and_have_bounded_sizes() -> None:
    data = random.Random(2).randbytes(30 << 20) + bytes(12 << 20)
    chunks = cut(data)
    assert b"".join(chunks) == data
    assert max(map(len, chunks)) <= chunking.LARGEST_CHUNK
    assert min(map(len, chunks[:-1])) >= chunking.MIN_CHUNK
    assert cut(b"") == []
    assert cut(b"x") == [b"x"]


def test_cuts_do_not_depend_on_how_the_stream_is_read() -> None:
    data = random.Random(3).randbytes(20 << 20)
    assert cut(data, 1_234_567) == cut(data)


@pytest.mark.skipif(not chunking.BY_CONTENT, reason="pyfastcdc is not installed")
def test_insertion_at_the_front_changes_few_chunks() -> None:
    data = random.Random(4).randbytes(40 << 20)
    before, after = set(cut(data)), cut(b"x" + data)
    assert sum(len(chunk) for chunk in after if chunk not in before) <= 3_000_000


def test_without_pyfastcdc_cuts_are_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunking, "FastCDC", None)
    data = random.Random(5).randbytes((13 << 20) + 5)
    assert [len(chunk) for chunk in cut(data)] == [1 << 20] * 13 + [5]
    assert b"".join(cut(data)) == data


def packed(chunks: list[bytes]) -> bytes:
    writer = PackWriter()
    for chunk in chunks:
        writer.add(chunk_id(KEY, ChunkKind.DATA, chunk), encode_chunk(chunk))
    pack = writer.finish()
    data = bytes(pack.data)
    assert hashlib.sha256(data).hexdigest() == pack.sha256
    return data


@given(st.lists(st.binary(max_size=100), max_size=20))
def test_pack_gives_back_its_chunks(chunks: list[bytes]) -> None:
    data = packed(chunks)
    found = parse_index(data[:8], data, len(data))
    assert [decode_chunk(data[at : at + count]) for _, at, count in found] == chunks
    assert [chunk for chunk, _, _ in found] == [chunk_id(KEY, ChunkKind.DATA, chunk) for chunk in chunks]


def test_pack_is_laid_out_as_documented() -> None:
    writer = PackWriter()
    writer.add(KEY, b"\0one")
    pack = writer.finish()
    assert pack.data == MAGIC + b"\0one" + KEY + struct.pack("<II", 4, 36) + MAGIC
    assert pack.chunks == [PackedChunk(KEY, 8, 4)]


@settings(max_examples=200)
@given(st.data())
def test_damaged_pack_is_refused_or_stays_in_bounds(data: st.DataObject) -> None:
    pack = bytearray(packed([b"one", b"two" * 50, os.urandom(60)]))
    action: Callable[[], None] = data.draw(
        st.sampled_from([lambda: flip(data, pack), lambda: shorten(data, pack)])
    )
    action()
    try:
        found = parse_index(bytes(pack[:8]), bytes(pack), len(pack))
    except IntegrityError:
        return
    assert all(at >= 8 and at + count <= len(pack) - 12 for _, at, count in found)


def flip(data: st.DataObject, pack: bytearray) -> None:
    pack[data.draw(st.integers(0, len(pack) - 1))] ^= data.draw(st.integers(1, 255))


def shorten(data: st.DataObject, pack: bytearray) -> None:
    del pack[data.draw(st.integers(0, len(pack) - 1)) :]


@given(st.binary(max_size=100), st.binary(max_size=100), st.integers(0, 1 << 40))
def test_index_parser_raises_only_integrity_errors(head: bytes, tail: bytes, size: int) -> None:
    try:
        parse_index(MAGIC + head, tail + MAGIC, size)
    except IntegrityError:
        pass


@given(st.lists(st.binary(max_size=300), max_size=6), st.lists(st.integers(1, 200), min_size=6, max_size=6))
def test_chunks_encoded_together_are_as_each_by_itself(parts: list[bytes], repeats: list[int]) -> None:
    chunks = [memoryview(part * count) for part, count in zip(parts, repeats, strict=False)]
    assert encode_chunks(chunks) == [encode_chunk(chunk) for chunk in chunks]
