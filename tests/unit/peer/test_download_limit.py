from __future__ import annotations

import pytest

from shardcast.fair_limit import FairLimit
from shardcast.peer.download_limit import buffer_size, receive_buffer_size
from shardcast.policy.byte_limit import MIN_RATE, Rates


@pytest.mark.parametrize(
    ("rates", "size"),
    [
        (Rates(MIN_RATE), 32 << 10),  # less, and probes of the closed window set the speed
        (Rates(2_000_000), 100_000),
        (Rates(10**9, 2_000_000), 100_000),
        (Rates(None, 10**9), None),
    ],
)
def test_connection_under_a_low_limit_buffers_little(rates: Rates, size: int | None) -> None:
    assert receive_buffer_size(FairLimit(rates)) == size


def test_connection_without_limit_buffers_as_ever() -> None:
    assert receive_buffer_size(None) is None
    assert buffer_size(None, 1 << 20) == 1 << 20
