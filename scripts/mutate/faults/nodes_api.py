"""Faults in the nodes, the library and the commands."""

from __future__ import annotations

from fault import Fault

API = "shardcast/api/__init__.py"
EXIT_CODES = "shardcast/cli/exit_codes.py"
BACKGROUND = "shardcast/api/background.py"

FAULTS = [
    Fault(
        name="interrupted-result-leaves-its-work-running",
        file=BACKGROUND,
        old="        except BaseException:\n            self.cancel()\n            raise\n",
        new="        except BaseException:\n            raise\n",
        tests=["tests/test_cancelling.py"],
    ),
    Fault(
        name="lock-that-was-held-at-a-fork-stays-held",
        file=API,
        old="os.register_at_fork(after_in_child=_after_fork)\n",
        new="",
        tests=["tests/test_cancelling.py"],
    ),
    Fault(
        name="exit-code-of-stalled",
        file=EXIT_CODES,
        old="    (ServerStalled, NO_SERVER),\n",
        new="",
        tests=["tests/test_exit_codes.py"],
    ),
    Fault(
        name="exit-code-of-unreachable",
        file=EXIT_CODES,
        old="    (ServerUnreachable, NO_SERVER),\n",
        new="",
        tests=["tests/test_exit_codes.py"],
    ),
    Fault(
        name="exit-code-of-wrong-bytes",
        file=EXIT_CODES,
        old="    (WrongBytes, INTEGRITY),\n",
        new="",
        tests=["tests/test_exit_codes.py"],
    ),
    Fault(
        name="exit-code-of-wrong-store",
        file=EXIT_CODES,
        old="    (WrongStore, USAGE),\n",
        new="",
        tests=["tests/test_exit_codes.py"],
    ),
]
