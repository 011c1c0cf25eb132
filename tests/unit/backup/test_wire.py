"""The bodies of the backup protocol: what was encoded is decoded, and anything else is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.backup.wire import (
    ID_BYTES,
    ChunkLocation,
    decode_bitmap,
    decode_count,
    decode_locations,
    encode_bitmap,
    encode_commit,
    encode_locations,
    split_ids,
)

IDS = st.binary(min_size=ID_BYTES, max_size=ID_BYTES)


@given(st.lists(IDS, max_size=20))
def test_ids_are_split_as_they_were_joined(ids: list[bytes]) -> None:
    assert split_ids(b"".join(ids)) == ids


@pytest.mark.parametrize(("size", "most"), [(1, 10), (31, 10), (33, 10), (ID_BYTES * 11, 10)])
def test_bodies_of_other_sizes_hold_no_ids(size: int, most: int) -> None:
    with pytest.raises(ValueError, match="ids"):
        split_ids(bytes(size), most)


@given(st.lists(st.booleans(), max_size=70))
def test_bitmap_gives_its_flags_back(flags: list[bool]) -> None:
    data = encode_bitmap(flags)
    assert decode_bitmap(data, len(flags)) == flags
    with pytest.raises(ValueError, match="bitmap"):
        decode_bitmap(data + b"\0", len(flags))


@given(st.lists(st.tuples(IDS, st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)), max_size=5))
def test_locations_are_decoded_as_they_were_encoded(rows: list[tuple[bytes, int, int]]) -> None:
    locations = [ChunkLocation(*row) for row in rows]
    data = encode_locations(locations)
    assert decode_locations(data, len(rows)) == locations
    with pytest.raises(ValueError, match="locations"):
        decode_locations(data, len(rows) + 1)


def test_commit_with_a_base_counts_the_added_ids() -> None:
    added, removed = b"a" * 32, b"r" * 32
    whole = b"".join(encode_commit({"base": None}, b"record", [added]))
    delta = b"".join(encode_commit({"base": "0123"}, b"record", [added], [removed]))
    assert whole.endswith(b"\x06\0\0\0record" + added)
    assert delta.endswith(b"record" + b"\x01\0\0\0" + added + removed)


@pytest.mark.parametrize("data", [b"", b"\0\0\0", b"\0" * 5])
def test_count_has_four_bytes(data: bytes) -> None:
    with pytest.raises(ValueError, match="length"):
        decode_count(data)
