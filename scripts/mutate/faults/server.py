"""Faults in servers: requests, answers and doors."""

from __future__ import annotations

from fault import Fault

SENDING = "shardcast/server/sending.py"

FAULTS = [
    Fault(
        name="reader-waits-for-a-stopped-landing-for-ever",
        file=SENDING,
        old="reach = await asyncio.wait_for(landing.reach_beyond(position), HTTP_TIMEOUT)",
        new="reach = await landing.reach_beyond(position)",
        tests=["tests/test_live.py::test_reader_of_a_landing_that_stops_is_let_go_after_the_time_out"],
    ),
]
