"""Faults in servers: requests, answers and doors."""

from __future__ import annotations

from fault import Fault

FEED = "shardcast/server/routes/feed.py"
EVENTS = "shardcast/store/events.py"
SENDING = "shardcast/server/sending.py"

FAULTS = [
    Fault(
        name="reader-waits-for-a-stopped-landing-for-ever",
        file=SENDING,
        old="async with asyncio.timeout(HTTP_TIMEOUT):",
        new="async with asyncio.timeout(None):",
        tests=["tests/integration/test_live.py::test_reader_of_stalled_landing_is_released_after_timeout"],
    ),
    Fault(
        name="feed-passes-missed-events-over",
        file=FEED,
        old="events_since = shelf.versions_now() if new_line else events.events_after(seq)",
        new="events_since = shelf.versions_now() if new_line else events.events_after(seq) or []",
        tests=["tests/integration/test_feed.py"],
    ),
    Fault(
        name="events-forgotten-count-as-none",
        file=EVENTS,
        old="if seq > self.seq or self.seq - seq > len(self._past):",
        new="if seq > self.seq:",
        tests=["tests/integration/test_feed.py"],
    ),
    # Elsewhere in servers
    Fault(
        name="if-match-is-not-looked-at",
        file="shardcast/server/conditional.py",
        old="if if_match and wanted is not None and not matches_if_match(wanted, tag):",
        new="if False:",
        tests=["tests/integration/test_live.py::test_landing_is_sent_by_pieces_and_breaks_off_on_close"],
    ),
    Fault(
        name="if-none-match-is-not-looked-at",
        file="shardcast/server/conditional.py",
        old="if known is not None and matches_if_match(known, tag):",
        new="if False:",
        tests=["tests/integration/test_sending.py"],
    ),
    Fault(
        name="if-range-of-other-bytes-is-taken",
        file="shardcast/server/conditional.py",
        old="if not ranges or (if_range is not None and not matches_if_range(if_range, tag)):",
        new="if not ranges:",
        tests=["tests/integration/test_sending.py"],
    ),
    Fault(
        name="short-file-is-served",
        file="shardcast/server/sending.py",
        old="if file.tell() < span.offset + span.length:",
        new="if False:",
        tests=["tests/integration/test_sending.py"],
    ),
    Fault(
        name="stalled-reader-is-kept",
        file="shardcast/server/file_sender.py",
        old="async with asyncio.timeout(stalled):",
        new="async with asyncio.timeout(None):",
        tests=["tests/integration/test_sending.py"],
    ),
    Fault(
        name="landing-is-sent-to-everybody",
        file="shardcast/server/routes/versions.py",
        old="and request.headers.get(ACCEPT_HEADER) == LANDING\n",
        new="\n",
        tests=["tests/integration/test_live.py"],
    ),
    Fault(
        name="open-range-ends-one-early",
        file="shardcast/protocol/wire.py",
        old="start, end = int(first), int(last) + 1 if last else size",
        new="start, end = int(first), int(last) if last else size",
        tests=["tests/unit/protocol/test_wire.py"],
    ),
    Fault(
        name="range-behind-the-end-is-none",
        file="shardcast/protocol/wire.py",
        old="if start >= size:",
        new="if start > size:",
        tests=["tests/unit/protocol/test_wire.py"],
    ),
    Fault(
        name="suffix-longer-than-all-is-negative",
        file="shardcast/protocol/wire.py",
        old="start, end = max(0, size - int(last)), size",
        new="start, end = size - int(last), size",
        tests=["tests/unit/protocol/test_wire.py"],
    ),
    Fault(
        name="weak-tag-fits-if-range",
        file="shardcast/protocol/wire.py",
        old="return tag is not None and header.strip() == etag(tag)",
        new='return tag is not None and header.strip().removeprefix("W/") == etag(tag)',
        tests=["tests/integration/test_sending.py"],
    ),
    Fault(
        name="shard-zero-is-a-shard",
        file="shardcast/protocol/wire.py",
        old="return shard if shard and name in",
        new="return shard if name in",
        tests=["tests/unit/protocol/test_wire.py"],
    ),
    Fault(
        name="via-without-a-bound",
        file="shardcast/protocol/wire.py",
        old='.split(",")[: MAX_VIA + 1])',
        new='.split(","))',
        tests=["tests/unit/protocol/test_wire.py"],
    ),
    Fault(
        name="feed-goes-on-after-the-end",
        file="shardcast/store/events.py",
        old="        self.closed = True\n",
        new="",
        tests=["tests/integration/test_feed.py"],
    ),
    Fault(
        name="feeds-are-never-uncounted",
        file="shardcast/server/routes/feed.py",
        old="            events.open_feeds -= 1\n",
        new="            pass\n",
        tests=["tests/integration/test_unnoticed.py"],
    ),
    Fault(
        name="pull-without-a-bound",
        file="shardcast/blobs/server/archive_routes/pulls.py",
        old="await read_body(request, MAX_PULL)",
        new="await read_body(request, 2**40)",
        tests=["tests/integration/test_archive.py", "tests/integration/test_archive_client.py"],
    ),
    Fault(
        name="push-without-a-token",
        file="shardcast/blobs/server/archive_routes/pushes.py",
        old="if isinstance(bearer, str) and self._context.is_push_token(bearer):",
        new="if isinstance(bearer, str):",
        tests=["tests/integration/test_archive.py", "tests/integration/test_pushes.py"],
    ),
    Fault(
        name="push-with-any-scheme",
        file="shardcast/access/authorization.py",
        old='if len(headers) > 1 or scheme.lower() != "bearer":',
        new="if len(headers) > 1:",
        tests=["tests/integration/test_archive.py", "tests/integration/test_pushes.py"],
    ),
    Fault(
        name="body-without-a-bound",
        file="shardcast/server/bodies.py",
        old="if size > max_bytes:",
        new="if False:",
        tests=["tests/faults/test_connections.py::test_too_large_body_is_not_read"],
    ),
    Fault(
        name="head-is-waited-for-for-ever",
        file="shardcast/server/connections.py",
        old="if watch.head_since is not None and now - watch.head_since >= bounds.head_seconds:",
        new="if False:",
        tests=["tests/faults/test_first_requests.py"],
    ),
    Fault(
        name="socket-of-another-is-removed",
        file="shardcast/server/application.py",
        old="if made is not None and path.parent == own and os.path.samestat(made, path.stat()):",
        new="if made is not None and path.parent == own:",
        tests=["tests/integration/test_unnoticed.py"],
    ),
    Fault(
        name="lease-of-nothing-is-held",
        file="shardcast/server/routes/lease.py",
        old="if not leased:",
        new="if False:",
        tests=["tests/integration/test_leases.py"],
    ),
    Fault(
        name="lease-outlives-its-version",
        file="shardcast/server/routes/lease.py",
        old="if not shelf.has(version):",
        new="if False:",
        tests=["tests/integration/test_leases.py"],
    ),
    Fault(
        name="copies-one-too-few",
        file="shardcast/control/waiting.py",
        old="if have >= copies:",
        new="if have >= copies - 1:",
        tests=["tests/integration/test_copies.py"],
    ),
]
