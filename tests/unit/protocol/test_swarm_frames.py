"""Frames between neighbours: what is written is read again, and nothing that comes breaks a bound."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shardcast.protocol import swarm_frames as frames
from shardcast.protocol.piece_numbers import mask_of_run, mask_of_runs
from shardcast.protocol.swarm_frames import (
    ByeFrame,
    CancelFrame,
    Control,
    FrameError,
    HaveFrame,
    LostFrame,
    PingFrame,
    ProofFrame,
    RefuseFrame,
    RefuseReason,
    TicketFrame,
    WantFrame,
    decode,
    decode_head,
    encode,
    frame,
)
from shardcast.protocol.swarm_hello import HelloFrame
from shardcast.protocol.swarm_reader import FrameReader, Piece
from tests.support.payloads import patient

REQUESTS = st.integers(0, frames.MAX_REQUEST)
RUNS = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 40)), min_size=1, max_size=30)
HELLO = HelloFrame(7, "e1d4", 64 * "a", "81ab", "ticket.text", bytes(range(32)))


def mask_of_gaps(runs: list[tuple[int, int]]) -> int:
    """Return a set of runs, each after so many missing pieces."""
    mask, at = 0, 0
    for gap, count in runs:
        mask |= mask_of_run(at + gap, count)
        at += gap + count
    return mask


SETS = RUNS.map(mask_of_gaps)
CONTROLS = st.one_of(
    st.builds(PingFrame),
    st.builds(HaveFrame, SETS),
    st.builds(LostFrame, SETS),
    st.builds(WantFrame, REQUESTS, st.integers(0, 1000)),
    st.builds(CancelFrame, REQUESTS),
    st.builds(
        RefuseFrame, REQUESTS, st.sampled_from(RefuseReason), st.integers(0, 65535).map(lambda ms: ms / 1000)
    ),
    st.builds(ByeFrame, st.text("abc ", max_size=frames.MAX_REASON)),
    st.just(HELLO),
    st.builds(ProofFrame, st.binary(max_size=frames.MAX_PROOF)),
    st.builds(TicketFrame, st.text("abc.", max_size=50)),
)


def read_all(data: bytes) -> list[Control | None]:
    """Return the frames that bytes are."""
    found, at = [], 0
    while at < len(data):
        kind, length = decode_head(data, at)
        found.append(decode(kind, data[at + 4 : at + 4 + length]))
        at += 4 + length
    assert at == len(data)
    return found


@patient
@given(CONTROLS)
def test_frame_is_read_as_it_was_written(control: Control) -> None:
    assert read_all(encode(control)) == [control]


@patient
@given(st.integers(0, 10), st.binary(max_size=60))
@example(4, b"\0" + 8 * b"\xff")
@example(5, b"\1" + 4 * b"\xff" + b"\1")
@example(6, 12 * b"\xff")
@example(1, b"[" * 60)
def test_garbage_is_a_frame_error_or_a_frame(kind: int, payload: bytes) -> None:
    try:
        decode(kind, payload)
    except FrameError:
        pass


@given(st.binary(min_size=4, max_size=4))
def test_length_beyond_bound_is_refused_by_its_head(head: bytes) -> None:
    try:
        kind, length = decode_head(head, 0)
    except FrameError:
        return
    assert length <= (frames.MAX_PORTION + 4 if kind == frames.BYTES else frames.MAX_CONTROL)


def test_scattered_set_is_told_in_bits_and_sparse_one_in_runs() -> None:
    scattered = sum(1 << number for number in range(0, 4096, 2))
    assert len(encode(HaveFrame(scattered))) == 4 + 5 + 512
    assert len(encode(HaveFrame(1 << 4_000_000 | 1))) == 4 + 1 + 16


def test_large_sets_take_several_frames_within_bounds() -> None:
    bits = mask_of_runs([(first, 1) for first in range(5, 600_000, 2)])
    runs = mask_of_runs([(first, 60) for first in range(0, 1_000_000, 100)])
    for pieces in (bits, runs):
        found = read_all(encode(HaveFrame(pieces)))
        assert len(found) > 1
        together = 0
        for control in found:
            assert isinstance(control, HaveFrame) and not together & control.pieces
            together |= control.pieces
        assert together == pieces


def test_pieces_beyond_version_are_refused() -> None:
    for control in (
        HaveFrame(1 << 100),
        LostFrame(sum(1 << n for n in range(0, 101, 2))),
        WantFrame(1, 100),
    ):
        (payload,) = {encode(control)[4:]}
        kind, _ = decode_head(encode(control), 0)
        assert decode(kind, payload, 101) == control
        with pytest.raises(FrameError):
            decode(kind, payload, 100)


def test_empty_set_takes_no_frame() -> None:
    assert encode(HaveFrame(0)) == b""


def test_fields_beyond_known_ones_and_unknown_kinds_are_skipped() -> None:
    want = encode(WantFrame(1, 2))[4:]
    assert read_all(frame(frames.WANT, want + b"more") + frame(200, b"later")) == [WantFrame(1, 2), None]
    assert decode(frames.REFUSE, encode(RefuseFrame(1, RefuseReason.BUSY))[4:8] + b"\x99\0\0") == RefuseFrame(
        1, RefuseReason.LACKS
    )


def test_hello_ignores_unknown_keys() -> None:
    payload = HELLO.payload()[:-1] + b', "later": [1]}'
    assert decode(frames.HELLO, payload) == HELLO


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"version":7', b'"version":0'),
        (b'"version":7', b'"version":"v7"'),
        (b'"origin":"e1d4"', b'"origin":"../x"'),
        (b'"digest":"a', b'"digest":"g'),
        (b'"node":"81ab"', b'"node":null'),
        (b'"ticket":"ticket.text"', b'"ticket":1'),
        (b'"challenge":"00', b'"challenge":"'),
        (b"{", b"["),
    ],
)
def test_hello_with_wrong_field_is_refused(old: bytes, new: bytes) -> None:
    assert old in HELLO.payload()
    with pytest.raises(FrameError):
        decode(frames.HELLO, HELLO.payload().replace(old, new))


# The reader

PIECE = 1000


def reader_of(*lengths: int) -> FrameReader:
    """Return a reader that takes pieces of these lengths, in turn, of request 7 and no other."""
    left = list(lengths)
    return FrameReader(lambda request: left.pop(0) if request == 7 and left else 0, PIECE)


def read(reader: FrameReader, data: bytes, sizes: list[int]) -> list[Control | bytes]:
    """Return what a reader makes of bytes that are received in parts of these sizes, in turn."""
    found: list[Control | bytes] = []
    at, turn = 0, 0
    while at < len(data):
        buffer = reader.get_buffer()
        size = min(len(buffer), sizes[turn % len(sizes)], len(data) - at)
        assert size > 0
        buffer[:size] = data[at : at + size]
        reader.received(size)
        at, turn = at + size, turn + 1
        while (one := reader.next_frame()) is not None:
            found.append(bytes(one.data) if isinstance(one, Piece) else one)
    return found


def portions(data: bytes, size: int, between: bytes = b"", request: int = 7) -> bytes:
    """Return bytes of a request in frames of this size, with others after each."""
    parts = (data[start : start + size] for start in range(0, len(data), size))
    return b"".join(frames.bytes_head(request, len(part)) + part + between for part in parts)


@patient
@given(
    st.integers(1, 400),
    st.lists(CONTROLS, max_size=3),
    st.lists(st.integers(1, 300), min_size=1, max_size=6),
)
def test_pieces_come_whole_wherever_bytes_are_cut(
    portion: int, between: list[Control], sizes: list[int]
) -> None:
    data = bytes(number * 7 % 251 for number in range(2 * PIECE + 300))
    other = b"".join(map(encode, between))
    found = read(reader_of(PIECE, PIECE, 300), portions(data, portion, other), sizes)
    pieces = [one for one in found if isinstance(one, bytes)]
    assert pieces == [data[:PIECE], data[PIECE : 2 * PIECE], data[2 * PIECE :]]
    controls = [one for one in found if not isinstance(one, bytes)]
    assert controls == between * -(-len(data) // portion)


@patient
@given(st.binary(max_size=400), st.lists(st.integers(1, 100), min_size=1, max_size=4))
def test_reader_survives_garbage(data: bytes, sizes: list[int]) -> None:
    try:
        read(reader_of(PIECE, PIECE), data, sizes)
    except FrameError:
        pass


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (portions(b"x", 9, request=8), "bytes of request 8, which was not asked for"),
        (portions(b"x", 9) + portions(b"x", 9, request=8), "bytes of request 8 amid a piece of request 7"),
        (portions(bytes(PIECE + 1), 2 * PIECE), "more bytes of request 7 than were asked for"),
        (portions(bytes(PIECE), PIECE) + portions(b"x", 9), "bytes of request 7, which was not asked for"),
    ],
)
def test_bytes_that_nobody_asked_for_are_refused(data: bytes, error: str) -> None:
    with pytest.raises(FrameError, match=f"^{error}$"):
        read(reader_of(PIECE), data, [len(data)])


def test_missing_bytes_are_those_of_the_piece_under_way() -> None:
    reader = reader_of(PIECE)
    assert (reader.missing, reader.is_amid) == (0, False)
    read(reader, portions(bytes(400), 400), [408])
    assert (reader.missing, reader.is_amid) == (600, True)
    assert len(read(reader, portions(bytes(600), 600), [700])) == 1
    assert (reader.missing, reader.is_amid) == (0, False)


def test_dropped_piece_leaves_room_for_the_next_one() -> None:
    reader = reader_of(PIECE, PIECE)
    assert read(reader, portions(bytes(400), 400), [500]) == []
    reader.drop(8)
    assert reader.missing == 600
    reader.drop(7)
    assert (reader.missing, reader.is_amid) == (0, False)
    data = bytes(range(250)) * 4
    assert read(reader, portions(data, 400), [90]) == [data]
