"""Faults in what bounds the cost of clients: connections, heads, bodies, answers, and what nodes report."""

from __future__ import annotations

from fault import Fault

BELOW = "shardcast/server/downstream.py"
BODIES = "shardcast/server/bodies.py"
BOUNDS = "shardcast/server/bounds.py"
CONNECTIONS = "shardcast/server/connections.py"
HASHING = "shardcast/blobs/directory/hashing.py"
LISTS = "shardcast/blobs/server/hash_routes/lists.py"
TURNS = "shardcast/server/turns.py"
WATCH = "shardcast/server/watch.py"

CLOSED_UNREAD = ["tests/faults/test_first_requests.py::test_connections_without_a_request_are_closed"]
COUNTED = ["tests/faults/test_connections.py::test_loopback_and_trusted_proxies_are_not_counted"]
LIMITED = ["tests/faults/test_connections.py::test_connections_of_one_address_are_limited"]
LARGE_BODY = ["tests/faults/test_connections.py::test_large_body_reserves_memory_and_small_one_does_not"]
SLOW_CLIENTS = ["tests/faults/test_slow_clients.py::test_slow_clients_are_closed_within_their_bounds"]

FAULTS = [
    # Connections
    Fault(
        name="mapped-address-is-another-client",
        file=BOUNDS,
        old="if isinstance(address, IPv6Address) and address.ipv4_mapped:",
        new="if False:",
        tests=COUNTED,
    ),
    Fault(
        name="connections-of-this-machine-are-counted",
        file=BOUNDS,
        old="None if address is None or address.is_loopback else address",
        new="address",
        tests=COUNTED,
    ),
    Fault(
        name="connections-of-a-trusted-proxy-are-counted",
        file=BOUNDS,
        old="None if any(address in network for network in self.trusted) else address",
        new="address",
        tests=COUNTED,
    ),
    Fault(
        name="connections-of-an-address-without-a-bound",
        file=CONNECTIONS,
        old="if self._open[address] > self._bounds.connections:",
        new="if False:",
        tests=LIMITED,
    ),
    Fault(
        name="ended-connection-still-counts",
        file=CONNECTIONS,
        old="self._open[address] -= 1",
        new="pass",
        tests=LIMITED,
    ),
    Fault(
        name="each-refused-connection-is-logged",
        file=CONNECTIONS,
        old="if now - self._logged_at.get(address, -_LOG_SECONDS) >= _LOG_SECONDS:",
        new="if True:",
        tests=LIMITED,
    ),
    Fault(
        name="idle-connection-is-kept-for-aiohttps-time",
        file="shardcast/server/application.py",
        old="        keepalive_timeout=app[BOUNDS].idle_seconds,\n",
        new="",
        tests=["tests/faults/test_first_requests.py::test_idle_connection_is_closed_after_its_time"],
    ),
    # Heads and requests ahead
    Fault(
        name="second-head-is-waited-for-for-ever",
        file=WATCH,
        old="if self.head_since is None:",
        new="if False:",
        tests=["tests/faults/test_first_requests.py::test_second_request_head_has_a_deadline"],
    ),
    Fault(
        name="answered-connection-counts-as-one-without-a-head",
        file=WATCH,
        old="self.request, self.head_since, self.bytes_ahead = request, None, 0",
        new="self.request, self.bytes_ahead = request, 0",
        tests=CLOSED_UNREAD,
    ),
    Fault(
        name="requests-ahead-without-a-bound",
        file=WATCH,
        old="if self.bytes_ahead > _MAX_AHEAD:",
        new="if False:",
        tests=["tests/faults/test_connections.py::test_requests_ahead_of_an_open_answer_are_bounded"],
    ),
    Fault(
        name="requests-ahead-add-up-over-answers",
        file=WATCH,
        old="self.request, self.head_since, self.bytes_ahead = request, None, 0",
        new="self.request, self.head_since = request, None",
        tests=[
            "tests/faults/test_connections.py::test_requests_ahead_of_one_answer_do_not_count_at_the_next"
        ],
    ),
    # Bodies
    Fault(
        name="body-that-comes-too-slowly-is-read-on",
        file=CONNECTIONS,
        old="if content.total_bytes - before < minimum:",
        new="if False:",
        tests=SLOW_CLIENTS,
    ),
    Fault(
        name="body-that-has-to-wait-counts-as-slow",
        file=CONNECTIONS,
        old="if not watch.transport.is_reading() or not watch.body_awaited:",
        new="if False:",
        tests=["tests/faults/test_connections.py::test_sender_waiting_for_100_continue_is_not_too_slow"],
    ),
    Fault(
        name="small-body-needs-memory",
        file=BODIES,
        old="if size > SMALL_BODY and not reservation.grow(size):",
        new="if not reservation.grow(size):",
        tests=LARGE_BODY,
    ),
    Fault(
        name="bodies-take-all-the-memory-there-is",
        file=BOUNDS,
        old="if self._memory.used + more > self._memory.max_bytes:",
        new="if False:",
        tests=LARGE_BODY,
    ),
    Fault(
        name="memory-of-a-body-is-never-released",
        file=BOUNDS,
        old="self.used -= reservation.size",
        new="pass",
        tests=LARGE_BODY,
    ),
    Fault(
        name="body-that-says-it-is-too-long-is-read",
        file=BODIES,
        old="if (request.content_length or 0) > max_bytes:",
        new="if False:",
        tests=["tests/faults/test_connections.py::test_too_large_body_is_not_read"],
    ),
    # Answers
    Fault(
        name="answer-that-is-not-taken-fills-the-memory",
        file="shardcast/server/writing.py",
        old="PORTION = 64 << 10",
        new="PORTION = 64 << 20",
        tests=["tests/faults/test_connections.py::test_unread_answer_costs_little_memory"],
    ),
    Fault(
        name="reader-that-takes-nothing-is-kept",
        file=CONNECTIONS,
        old="elif now - watch.taken_at >= bounds.reader_seconds:",
        new="elif False:",
        tests=SLOW_CLIENTS,
    ),
    Fault(
        name="answers-of-all-have-no-bound-together",
        file=CONNECTIONS,
        old="if excess > 0:",
        new="if False:",
        tests=[
            "tests/faults/test_connections.py::test_longest_stalled_readers_are_closed_when_memory_is_short"
        ],
    ),
    Fault(
        name="newest-reader-goes-first",
        file=CONNECTIONS,
        old="key=lambda watch: watch.taken_at)",
        new="key=lambda watch: -watch.taken_at)",
        tests=[
            "tests/faults/test_connections.py::test_longest_stalled_readers_are_closed_when_memory_is_short"
        ],
    ),
    # Work of the event loop, and of threads
    Fault(
        name="slices-leave-others-no-turn",
        file=TURNS,
        old="await asyncio.sleep(0)\n",
        new="pass\n",
        tests=["tests/unit/server/test_turns.py::test_other_tasks_run_between_slices"],
    ),
    Fault(
        name="no-rest-after-long-work",
        file=TURNS,
        old="await asyncio.sleep(max(0.0, self._rest_until - self._clock()))",
        new="pass",
        tests=["tests/unit/server/test_turns.py::test_pause_follows_long_work"],
    ),
    Fault(
        name="any-number-waits-for-a-turn",
        file=TURNS,
        old="if self._waiting >= _MAX_WAITING:",
        new="if False:",
        tests=["tests/unit/server/test_turns.py::test_request_beyond_max_waiting_gets_503"],
    ),
    Fault(
        name="large-report-is-taken-at-once",
        file="shardcast/server/routes/report.py",
        old="if len(raw) <= _SMALL:",
        new="if True:",
        tests=["tests/unit/server/test_turns.py::test_large_reports_take_turns_and_small_ones_do_not_wait"],
    ),
    Fault(
        name="status-is-made-for-each-who-asks",
        file="shardcast/server/routes/health.py",
        old="if self._clock() < self._valid_until:",
        new="if False:",
        tests=["tests/unit/server/test_turns.py::test_costly_status_is_shared_and_cheap_one_is_fresh"],
    ),
    Fault(
        name="work-goes-on-for-who-hung-up",
        file="shardcast/server/hang_ups.py",
        old="if request.transport is None or request.transport.is_closing():",
        new="if False:",
        tests=["tests/unit/blobs/test_hang_ups.py::test_hashing_of_shard_stops_when_all_clients_disconnect"],
    ),
    Fault(
        name="hashing-goes-on-when-nobody-waits",
        file=HASHING,
        old="                await cancel([shared.work])\n",
        new="",
        tests=["tests/unit/blobs/test_hang_ups.py::test_hashing_of_shard_stops_when_all_clients_disconnect"],
    ),
    Fault(
        name="hashing-takes-the-threads-of-all-else",
        file=HASHING,
        old="return await in_pool(self._pool, work, *args)",
        new="return await asyncio.to_thread(work, *args)",
        tests=["tests/unit/blobs/test_hang_ups.py::test_hashing_leaves_threads_for_broadcast"],
    ),
    Fault(
        name="ended-hashing-answers-who-comes-later",
        file=HASHING,
        old="                del self._shared[place]  # the next caller begins anew\n",
        new="",
        tests=["tests/unit/blobs/test_hang_ups.py::test_hashing_of_shard_stops_when_all_clients_disconnect"],
    ),
    # Reports
    Fault(
        name="invented-nodes-hide-others",
        file=BELOW,
        old="address = self._addresses.largest()\n"
        "        return next(iter(self._reported_by[address, self._reporters[address].largest()]))",
        new="return next(iter(self._nodes))",
        tests=["tests/unit/protocol/test_report.py::test_invented_nodes_hide_no_others"],
    ),
    Fault(
        name="nodes-of-an-address-hide-each-other",
        file=BELOW,
        old="return next(iter(self._reported_by[address, self._reporters[address].largest()]))",
        new="return next(name for name, told in self._nodes.items() if told.address == address)",
        tests=["tests/unit/protocol/test_report.py::test_invented_nodes_hide_no_others"],
    ),
    Fault(
        name="versions-of-nodes-below-without-a-bound",
        file=BELOW,
        old="if _name_count(node) <= room:",
        new="if True:",
        tests=["tests/unit/protocol/test_report.py::test_nodes_with_very_many_versions_take_bounded_memory"],
    ),
    Fault(
        name="silent-node-stays-below",
        file=BELOW,
        old="if now - entry.at > _FORGOTTEN]",
        new="if False]",
        tests=["tests/unit/protocol/test_report.py::test_silent_node_is_forgotten_after_a_minute"],
    ),
    Fault(
        name="node-is-below-itself",
        file=BELOW,
        old="if node.node == self._node_id or (known and known.at > reported_at):",
        new="if known and known.at > reported_at:",
        tests=["tests/unit/protocol/test_report.py::test_a_node_is_never_below_itself"],
    ),
    Fault(
        name="report-of-nothing-but-lists-is-read",
        file="shardcast/protocol/report.py",
        old='if raw.count(b"[") + raw.count(b"{") > _MAX_BRACKETS:',
        new="if False:",
        tests=["tests/unit/protocol/test_report.py::test_report_of_brackets_is_refused_before_json_parsing"],
    ),
    Fault(
        name="silent-upstream-is-told-again-and-again",
        file="shardcast/upstream/report.py",
        old="if follower.hello is None or url in sending or denials.rests(url):",
        new="if follower.hello is None or denials.rests(url):",
        tests=[
            "tests/unit/upstream/test_reporting.py::test_silent_upstream_does_not_delay_reports_to_others"
        ],
    ),
    Fault(
        name="restarted-upstream-knows-nothing-for-a-while",
        file="shardcast/upstream/report.py",
        old="if self.upstream != now.upstream or self.changes != now.changes:",
        new="if self.changes != now.changes:",
        tests=["tests/unit/upstream/test_reporting.py::test_restarted_upstream_gets_a_report_at_once"],
    ),
    # Long lists of checksums
    Fault(
        name="long-list-is-read-at-once",
        file=LISTS,
        old="if len(body) <= _SHORT:",
        new="if True:",
        tests=[
            "tests/unit/blobs/test_long_lists.py::test_long_list_gets_503_when_queue_is_full_and_short_one_is_read"
        ],
    ),
    Fault(
        name="piece-of-a-long-list-has-any-length",
        file=LISTS,
        old="items = _strings(text[start:cut]) if cut - start <= 2 * _PIECE else []",
        new="items = _strings(text[start:cut])",
        tests=["tests/unit/blobs/test_long_lists.py::test_malformed_checksum_list_is_refused_incrementally"],
    ),
    # Nonsense and copies
    Fault(
        name="nonsense-is-logged-with-a-traceback",
        file="shardcast/server/application.py",
        old="if isinstance(error, (HttpProcessingError, ConnectionError, web.RequestPayloadError)):",
        new="if False:",
        tests=["tests/integration/test_requests.py::test_other_target_forms_cannot_leave_the_data_directory"],
    ),
    Fault(
        name="versions-of-another-line-are-copies",
        file=BELOW,
        old="sum(node.origin == origin and version in node.has for node in nodes)",
        new="sum(version in node.has for node in nodes)",
        tests=["tests/integration/test_copies.py::test_nodes_of_other_origins_do_not_count"],
    ),
]
