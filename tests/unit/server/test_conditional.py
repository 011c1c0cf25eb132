"""Conditional requests and ranges: preconditions in their order, and no byte outside the representation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.server.conditional import Selection, select
from tests.support.payloads import patient

TAG = "ab" * 32
WHOLE = Selection(200, 0, 10, 10)
OURS, OTHER = f'"{TAG}"', '"other"'

tags = st.sampled_from([OURS, f"W/{OURS}", OTHER, "*", "", f"{OTHER}, {OURS}"])
ranges = st.one_of(
    st.text(), st.from_regex(r"\Abytes=[0-9]{0,3}-[0-9]{0,3}\Z"), st.just("bytes=2-4"), st.just("bytes=99-")
)
requests = st.fixed_dictionaries(
    {}, optional={"If-Match": tags, "If-None-Match": tags, "If-Range": tags, "Range": ranges}
)


@pytest.mark.parametrize(
    ("headers", "selection"),
    [
        ({}, WHOLE),
        ({"If-Match": OURS}, WHOLE),
        ({"If-Match": OTHER}, Selection(412, 0, 0, 10)),
        ({"If-Match": OTHER, "If-None-Match": OURS}, Selection(412, 0, 0, 10)),
        ({"If-None-Match": f"W/{OURS}"}, Selection(304, 0, 0, 10)),
        ({"If-None-Match": OURS, "Range": "bytes=99-"}, Selection(304, 0, 0, 10)),
        ({"If-None-Match": OTHER, "Range": "bytes=2-4"}, Selection(206, 2, 5, 10)),
        ({"If-Range": OURS, "Range": "bytes=2-4"}, Selection(206, 2, 5, 10)),
        ({"If-Range": f"W/{OURS}", "Range": "bytes=2-4"}, WHOLE),
        ({"If-Range": OTHER, "Range": "bytes=99-"}, WHOLE),
        ({"Range": "bytes=10-"}, Selection(416, 0, 0, 10)),
        ({"Range": "bytes=2-4,6-7"}, WHOLE),
    ],
)
def test_headers_select_bytes(headers: dict[str, str], selection: Selection) -> None:
    assert select(headers, TAG, 10) == selection


def test_representation_without_tag_matches_only_a_star() -> None:
    assert select({"If-Match": OURS}, None, 10).status == 412
    assert select({"If-Match": "*"}, None, 10) == WHOLE
    assert select({"If-Range": OURS, "Range": "bytes=2-4"}, None, 10) == WHOLE


def test_content_range_names_the_part_or_the_length() -> None:
    assert Selection(206, 2, 5, 10).headers == {"Content-Range": "bytes 2-4/10"}
    assert Selection(416, 0, 0, 10).headers == {"Content-Range": "bytes */10"}
    assert all(not Selection(status, 0, 0, 10).headers for status in (200, 304, 412))


@patient
@given(requests, st.sampled_from([TAG, None]), st.integers(0, 2**62))
def test_no_selection_reaches_outside(headers: dict[str, str], tag: str | None, length: int) -> None:
    selected = select(headers, tag, length)
    assert selected.length == length
    if selected.status == 200:
        assert (selected.start, selected.end) == (0, length)
    elif selected.status == 206:
        assert 0 <= selected.start < selected.end <= length
    else:
        assert selected.start == selected.end == 0
    assert selected.has_bytes == (selected.status in (200, 206))


@patient
@given(requests, st.sampled_from([TAG, None]), st.integers(0, 100))
def test_headers_decide_nothing_where_passed_over(
    headers: dict[str, str], tag: str | None, length: int
) -> None:
    without = {name: value for name, value in headers.items() if name != "If-Match"}
    assert select(headers, tag, length, if_match=False) == select(without, tag, length)
    without = {name: value for name, value in headers.items() if name not in ("Range", "If-Range")}
    assert select(headers, tag, length, ranges=False) == select(without, tag, length)
