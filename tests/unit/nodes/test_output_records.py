"""Records beside outputs, whatever somebody wrote into them."""

from __future__ import annotations

import pytest

from shardcast.file_identity import FileIdentity
from shardcast.nodes.output_records import OutputRecord, is_number, parse_record
from shardcast.protocol.wire import MAX_VERSION


@pytest.mark.parametrize("number", [1, 7, MAX_VERSION])
def test_valid_version_number_is_accepted(number: object) -> None:
    assert is_number(number)


@pytest.mark.parametrize("number", [0, -1, MAX_VERSION + 1, True, 1.0, "1", None, [1]])
def test_invalid_version_number_is_rejected(number: object) -> None:
    assert not is_number(number)


def test_ctime_is_kept_and_missing_in_records_of_earlier_versions() -> None:
    record = OutputRecord("a", 3, "0" * 64, FileIdentity(1, 2, 3), followed=True, ctime_ns=4)
    assert parse_record(record.encode()) == record
    earlier = record.encode().replace(b', "ctime_ns": 4', b"")
    assert parse_record(earlier).ctime_ns is None


@pytest.mark.parametrize("value", [b"null", b'"4"', b"4.5", b"true", b"1e99", b"[]"])
def test_record_with_a_ctime_that_is_no_integer_is_refused(value: bytes) -> None:
    record = OutputRecord("a", 3, "0" * 64, FileIdentity(1, 2, 3), ctime_ns=4)
    with pytest.raises(ValueError, match="ctime_ns is no integer"):
        parse_record(record.encode().replace(b'"ctime_ns": 4', b'"ctime_ns": ' + value))
