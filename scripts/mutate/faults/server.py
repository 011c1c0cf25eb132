"""Faults in servers: requests, answers and doors."""

from __future__ import annotations

from fault import Fault

FEED = "shardcast/server/doors/feed.py"
EVENTS = "shardcast/store/events.py"
SENDING = "shardcast/server/sending.py"

FAULTS = [
    Fault(
        name="reader-waits-for-a-stopped-landing-for-ever",
        file=SENDING,
        old="reach = await asyncio.wait_for(landing.reach_beyond(position), HTTP_TIMEOUT)",
        new="reach = await landing.reach_beyond(position)",
        tests=["tests/test_live.py::test_reader_of_a_landing_that_stops_is_let_go_after_the_time_out"],
    ),
    Fault(
        name="feed-passes-missed-events-over",
        file=FEED,
        old="news = shelf.versions_now() if anew else events.since(seq)",
        new="news = shelf.versions_now() if anew else events.since(seq) or []",
        tests=["tests/test_feed.py"],
    ),
    Fault(
        name="events-forgotten-count-as-none",
        file=EVENTS,
        old="if seq > self.seq or self.seq - seq > len(self._past):",
        new="if seq > self.seq:",
        tests=["tests/test_feed.py"],
    ),
]
