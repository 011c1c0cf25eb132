"""The line of progress: what fits comes in, and it never reaches a terminal's last column."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.cli.progress_line import progress_line
from tests.support.payloads import patient

MB = 1_000_000
DETAIL = ("shard 5/24", "3 servers", "10.0.0.2:8001 53.7 MB/s", "10.0.0.3:8001 20.1 MB/s")


def columns(line: str) -> int:
    wcwidth = pytest.importorskip("wcwidth")
    return int(wcwidth.wcswidth(line))


@patient
@given(
    st.integers(1, 300),
    st.text(max_size=60),
    st.integers(0, 1 << 62),
    st.none() | st.integers(0, 1 << 62),
    st.none() | st.floats(0, 1e18),
    st.lists(st.text(max_size=40), max_size=5),
)
def test_the_line_is_narrower_than_the_terminal(
    width: int, what: str, done: int, size: int | None, rate: float | None, detail: list[str]
) -> None:
    line = progress_line(width, what, done, size, rate, detail)
    assert line.isprintable()
    assert 0 <= columns(line) < width


@pytest.mark.parametrize("rate", [5e-324, 1e-9, 1.0])
def test_no_time_is_shown_where_it_would_mean_nothing(rate: float) -> None:
    assert progress_line(80, "v3", 0, 100 * MB, rate, ()).endswith("B/s")


def test_what_matters_most_stays_when_there_is_less_room() -> None:
    def line(width: int) -> str:
        return progress_line(width, "v3", 540 * MB, 1200 * MB, 53.7 * MB, DETAIL)

    assert line(40) == "v3  45% of 1.2 GB  53.7 MB/s  0:12"
    assert line(80).startswith("v3 [")
    assert line(80).endswith("45% of 1.2 GB  53.7 MB/s  0:12  shard 5/24  3 servers")
    assert line(200).endswith(f"3 servers  {DETAIL[2]}  {DETAIL[3]}")


def test_an_unknown_size_leaves_bytes_rate_and_shards() -> None:
    line = progress_line(80, "v3 stream", 200 * MB, None, 50.0 * MB, ("4 shards",))
    assert line == "v3 stream 200 MB  50.0 MB/s  4 shards"


def test_a_long_name_gives_way_to_the_numbers() -> None:
    line = progress_line(40, "v3 " + "x" * 100, MB, 2 * MB, None, ())
    assert line.endswith("…  50% of 2.0 MB")
