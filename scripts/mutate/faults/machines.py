"""Faults in what makes odd machines do: addresses, clocks, few resources, processes, closed descriptors."""

from __future__ import annotations

from fault import Fault

AGES = "shardcast/ages.py"
BINDING = "shardcast/server/binding.py"
CONCURRENCY = "shardcast/concurrency.py"
PROCESS = "shardcast/nodes/child_process.py"
STREAMS = "shardcast/cli/streams.py"

WAITS = "if not self._threads or (self._alone and len(self._running) >= len(self._threads)):"
FAMILIES = ["tests/integration/test_binding.py::test_host_is_bound_in_all_its_families_at_one_port"]
PRINTED = ["tests/integration/test_binding.py"]

FAULTS = [
    # Addresses that a server listens on
    Fault(
        name="default-host-is-of-ipv4-alone",
        file=BINDING,
        old='    EVERY_ADDRESS: {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"},',
        new='    EVERY_ADDRESS: {socket.AF_INET: "0.0.0.0"},',
        tests=FAMILIES,
    ),
    Fault(
        name="ipv4-comes-in-by-ipv6",
        file=BINDING,
        old="sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)",
        new="sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)",
        tests=FAMILIES,
    ),
    Fault(
        name="free-port-is-another-in-each-family",
        file=BINDING,
        old="                port = sock.getsockname()[1]\n",
        new="",
        tests=FAMILIES,
    ),
    Fault(
        name="port-that-one-family-has-taken-fails",
        file=BINDING,
        old="if port or error.errno != errno.EADDRINUSE or attempt == _SAME_PORT:",
        new="if True:",
        tests=["tests/integration/test_binding.py::test_free_port_is_free_in_both_families"],
    ),
    Fault(
        name="machine-without-ipv6-does-not-start",
        file=BINDING,
        old="if error.errno not in _NO_FAMILY:",
        new="if True:",
        tests=["tests/integration/test_binding.py::test_node_listens_on_ipv4_without_ipv6"],
    ),
    Fault(
        name="host-of-all-addresses-is-printed",
        file=BINDING,
        old="        if host in _FAMILIES:\n",
        new="        if host == EVERY_ADDRESS:\n",
        tests=["tests/integration/test_binding.py::test_loopback_is_printed_without_a_route"],
    ),
    Fault(
        name="own-address-is-never-found",
        file=BINDING,
        old="probe.connect((_ELSEWHERE[family], 9))",
        new="return None",
        tests=["tests/integration/test_binding.py::test_routable_address_is_printed"],
    ),
    # Few resources
    Fault(
        name="soft-limit-of-files-stays",
        file="shardcast/nodes/runtime.py",
        old="resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))",
        new="pass",
        tests=["tests/faults/test_few_resources.py::test_limit_of_open_files_is_raised_to_the_hard_limit"],
    ),
    Fault(
        name="work-without-a-new-thread-fails",
        file=CONCURRENCY,
        old=WAITS,
        new="if True:",
        tests=["tests/faults/test_few_resources.py::test_work_waits_for_existing_threads"],
    ),
    Fault(
        name="work-that-is-to-be-alone-waits",
        file=CONCURRENCY,
        old=WAITS,
        new="if not self._threads:",
        tests=["tests/faults/test_few_resources.py::test_exclusive_work_fails_without_a_free_thread"],
    ),
    Fault(
        name="thread-whose-work-has-just-ended-is-not-used",
        file=CONCURRENCY,
        old=WAITS,
        new="if not self._threads or self._alone:",
        tests=["tests/faults/test_few_resources.py::test_exclusive_work_reuses_a_thread_that_just_ended"],
    ),
    Fault(
        name="libuv-aborts-where-it-gets-no-threads",
        file="shardcast/nodes/runtime.py",
        old="loop = _new_loop(fast_loop and enough)",
        new="loop = _new_loop(fast_loop)",
        tests=["tests/faults/test_few_resources.py::test_libuv_is_not_used_where_it_would_abort"],
    ),
    Fault(
        name="libuv-starts-its-threads-when-others-have-them",
        file="shardcast/nodes/runtime.py",
        old='            loop.run_until_complete(loop.getnameinfo(("127.0.0.1", 0), _NUMERIC))\n',
        new="",
        tests=["tests/faults/test_few_resources.py::test_libuv_is_not_used_where_it_would_abort"],
    ),
    Fault(
        name="cancelled-work-of-a-pool-goes-on",
        file=CONCURRENCY,
        old="            await run_to_completion(_ended(job))\n",
        new="            pass\n",
        tests=[
            "tests/unit/base/test_concurrency.py::test_cancelled_pool_work_has_completed_or_never_started"
        ],
    ),
    Fault(
        name="cancelled-work-of-a-pool-is-begun",
        file=CONCURRENCY,
        old="if not job.cancel():",
        new="if True:",
        tests=[
            "tests/unit/base/test_concurrency.py::test_cancelled_pool_work_has_completed_or_never_started"
        ],
    ),
    Fault(
        name="few-descriptors-change-nothing",
        file="shardcast/transfer/limits.py",
        old="return replace(self, at_once=min(self.at_once, share), look_ahead=min(self.look_ahead, share))",
        new="return self",
        tests=["tests/faults/test_few_resources.py::test_limits_fit_the_free_descriptors"],
    ),
    Fault(
        name="few-threads-end-a-download",
        file="shardcast/transfer/scheduler.py",
        old="        if not running:\n            raise limit",
        new="        if True:\n            raise limit",
        tests=["tests/faults/test_few_resources.py::test_client_with_few_threads_lowers_concurrency"],
    ),
    Fault(
        name="few-descriptors-for-shards-end-a-download",
        file="shardcast/transfer/shard_opener.py",
        old="if all(number > shard.number for number in shards.numbers):",
        new="if True:",
        tests=["tests/faults/test_few_resources.py::test_download_survives_temporary_lack_of_descriptors"],
    ),
    Fault(
        name="limit-of-this-machine-is-waited-out",
        file="shardcast/upstream/lists.py",
        old="retry = any(not isinstance(error, CannotAsk) for error in passing)",
        new="retry = any(passing)",
        tests=["tests/faults/test_few_resources.py::test_client_with_too_few_descriptors_exits_with_6"],
    ),
    Fault(
        name="limit-of-this-machine-is-the-servers",
        file="shardcast/peer/session.py",
        old="if limit := LocalLimit.of(error.os_error):",
        new="if limit := None:",
        tests=["tests/faults/test_few_resources.py::test_client_with_too_few_descriptors_exits_with_6"],
    ),
    Fault(
        name="limit-in-mid-download-is-the-servers",
        file="shardcast/peer/bulk.py",
        old="            if limit := LocalLimit.of(error):\n",
        new="            if limit := None:\n",
        tests=["tests/faults/test_few_resources.py::test_local_lack_of_connections_blames_no_server"],
    ),
    Fault(
        name="each-lack-of-descriptors-is-logged",
        file="shardcast/nodes/runtime.py",
        old="elif loop.time() - self._told_at >= _TOLD_AGAIN:",
        new="else:",
        tests=["tests/faults/test_few_resources.py::test_failure_to_accept_is_logged_once_a_minute"],
    ),
    # Ages
    Fault(
        name="age-is-negative",
        file=AGES,
        old="return max(0.0, now - then)",
        new="return now - then",
        tests=["tests/unit/base/test_ages.py::test_age_is_never_negative"],
    ),
    Fault(
        name="clocks-that-differ-a-little-are-wrong",
        file=AGES,
        old="return then > now + CLOCK_SKEW",
        new="return then > now",
        tests=["tests/unit/base/test_ages.py::test_future_mtime_of_own_file_is_reset_to_now"],
    ),
    Fault(
        name="touched-lock-is-as-old-as-before",
        file=AGES,
        old="if known != then:",
        new="if known is None:",
        tests=["tests/unit/base/test_ages.py::test_future_time_of_foreign_file_counts_from_first_sight"],
    ),
    Fault(
        name="names-from-the-future-without-a-bound",
        file=AGES,
        old="while len(self._seen) > _MAX_SEEN:",
        new="while False:",
        tests=["tests/unit/base/test_ages.py::test_remembered_future_times_are_bounded"],
    ),
    # Processes
    Fault(
        name="interrupt-leaves-a-process-that-nobody-knows",
        file=PROCESS,
        old="            with deferred_interrupts():\n",
        new="            with contextlib.nullcontext():\n",
        tests=["tests/integration/test_node_process.py::test_interrupt_during_start_leaves_no_process"],
    ),
    Fault(
        name="interrupt-during-a-start-is-lost",
        file=PROCESS,
        old="            signal.raise_signal(number)\n",
        new="            pass\n",
        tests=[
            "tests/integration/test_node_process.py::"
            "test_deferred_interrupt_acts_at_block_end_by_prior_handler"
        ],
    ),
    Fault(
        name="handlers-of-others-are-not-put-back",
        file=PROCESS,
        old="            signal.signal(which, handler)\n",
        new="            pass\n",
        tests=[
            "tests/integration/test_node_process.py::"
            "test_deferred_interrupt_acts_at_block_end_by_prior_handler"
        ],
    ),
    Fault(
        name="interrupted-wait-leaves-a-node",
        file=PROCESS,
        old="            self._process.kill()\n            self._process.wait()\n"
        "            raise\n        finally:",
        new="            raise\n        finally:",
        tests=["tests/integration/test_node_process.py::test_interrupt_while_waiting_leaves_no_process"],
    ),
    Fault(
        name="node-that-never-listens-is-waited-for-for-ever",
        file=PROCESS,
        old="select.select([ready], [], [], max(0.0, deadline - time.monotonic()))",
        new="select.select([ready], [], [])",
        tests=["tests/integration/test_node_process.py::test_node_that_never_reports_ready_is_ended"],
    ),
    Fault(
        name="why-a-node-did-not-start-is-lost",
        file=PROCESS,
        old='            raise from_wire(report["error"])\n',
        new='            raise NodeFailed(f"the {self.role} could not start")\n',
        tests=["tests/integration/test_node_process.py::test_failed_start_raises_the_reason"],
    ),
    Fault(
        name="interrupt-at-the-terminal-ends-the-node-too",
        file=PROCESS,
        old="start_new_session=True,",
        new="start_new_session=False,",
        tests=["tests/integration/test_library.py::test_origin_survives_ctrl_c_until_its_process_ends_it"],
    ),
    Fault(
        name="pipe-to-a-node-has-the-number-of-a-stream",
        file=PROCESS,
        old="ready, ready_there = _pipe()",
        new="ready, ready_there = os.pipe()",
        tests=["tests/integration/test_node_process.py::test_node_starts_without_standard_streams"],
    ),
    # Streams and descriptors
    Fault(
        name="closed-descriptors-stay-closed",
        file="shardcast/cli/descriptors.py",
        old="    for descriptor in range(3):\n",
        new="    for descriptor in ():\n",
        tests=["tests/faults/test_telling.py::test_download_with_closed_streams_succeeds"],
    ),
    Fault(
        name="answer-that-is-lost-is-no-failure",
        file=STREAMS,
        old="    if sink and sink.failure:\n        if isinstance",
        new="    if sink and False:\n        if isinstance",
        tests=["tests/faults/test_telling.py::test_unprintable_answer_is_a_failure"],
    ),
    Fault(
        name="lost-lines-are-not-told",
        file=STREAMS,
        old="self._send(lost.encode() + text if self._notices else text)",
        new="self._send(text)",
        tests=["tests/faults/test_telling.py::test_lines_for_a_stalled_reader_cost_a_second_and_are_counted"],
    ),
    Fault(
        name="each-line-waits-for-a-reader-that-stands-still",
        file=STREAMS,
        old="patience = 0.0 if self._unread and self.patience is not None else self.patience",
        new="patience = self.patience",
        tests=["tests/faults/test_telling.py::test_lines_for_a_stalled_reader_cost_a_second_and_are_counted"],
    ),
    Fault(
        name="reader-that-stands-still-is-waited-for-for-ever",
        file=STREAMS,
        old="self._unread = not poll.poll(None if patience is None else patience * 1000)",
        new="self._unread = not poll.poll(None)",
        tests=["tests/faults/test_telling.py::test_node_survives_an_unread_log"],
    ),
    Fault(
        name="name-that-is-not-utf-8-ends-a-command",
        file=STREAMS,
        old='sys.stdout = _guarded(1, sys.stdout, "shardcast")',
        new='sys.stdout = _guarded(1, sys.stdout, "strict")',
        tests=["tests/faults/test_telling.py::test_undecodable_name_is_printed_as_its_bytes"],
    ),
    Fault(
        name="result-that-was-not-printed-is-not-told",
        file="shardcast/cli/main.py",
        old="if unprinted := print_failure():",
        new="if unprinted := None:",
        tests=["tests/faults/test_telling.py::test_unprintable_result_is_a_warning"],
    ),
    Fault(
        name="full-terminal-stops-a-command",
        file=STREAMS,
        old="self._target = _own_terminal(descriptor)",
        new="self._target = descriptor",
        tests=["tests/faults/test_telling.py::test_unread_terminal_does_not_block_a_command"],
    ),
    Fault(
        name="closed-stdin-is-an-empty-one",
        file=STREAMS,
        old="sys.stdin = io.TextIOWrapper(io.BufferedReader(_ClosedInput()))",
        new="sys.stdin = io.TextIOWrapper(io.BytesIO())",
        tests=["tests/faults/test_telling.py::test_closed_stream_that_is_needed_is_usage_error"],
    ),
    # Starts in threads, and the end of a node
    Fault(
        name="node-that-does-not-end-is-left",
        file=PROCESS,
        old="            if not self._has_ended(0):\n                self._process.kill()\n",
        new="            if False:\n                self._process.kill()\n",
        tests=["tests/integration/test_node_process.py::test_node_ignoring_sigterm_is_killed"],
    ),
    Fault(
        name="other-threads-start-no-nodes",
        file=PROCESS,
        old="if threading.current_thread() is not threading.main_thread():",
        new="if False:",
        tests=[
            "tests/integration/test_node_process.py::test_other_threads_start_nodes_without_changing_handlers"
        ],
    ),
]
