"""Faults in transfers and in what speaks with servers."""

from __future__ import annotations

from fault import Fault

BULK = "shardcast/peer/bulk.py"
CHECKING = "shardcast/peer/requests.py"
SCHEDULER = "shardcast/transfer/scheduler.py"
RETRY_STATE = "shardcast/transfer/retry_state.py"
STALLS = "shardcast/policy/stalls.py"
RETRIES = "shardcast/policy/retries.py"
MANIFESTS = "shardcast/upstream/manifests.py"
OFFERS = "shardcast/upstream/offers.py"

FAULTS = [
    # Second lines of defence
    Fault(
        name="slow-server-is-never-left",
        file=STALLS,
        old="if now - self.piece_at >= timeout:",
        new="if now - self.byte_at >= timeout:",
        tests=["tests/integration/test_answers.py"],
    ),
    Fault(
        name="silent-server-is-not-left-for-another",
        file=STALLS,
        old="if now - self.byte_at >= patience and can_move():",
        new="if False:",
        tests=["tests/integration/test_answers.py"],
    ),
    Fault(
        name="slow-disk-is-the-servers-fault",
        file=STALLS,
        old="        if writing:\n",
        new="        if False:\n",
        tests=["tests/integration/test_transfer.py::test_slow_disk_does_not_count_as_stalled_server"],
    ),
    Fault(
        name="unread-connection-is-used-again",
        file=BULK,
        old="self.kept = not response.will_close and response.isclosed()",
        new="self.kept = not response.will_close",
        tests=["tests/integration/test_answers.py"],
    ),
    Fault(
        name="connecting-has-no-time-out",
        file="shardcast/peer/connecting.py",
        old="asyncio.timeout(CONNECT_TIMEOUT)",
        new="asyncio.timeout(None)",
        tests=["tests/integration/test_answers.py::test_connecting_times_out"],
    ),
    Fault(
        name="addresses-are-tried-one-by-one",
        file="shardcast/peer/connecting.py",
        old="timeout=_HEAD_START if left else None",
        new="timeout=None",
        tests=["tests/unit/peer/test_connecting.py"],
    ),
    Fault(
        name="if-match-is-not-sent",
        file=CHECKING,
        old='headers |= {"If-Match": etag(shard.sha256), ACCEPT_HEADER: LANDING}',
        new="headers |= {ACCEPT_HEADER: LANDING}",
        tests=["tests/integration/test_answers.py"],
    ),
    Fault(
        name="one-404-gives-a-version-up",
        file=MANIFESTS,
        old="if len(failures) >= len(peers) and all(type(failure) is ServerLacks for failure in failures):",
        new="if len(failures) >= len(peers) and any(type(failure) is ServerLacks for failure in failures):",
        tests=["tests/unit/upstream/test_manifests.py"],
    ),
    Fault(
        name="404-of-some-gives-a-version-up",
        file=MANIFESTS,
        old="if len(failures) >= len(peers) and all(type(failure) is ServerLacks for failure in failures):",
        new="if failures and all(type(failure) is ServerLacks for failure in failures):",
        tests=["tests/unit/upstream/test_manifests.py"],
    ),
    Fault(
        name="empty-answers-are-a-sign-of-life",
        file=MANIFESTS,
        old="elif clock() - started > _MIN_ANSWER:",
        new="else:",
        tests=["tests/unit/upstream/test_manifests.py"],
    ),
    Fault(
        name="silent-version-never-stalls",
        file=MANIFESTS,
        old="if clock() - heard > ORIGIN_SILENT:",
        new="if False:",
        tests=["tests/unit/upstream/test_manifests.py"],
    ),
    Fault(
        name="lacking-hides-not-answering",
        file=MANIFESTS,
        old="failure = error if failure is None or isinstance(failure, ServerLacks) else failure",
        new="failure = failure or error",
        tests=["tests/unit/upstream/test_manifests.py"],
    ),
    Fault(
        name="relays-at-one-distance-wait-for-each-other",
        file=OFFERS,
        old="if distance is None or distance >= nearer_than:",
        new="if distance is None or distance > nearer_than:",
        tests=["tests/integration/test_following.py"],
    ),
    # Cancelling and races
    Fault(
        name="cancelled-answer-that-ends-well-stays-open",
        file=BULK,
        old="if not self.kept or self._pooled.cancelled:",
        new="if not self.kept:",
        tests=["tests/faults/test_cancelling.py"],
    ),
    Fault(
        name="cancelled-answer-asks-all-the-same",
        file=BULK,
        old="            if self._pooled.cancelled:\n                raise _Stale\n",
        new="",
        tests=["tests/faults/test_cancelling.py"],
    ),
    Fault(
        name="cancelled-answer-without-a-thread-stays-open",
        file=BULK,
        old="if not exchange.started or exchange.kept:",
        new="if exchange.kept:",
        tests=["tests/faults/test_cancelling.py"],
    ),
    # Elsewhere in transfers
    Fault(
        name="wrong-bytes-are-no-attempt",
        file=RETRIES,
        old="if useful and not wrong:",
        new="if useful:",
        tests=["tests/integration/test_answers.py"],
    ),
    Fault(
        name="attempts-one-too-many",
        file=RETRY_STATE,
        old="return download.attempts >= self._limits.attempts",
        new="return download.attempts > self._limits.attempts",
        tests=[
            "tests/integration/test_transfer.py::test_attempts_at_a_shard_are_bounded",
            "tests/integration/test_transfer.py::test_failing_shard_does_not_stop_the_others",
        ],
    ),
    Fault(
        name="lacking-costs-success",
        file=RETRY_STATE,
        old="if not isinstance(error, ServerLacks):\n            self._servers.ranking.failed",
        new="if True:\n            self._servers.ranking.failed",
        tests=[
            "tests/integration/test_answers.py",
        ],
    ),
    Fault(
        name="unreachable-for-ever",
        file=RETRIES,
        old="return asked_all and since is not None and now - since >= budget",
        new="return False",
        tests=["tests/integration/test_transfer.py::test_unreachable_at_start_raises_within_budget"],
    ),
    Fault(
        name="one-dead-server-is-all",
        file="shardcast/transfer/servers.py",
        old="return all(url in download.failures for url in self.usable)",
        new="return True",
        tests=["tests/integration/test_answers.py"],
    ),
    Fault(
        name="gateway-is-taken-for-the-server",
        file="shardcast/peer/failures.py",
        old='if status in GATEWAY_STATUSES and not headers.get(NODE_ID_HEADER, ""):',
        new="if False:",
        tests=["tests/faults/test_unreachable.py"],
    ),
    Fault(
        name="half-a-head-is-an-answer",
        file="shardcast/peer/bulk.py",
        old="        if lines.ended:\n            self.close()",
        new="        if False:\n            self.close()",
        tests=["tests/faults/test_unreachable.py"],
    ),
    Fault(
        name="outage-is-not-said",
        file=SCHEDULER,
        old="if outage := self._retries.outage:",
        new="if outage := None:",
        tests=["tests/integration/test_waits.py"],
    ),
    Fault(
        name="large-pieces-arrive-all-at-once",
        file="shardcast/transfer/workers.py",
        old="max_width = limits.answers_for(manifest.header.piece_size)",
        new="max_width = limits.at_once",
        tests=["tests/unit/transfer/test_transfer_memory.py"],
    ),
    Fault(
        name="manifest-without-a-budget",
        file="shardcast/protocol/manifest_reader.py",
        old="if self._length + self.shards.memory > self._memory:",
        new="if False:",
        tests=["tests/unit/transfer/test_transfer_memory.py"],
    ),
    Fault(
        name="redirects-lead-anywhere",
        file="shardcast/peer/redirects.py",
        old="return safe and target.hostname == server.hostname",
        new="return safe",
        tests=["tests/integration/test_redirects.py"],
    ),
    Fault(
        name="redirects-are-followed-after-post",
        file="shardcast/peer/redirects.py",
        old="if method in _FOLLOWED else None",
        new="if method else None",
        tests=["tests/integration/test_redirects.py"],
    ),
    Fault(
        name="range-of-another-part-is-taken",
        file="shardcast/peer/requests.py",
        old="if span is None or span[0] > request.start or span[1] < request.end:",
        new="if span is None:",
        tests=["tests/integration/test_answers.py"],
    ),
    Fault(
        name="short-range-is-taken",
        file="shardcast/peer/requests.py",
        old="or span[1] < request.end:",
        new="or False:",
        tests=["tests/integration/test_answers.py"],
    ),
    Fault(
        name="compressed-answer-is-taken",
        file="shardcast/peer/requests.py",
        old='if self.headers.get("Content-Encoding", "identity") != "identity":',
        new="if False:",
        tests=["tests/faults/test_bad_servers.py::test_wrong_answer_from_only_server_is_a_clear_error"],
    ),
    Fault(
        name="length-is-not-compared",
        file="shardcast/peer/requests.py",
        old="if self.length not in (None, end - start):",
        new="if False:",
        tests=["tests/faults/test_bad_servers.py::test_wrong_answer_from_only_server_is_a_clear_error"],
    ),
    Fault(
        name="range-is-not-asked-for",
        file="shardcast/peer/requests.py",
        old="if (request.start, request.end) != (0, shard.size):",
        new="if False:",
        tests=["tests/integration/test_transfer.py::test_pieces_before_broken_connection_are_kept"],
    ),
    Fault(
        name="whole-range-ends-one-late",
        file="shardcast/peer/requests.py",
        old='headers["Range"] = f"bytes={request.start}-{request.end - 1}"',
        new='headers["Range"] = f"bytes={request.start}-{request.end}"',
        tests=["tests/integration/test_transfer.py::test_pieces_before_broken_connection_are_kept"],
    ),
    Fault(
        name="stale-connection-is-not-tried-again",
        file="shardcast/peer/bulk.py",
        old="                if reused:\n                    continue",
        new="                if False:\n                    continue",
        tests=[
            "tests/integration/test_answers.py::test_connection_closed_while_idle_is_not_counted_as_failure"
        ],
    ),
    Fault(
        name="chunked-answer-is-not-handed-over",
        file="shardcast/peer/bulk.py",
        old="or response.chunked:",
        new="or False:",
        tests=["tests/unit/peer/test_bulk.py"],
        explained="http.client decodes chunks too: the same bytes come, of one request instead of two",
    ),
    Fault(
        name="tail-without-a-whole-piece-is-written",
        file="shardcast/peer/bulk.py",
        old="self._write(start, buffer[: filled - filled % piece_size])\n                self._check_came",
        new="self._check_came",
        tests=["tests/integration/test_answers.py"],
    ),
    Fault(
        name="list-without-a-bound",
        file="shardcast/peer/server.py",
        old="if len(body) > MAX_DISTRIBUTION_SIZE:",
        new="if False:",
        tests=["tests/faults/test_bad_servers.py::test_wrong_list_from_only_server_offers_nothing"],
    ),
    Fault(
        name="manifest-of-others-is-not-compared",
        file="shardcast/peer/server.py",
        old="if chunk[:again] != known[position : position + again]:",
        new="if False:",
        tests=["tests/integration/test_live.py::test_manifest_with_changed_beginning_is_refused"],
    ),
    Fault(
        name="manifest-of-another-line-is-taken",
        file="shardcast/upstream/manifests.py",
        old="if None not in (origin, own_origin) and own_origin != origin:",
        new="if False:",
        tests=["tests/unit/upstream/test_manifests.py"],
    ),
    Fault(
        name="manifest-of-another-digest-is-taken",
        file="shardcast/upstream/manifests.py",
        old="if listing.digest not in manifest.digests.values():",
        new="if False:",
        tests=["tests/unit/upstream/test_manifests.py"],
    ),
    Fault(
        name="manifest-of-another-identity-is-taken",
        file="shardcast/upstream/manifests.py",
        old="if None not in (listing.manifest, manifest.identity) and listing.manifest != manifest.identity:",
        new="if False:",
        tests=["tests/unit/upstream/test_manifests.py"],
    ),
    Fault(
        name="manifest-with-another-count-is-taken",
        file="shardcast/upstream/manifests.py",
        old="if listing.shards not in (None, len(manifest.shards)):",
        new="if False:",
        tests=["tests/unit/upstream/test_manifests.py"],
    ),
    Fault(
        name="follower-pauses-without-a-bound",
        file="shardcast/upstream/follower.py",
        old="Backoff(_FIRST_PAUSE, min(_LONGEST_PAUSE, interval))",
        new="Backoff(_FIRST_PAUSE, 1e9)",
        tests=["tests/integration/test_following.py"],
    ),
    Fault(
        name="confirm-takes-any-bytes",
        file="shardcast/upstream/follow.py",
        old="if listing.digest in digests and same:",
        new="if True:",
        tests=["tests/integration/test_following.py"],
    ),
    Fault(
        name="confirm-takes-another-manifest",
        file="shardcast/upstream/follow.py",
        old="if listing.digest in digests and same:",
        new="if listing.digest in digests:",
        tests=["tests/integration/test_following.py"],
    ),
    Fault(
        name="lease-ends-at-the-first-pause",
        file="shardcast/upstream/lease.py",
        old="pause = _BACKOFF.spread(failures, self._random)",
        new="return",
        tests=["tests/integration/test_leases.py"],
    ),
    Fault(
        name="look-ahead-without-a-bound",
        file="shardcast/transfer/shard_opener.py",
        old="if shards.ranges_ready < _READY and shard.number <= shards.reach:",
        new="if True:",
        tests=["tests/integration/test_transfer.py::test_open_shards_never_exceed_the_look_ahead"],
    ),
]
