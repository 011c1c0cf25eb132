"""Sizes as people write them in options and the environment, and as they read them."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shardcast.errors import UsageError
from shardcast.sizes import format_count, format_rate, format_size, parse_size, shard_size_of
from tests.support.payloads import patient

UNITS = {
    "": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "k": 10**3, "Mi": 2**20,
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("50000000", 50_000_000),
        ("50_000_000", 50_000_000),
        ("50MB", 50_000_000),
        ("50 mb", 50_000_000),
        ("48MiB", 48 * 2**20),
        ("48mi", 48 * 2**20),
        ("1.5GB", 1_500_000_000),
        ("1.001MB", 1_001_000),
        ("9007199254740993", 2**53 + 1),
        ("2t", 2 * 10**12),
        ("0.5k", 500),
        (" 7 ", 7),
    ],
)
def test_parse_size_accepts_common_notations(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "0",
        "0MB",
        "0.4",
        "-1",
        "+1",
        "nan",
        "inf",
        "1e6",
        "MB",
        "5XB",
        "50 M B",
        "1.5.2",
        "1,5GB",
        "٣",
        "1\n2",
    ],
)
def test_malformed_size_raises_usage_error_naming_it(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_size(text)
    assert repr(text) in str(caught.value)


@patient
@given(st.one_of(st.text(), st.from_regex(r"\s*[0-9_]{1,30}(\.[0-9]{1,30})?\s*[kmgt]?i?b?")))
@example("9" * 400)
@example("9" * 5000 + "TiB")
def test_any_text_is_positive_size_or_usage_error(text: str) -> None:
    try:
        assert parse_size(text) >= 1
    except UsageError:
        pass


@patient
@given(st.sampled_from(sorted(UNITS)), st.data())
def test_whole_number_of_units_is_exact(unit: str, data: st.DataObject) -> None:
    number = data.draw(st.integers(1, 2**62 // UNITS[unit]))
    assert parse_size(f"{number}{unit}") == number * UNITS[unit]


@patient
@given(st.integers(1, 10**9))
@example(1001)
def test_decimal_fraction_is_exact(kilobytes: int) -> None:
    assert parse_size(f"{kilobytes // 1000}.{kilobytes % 1000:03}MB") == kilobytes * 1000


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (53_700_000, "53.7 MB"),
        (123_400_000, "123 MB"),
        (2**31, "2.1 GB"),
        (1.5e12, "1.5 TB"),
        (4e15, "4000.0 TB"),
    ],
)
def test_sizes_and_rates_are_formatted_with_units(size: float, text: str) -> None:
    assert format_size(size) == text
    assert format_rate(size) == f"{text}/s"


def test_counts_are_formatted_with_plural() -> None:
    assert [format_count(number, "shard") for number in (0, 1, 2)] == ["0 shards", "1 shard", "2 shards"]


@pytest.mark.parametrize(
    ("given", "size"), [(None, None), (1, 1), ("50MB", 50_000_000), ("48 MiB", 48 << 20)]
)
def test_shard_size_of_a_program_is_a_number_or_text(given: int | str | None, size: int | None) -> None:
    assert shard_size_of(given) == size


@pytest.mark.parametrize("given", [0, -5, True, 1.5, "much", "", b"50MB", [1]])
def test_shard_size_that_is_none_is_named(given: object) -> None:
    with pytest.raises(UsageError, match=r"shard_size"):
        shard_size_of(given)  # type: ignore[arg-type]
