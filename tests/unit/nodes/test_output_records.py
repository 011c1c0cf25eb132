"""Records beside outputs, whatever somebody wrote into them."""

from __future__ import annotations

import pytest

from shardcast.nodes.output_records import is_number
from shardcast.protocol.wire import MAX_VERSION


@pytest.mark.parametrize("number", [1, 7, MAX_VERSION])
def test_valid_version_number_is_accepted(number: object) -> None:
    assert is_number(number)


@pytest.mark.parametrize("number", [0, -1, MAX_VERSION + 1, True, 1.0, "1", None, [1]])
def test_invalid_version_number_is_rejected(number: object) -> None:
    assert not is_number(number)
