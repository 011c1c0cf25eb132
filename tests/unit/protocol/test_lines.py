"""Lines out of chunks: the same ones wherever the chunks end, and never more in memory than the bound."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shardcast.protocol.lines import MAX_LINE, LineReader, LineTooLong
from tests.support.payloads import patient

BOUND = 5
CHUNKS = st.lists(st.text("a\n", max_size=12).map(str.encode), max_size=8)


def read(chunks: list[bytes], max_length: int = BOUND) -> tuple[list[bytes], bool]:
    """Return the lines that a reader yields, and whether it then refused one that is too long."""
    reader, lines = LineReader(max_length), []
    try:
        for chunk in chunks:
            for line in reader.feed(chunk):
                lines.append(line)
    except LineTooLong:
        return lines, True
    return lines, False


@patient
@given(CHUNKS)
@example([b"aaaaa", b"\n"])
@example([b"aaaaa", b"a", b"\n"])
@example([b"a\naaaaaa\na\n"])
@example([b"", b"\n\n", b""])
def test_chunking_does_not_change_lines(chunks: list[bytes]) -> None:
    *complete, rest = b"".join(chunks).split(b"\n")
    fitting = []
    for line in complete:
        if len(line) > BOUND:
            break
        fitting.append(line)
    too_long = len(fitting) < len(complete) or len(rest) > BOUND
    assert read(chunks) == (fitting, too_long)


@patient
@given(CHUNKS)
def test_reader_keeps_less_than_bound_and_chunk(chunks: list[bytes]) -> None:
    reader = LineReader(BOUND)
    try:
        for chunk in chunks:
            for _ in reader.feed(chunk):
                pass
            assert len(reader._pending) <= BOUND
    except LineTooLong:
        assert len(reader._pending) <= BOUND + len(chunk)


def test_error_names_bound() -> None:
    with pytest.raises(LineTooLong, match=f"^a line of more than {MAX_LINE} bytes$"):
        list(LineReader().feed(bytes(MAX_LINE + 1)))
    assert not list(LineReader().feed(bytes(MAX_LINE))), "the newline may still come"
