"""Faults in the nodes, the library and the commands."""

from __future__ import annotations

from fault import Fault

API = "shardcast/api/current_origin.py"
EXIT_CODES = "shardcast/cli/exit_codes.py"
BACKGROUND = "shardcast/api/background.py"

FAULTS = [
    Fault(
        name="what-is-listed-and-not-served-is-waited-for",
        file="shardcast/nodes/fetch_loop.py",
        old="missing_versions(newest, local, (), keep)) - passed_over - unserved)",
        new="missing_versions(newest, local, (), keep)) - passed_over)",
        tests=["tests/integration/test_ready.py"],
    ),
    Fault(
        name="interrupted-result-leaves-its-work-running",
        file=BACKGROUND,
        old="        except BaseException:\n            self.cancel()\n            raise\n",
        new="        except BaseException:\n            raise\n",
        tests=["tests/faults/test_cancelling.py"],
    ),
    Fault(
        name="lock-that-was-held-at-a-fork-stays-held",
        file=API,
        old="os.register_at_fork(after_in_child=_after_fork)\n",
        new="",
        tests=["tests/faults/test_cancelling.py"],
    ),
    Fault(
        name="exit-code-of-stalled",
        file=EXIT_CODES,
        old="    (ServerStalled, NO_SERVER),\n",
        new="",
        tests=["tests/unit/cli/test_exit_codes.py"],
    ),
    Fault(
        name="exit-code-of-unreachable",
        file=EXIT_CODES,
        old="    (ServerUnreachable, NO_SERVER),\n",
        new="",
        tests=["tests/unit/cli/test_exit_codes.py"],
    ),
    Fault(
        name="exit-code-of-wrong-bytes",
        file=EXIT_CODES,
        old="    (WrongBytes, INTEGRITY),\n",
        new="",
        tests=["tests/unit/cli/test_exit_codes.py"],
    ),
    Fault(
        name="exit-code-of-wrong-store",
        file=EXIT_CODES,
        old="    (WrongStore, USAGE),\n",
        new="",
        tests=["tests/unit/cli/test_exit_codes.py"],
    ),
    # Elsewhere
    Fault(
        name="mirror-asks-in-circles",
        file="shardcast/blobs/mirror/fetch_table.py",
        old="if self._node_id in via or len(via) >= MAX_VIA:",
        new="if len(via) >= MAX_VIA:",
        tests=["tests/integration/test_mirror.py"],
    ),
    Fault(
        name="mirror-asks-without-a-bound",
        file="shardcast/blobs/mirror/fetch_table.py",
        old="if self._node_id in via or len(via) >= MAX_VIA:",
        new="if self._node_id in via:",
        tests=["tests/integration/test_mirror.py"],
    ),
    Fault(
        name="mirror-takes-what-is-too-long",
        file="shardcast/blobs/mirror/fetch_table.py",
        old="if (item[1] or 0) > self._max_length:",
        new="if False:",
        tests=["tests/integration/test_mirror.py"],
    ),
    Fault(
        name="lacking-is-never-forgotten",
        file="shardcast/blobs/mirror/absence_cache.py",
        old="if until is not None and until <= self._clock():",
        new="if False:",
        tests=["tests/integration/test_mirror.py"],
    ),
    Fault(
        name="output-number-out-of-range",
        file="shardcast/nodes/output_records.py",
        old="return type(number) is int and 1 <= number <= MAX_VERSION",
        new="return type(number) is int and number <= MAX_VERSION",
        tests=["tests/unit/nodes/test_output_records.py"],
    ),
    Fault(
        name="restart-without-a-pause",
        file="shardcast/api/origin_process.py",
        old="if self._child and ago < _RESTART_INTERVAL:",
        new="if False:",
        tests=["tests/integration/test_origin_restart.py"],
    ),
    Fault(
        name="token-of-any-form",
        file="shardcast/access/token_text.py",
        old="if not _TOKEN.fullmatch(line):",
        new="if False:",
        tests=["tests/integration/test_unnoticed.py"],
    ),
    Fault(
        name="follow-options-without-follow",
        file="shardcast/cli/client.py",
        old="if not follow and (following_given or following != FollowOptions()):",
        new="if False:",
        tests=["tests/integration/test_unnoticed.py"],
    ),
    Fault(
        name="payload-that-changed-is-published",
        file="shardcast/sharding/publishing.py",
        old="if not FileIdentity.from_stat(after).same_content(FileIdentity.from_stat(before)):",
        new="if False:",
        tests=["tests/unit/sharding/test_sharding.py", "tests/faults/test_bad_input.py"],
    ),
    Fault(
        name="wait-of-any-length",
        file="shardcast/control/waiting.py",
        old="if wait is not None and not 0 <= wait <= MAX_FINISH_WAIT:",
        new="if False:",
        tests=["tests/integration/test_finishing.py", "tests/integration/test_library.py"],
    ),
]
