"""The announcement, the status and the closing word of an upload, as JSON that others wrote."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.protocol.uploads import (
    MAX_PAYLOAD,
    UploadRequest,
    UploadState,
    UploadStatus,
    WholePayload,
    is_upload_id,
    parse_offset,
    upload_path,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
SIZES = st.integers(0, MAX_PAYLOAD)
REQUESTS = st.builds(
    UploadRequest,
    name=st.text(min_size=1, max_size=255),
    size=st.none() | SIZES,
    shard_size=st.none() | st.integers(1, MAX_PAYLOAD),
    metadata=st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
    live=st.booleans(),
    key=st.sampled_from(["", "0" * 64]),
)
STATUSES = st.builds(
    UploadStatus,
    upload=st.just("a" * 32),
    offset=SIZES,
    state=st.sampled_from(UploadState),
    version=st.sampled_from(["v1", "v12"]),
)


@given(REQUESTS)
def test_announcement_survives_the_wire(request: UploadRequest) -> None:
    assert UploadRequest.parse(json.loads(json.dumps(request.as_json()))) == request


@given(STATUSES)
def test_status_survives_the_wire(status: UploadStatus) -> None:
    assert UploadStatus.parse(json.loads(json.dumps(status.as_json()))) == status


@given(st.sampled_from([UploadRequest, UploadStatus, WholePayload]), JSON)
def test_any_json_is_parsed_or_refused(kind: type[UploadRequest], value: object) -> None:
    try:
        parsed = kind.parse(value)
    except ValueError:
        return
    assert kind.parse(json.loads(json.dumps(parsed.as_json()))) == parsed


@given(
    st.sampled_from([UploadRequest, UploadStatus, WholePayload]),
    st.dictionaries(
        st.sampled_from(
            [
                "name",
                "size",
                "shard_size",
                "metadata",
                "live",
                "key",
                "upload",
                "offset",
                "state",
                "version",
                "sha256",
            ]
        ),
        JSON | st.sampled_from(["a" * 32, "0" * 64, "complete", "v1"]),
    ),
)
def test_any_object_is_parsed_or_refused(kind: type[UploadRequest], value: dict[str, object]) -> None:
    try:
        parsed = kind.parse(value)
    except ValueError:
        return
    assert kind.parse(json.loads(json.dumps(parsed.as_json()))) == parsed


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": "x" * 256},
        {"name": 1},
        {"size": -1},
        {"size": True},
        {"size": 1.5},
        {"shard_size": 0},
        {"metadata": []},
        {"metadata": {"x": "y" * 20_000}},
        {"key": "abc"},
    ],
)
def test_announcement_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        UploadRequest.parse(UploadRequest("x.bin", 1).as_json() | change)


def test_status_of_a_published_upload_names_its_version() -> None:
    status = UploadStatus("a" * 32, 1, UploadState.COMPLETE, "v1").as_json()
    with pytest.raises(ValueError):
        UploadStatus.parse(status | {"version": None})


@given(st.text() | st.integers(-5, 1 << 70).map(str))
def test_offset_is_ascii_digits_within_bounds(text: str) -> None:
    try:
        offset = parse_offset(text)
    except ValueError:
        return
    assert text.isascii() and offset == int(text) <= MAX_PAYLOAD


@given(st.text() | st.text("0123456789abcdefABCDEF/.", min_size=31, max_size=33))
def test_id_is_a_single_plain_part_of_a_path(text: str) -> None:
    if is_upload_id(text):
        assert upload_path(text).count("/") == 2 and len(text) == 32 and text == text.lower()
