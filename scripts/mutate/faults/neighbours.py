"""Faults in requests to servers that stop, trickle, mislead or are down."""

from __future__ import annotations

from fault import Fault

BOUNDED_ANSWERS = "shardcast/peer/bounded_answers.py"
CONNECTING = "shardcast/peer/connecting.py"
FAILURES = "shardcast/peer/failures.py"
HEADS = "shardcast/peer/heads.py"
PACE = "shardcast/peer/pace.py"
PLAIN_TEXT = "shardcast/plain_text.py"
REDIRECTS = "shardcast/peer/redirects.py"
SHARD_TABLE = "shardcast/protocol/shard_table.py"
WAITS = "shardcast/waits.py"

FLOOD = ["tests/faults/test_slow_servers.py::test_flood_of_interim_answers_is_cut_off"]
ODD_LOCATIONS = ["tests/integration/test_redirects.py::test_odd_locations_are_not_followed"]
STATUSES = ["tests/faults/test_unreachable.py::test_statuses_map_to_errors"]
TABLE = ["tests/unit/transfer/test_transfer_memory.py::test_shard_table_is_a_sequence_of_shards"]

FAULTS = [
    Fault(
        name="head-by-aiohttp-has-no-deadline",
        file=HEADS,
        old="            left = seconds + (upload",
        new="            left = 1e6 + (upload",
        tests=["tests/faults/test_slow_servers.py"],
    ),
    Fault(
        name="head-by-http-client-has-no-deadline",
        file=BOUNDED_ANSWERS,
        old="self._deadline = None if silence is None else time.monotonic() + silence",
        new="self._deadline = None",
        tests=["tests/faults/test_slow_servers.py"],
    ),
    Fault(
        name="trickled-line-keeps-a-lease",
        file="shardcast/peer/server.py",
        old="read_by(dead_at, content.read, _LEASE_PORTION)",
        new="read_by(loop.time() + FEED_DEAD, content.read, _LEASE_PORTION)",
        tests=["tests/faults/test_slow_servers.py"],
    ),
    Fault(
        name="next-server-is-asked-when-the-first-has-ended",
        file="shardcast/concurrency.py",
        old="silent = not done and progress() == seen",
        new="silent = False",
        tests=["tests/unit/base/test_concurrency.py"],
    ),
    Fault(
        name="silent-server-is-left-only-after-a-first-byte",
        file="shardcast/transfer/stall_monitor.py",
        old="known = self._retries.started or self._manifest.manifest is not None",
        new="known = self._retries.started",
        tests=["tests/integration/test_answers.py"],
    ),
    Fault(
        name="server-that-others-overtook-is-asked-again-at-once",
        file="shardcast/blobs/mirror/server_fetcher.py",
        old="dict.fromkeys(under_way, self._clock() + _BACK_OFF)",
        new="{}",
        tests=["tests/faults/test_slow_neighbours.py"],
    ),
    Fault(
        name="large-buffer-takes-its-memory-at-once",
        file="shardcast/peer/landing_writer.py",
        old="if size <= BUFFER_SIZE else",
        new="if True else",
        tests=["tests/faults/test_slow_servers.py"],
    ),
    # Heads, bodies and uploads
    Fault(
        name="informational-answers-without-a-bound",
        file=HEADS,
        old="if left < 0:",
        new="if False:",
        tests=FLOOD,
    ),
    Fault(
        name="head-of-any-length",
        file=BOUNDED_ANSWERS,
        old="if self._left <= 0:",
        new="if False:",
        tests=FLOOD,
    ),
    Fault(
        name="trickled-body-is-read-for-ever",
        file=PACE,
        old="read_by(started + left, response",
        new="read_by(started + timeout, response",
        tests=["tests/unit/peer/test_pace.py::test_chunks_smaller_than_a_portion_share_its_deadline"],
    ),
    Fault(
        name="long-body-has-the-time-of-a-portion",
        file=PACE,
        old="            left, progress = timeout, 0\n",
        new="            pass\n",
        tests=["tests/unit/peer/test_pace.py::test_each_portion_of_a_body_has_its_own_deadline"],
    ),
    Fault(
        name="upload-that-is-not-taken-waits-for-ever",
        file=PACE,
        old="        if self._reading:\n",
        new="        if True:\n",
        tests=["tests/unit/peer/test_pace.py::test_time_reading_an_upload_locally_does_not_count_for_server"],
    ),
    Fault(
        name="slow-source-of-an-upload-is-the-servers-fault",
        file=PACE,
        old="        if self._reading:\n",
        new="        if False:\n",
        tests=["tests/unit/peer/test_pace.py::test_time_reading_an_upload_locally_does_not_count_for_server"],
    ),
    # Addresses
    Fault(
        name="second-attempt-is-of-the-same-family",
        file=CONNECTING,
        old="sorted(_families_in_turn(places), key",
        new="sorted(places, key",
        tests=["tests/unit/peer/test_connecting.py::test_address_families_alternate"],
    ),
    Fault(
        name="address-that-answered-is-not-the-first",
        file=CONNECTING,
        old="key=lambda place: place != first",
        new="key=lambda place: 0",
        tests=["tests/unit/peer/test_connecting.py::test_next_connection_tries_last_working_address_first"],
    ),
    Fault(
        name="address-that-answered-is-not-remembered",
        file="shardcast/peer/bulk.py",
        old="await connect(host, port, self._place)",
        new="await connect(host, port)",
        tests=["tests/unit/peer/test_connecting.py::test_download_reuses_working_address"],
    ),
    # Failures and redirects
    Fault(
        name="busy-node-is-taken-for-a-gateway",
        file=FAILURES,
        old='if status in GATEWAY_STATUSES and not headers.get(NODE_ID_HEADER, ""):',
        new="if status in GATEWAY_STATUSES:",
        tests=STATUSES,
    ),
    Fault(
        name="answer-that-breaks-off-is-an-outage",
        file=FAILURES,
        old="    if answered:\n",
        new="    if False:\n",
        tests=STATUSES,
    ),
    Fault(
        name="refused-upload-is-something-missing",
        file=FAILURES,
        old="return BadAnswer(server, error.what) if isinstance(error, ServerLacks) else error",
        new="return error",
        tests=STATUSES,
    ),
    Fault(
        name="long-reason-hides-what-it-means",
        file=FAILURES,
        old="one_line(reason or '', _MAX_REASON)",
        new="one_line(reason or '', 100_000)",
        tests=STATUSES,
    ),
    Fault(
        name="redirect-leads-from-https-to-http",
        file=REDIRECTS,
        old='safe = target.scheme == "https" or (target.scheme, asked.scheme) == ("http", "http")',
        new='safe = target.scheme in ("https", "http")',
        tests=["tests/integration/test_redirects.py::test_redirect_from_https_to_http_is_refused"],
    ),
    Fault(
        name="redirect-names-a-password",
        file=REDIRECTS,
        old="if target.username is not None or target.password is not None:",
        new="if False:",
        tests=ODD_LOCATIONS,
    ),
    Fault(
        name="redirect-leads-to-other-schemes",
        file=REDIRECTS,
        old="return safe and target.hostname == server.hostname",
        new="return target.hostname == server.hostname",
        tests=ODD_LOCATIONS,
    ),
    Fault(
        name="proxy-is-used-where-none-is-to-be",
        file="shardcast/peer/proxies.py",
        old='if not proxy or is_direct(parts, proxies.get("no", "")):',
        new="if not proxy:",
        tests=["tests/integration/test_redirects.py::test_proxy_of_environment_is_used"],
    ),
    Fault(
        name="netrc-is-read",
        file="shardcast/peer/session.py",
        old="trust_env=False,",
        new="trust_env=True,",
        tests=["tests/integration/test_redirects.py::test_passwords_and_cookies_are_not_sent"],
    ),
    # What servers list and say
    Fault(
        name="text-of-others-is-printed-raw",
        file=PLAIN_TEXT,
        old="    if not cut.isprintable():\n",
        new="    if False:\n",
        tests=["tests/unit/base/test_plain_text.py::test_unprintable_characters_are_escaped"],
    ),
    Fault(
        name="text-of-others-is-of-any-length",
        file=PLAIN_TEXT,
        old="return cut if len(cut) <= max_length and len(text) <= max_length else",
        new="return cut if len(text) <= max_length else",
        tests=["tests/unit/base/test_plain_text.py::test_one_line_is_bounded_and_idempotent"],
    ),
    Fault(
        name="message-forges-lines-of-the-log",
        file="shardcast/cli/log_format.py",
        old="record.message = one_line(record.message, _MAX_LINE)",
        new="pass",
        tests=["tests/unit/base/test_plain_text.py::test_log_message_is_one_printable_line"],
    ),
    Fault(
        name="reason-of-a-withdrawal-is-told-raw",
        file="shardcast/protocol/feed.py",
        old="    return printable_reason(reason)\n",
        new="    return reason\n",
        tests=["tests/integration/test_feed.py::test_reason_is_made_one_printable_line"],
    ),
    Fault(
        name="feed-that-floods-is-read-at-full-speed",
        file="shardcast/peer/server.py",
        old="if len(chunk) == _FEED_PORTION:",
        new="if False:",
        tests=["tests/integration/test_following.py::test_flooding_feed_is_read_with_pauses"],
    ),
    Fault(
        name="shard-is-there-before-it-is-whole",
        file=SHARD_TABLE,
        old="        self._sha256 += bytes.fromhex(shard.sha256)\n        self._pieces += shard.pieces\n"
        "        self._piece_ends.append(len(self._pieces))\n        self._ends.append(shard.end)\n",
        new="        self._ends.append(shard.end)\n        self._sha256 += bytes.fromhex(shard.sha256)\n"
        "        self._pieces += shard.pieces\n        self._piece_ends.append(len(self._pieces))\n",
        tests=[
            "tests/unit/transfer/test_transfer_memory.py::test_shard_is_visible_in_table_only_when_fully_added"
        ],
    ),
    Fault(
        name="shard-has-pieces-of-the-one-before",
        file=SHARD_TABLE,
        old="self._pieces[piece_start : self._piece_ends[at]]",
        new="self._pieces[: self._piece_ends[at]]",
        tests=TABLE,
    ),
    Fault(
        name="shard-before-the-first-is-one",
        file=SHARD_TABLE,
        old="if not 0 <= at < count:",
        new="if not at < count:",
        tests=TABLE,
    ),
    # What a person is told
    Fault(
        name="wait-that-is-over-is-told",
        file=WAITS,
        old="            del self._sources[key]\n",
        new="            pass\n",
        tests=["tests/integration/test_waits.py::test_latest_wait_is_the_one_noted"],
    ),
    Fault(
        name="wait-around-another-is-told-first",
        file=WAITS,
        old="for source in reversed(self._sources.values()):",
        new="for source in self._sources.values():",
        tests=["tests/integration/test_waits.py::test_latest_wait_is_the_one_noted"],
    ),
    Fault(
        name="short-wait-is-told",
        file=WAITS,
        old="if wait is not None and wait.seconds >= min_seconds:",
        new="if wait is not None:",
        tests=["tests/integration/test_waits.py::test_short_waits_are_not_noted"],
    ),
]
