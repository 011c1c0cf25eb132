"""Tags in the metadata of a manifest."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.errors import UsageError
from shardcast.protocol.tags import MAX_TAGS, add_tags, is_tag, tags_of

BAD = [
    "", "latest", "LATEST", "v1", "V7", "v0", "v007", "-x", ".x", "a b", "a/b", "a\n", "x" * 65, "é", "a\0",
    "~", None, 3,
]  # fmt: skip


@pytest.mark.parametrize("tag", BAD)
def test_what_is_no_tag_is_refused_and_never_read(tag: Any) -> None:
    assert not is_tag(tag)
    with pytest.raises(UsageError, match="can't be a tag"):
        add_tags(None, [tag])
    assert tags_of({"tags": [tag, "best"]}) == ("best",)


@pytest.mark.parametrize(
    "tag", ["best", "step-1200", "1200", "a" * 64, "epoch=3", "v1.2", "latest-2", "0.1+b"]
)
def test_tag_is_kept_beside_the_metadata(tag: str) -> None:
    metadata = add_tags({"loss": 0.1}, [tag, tag])
    assert metadata == {"loss": 0.1, "tags": [tag]}
    assert tags_of(metadata) == (tag,)


def test_number_of_tags_is_bounded() -> None:
    tags = [f"t{number}" for number in range(MAX_TAGS + 1)]
    with pytest.raises(UsageError, match="17 tags are too many"):
        add_tags(None, tags)
    assert len(tags_of({"tags": tags})) == MAX_TAGS


def test_tags_are_given_in_one_way() -> None:
    assert add_tags({"a": 1}, []) == {"a": 1}
    assert add_tags(None, ()) is None
    with pytest.raises(UsageError, match="already"):
        add_tags({"tags": ["x"]}, ["best"])
    with pytest.raises(UsageError, match="a list of tags"):
        add_tags(None, "best")
    with pytest.raises(UsageError, match="JSON object"):
        add_tags(["x"], ["best"])  # type: ignore[arg-type]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=30)
)


@given(VALUES)
def test_any_metadata_of_a_peer_give_only_tags(value: Any) -> None:
    tags = tags_of({"tags": value})
    assert len(tags) <= MAX_TAGS
    assert len(set(tags)) == len(tags)
    assert all(is_tag(tag) for tag in tags)
