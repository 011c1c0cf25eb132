"""One role's operations on a kind of file system, in a process with the shim and its rules.

``python -m tests.support.faults.kinds ROLE PLACE`` prints a line of JSON for each operation, with its outcome
and messages. What is lacking stays lacking from the first call to the last.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from functools import partial
from importlib import import_module
from pathlib import Path

from shardcast.store import data_dir, holds
from shardcast.store.directory_lock import DirectoryLock
from tests.support.faults.cells import Operation
from tests.support.faults.process import BARE, Nodes, Outcome, Watch

KINDS: dict[str, dict[str, int]] = {
    "SMB": {
        "fsync-folder": errno.EINVAL,
        "flock": errno.ENOLCK,
        "chmod": errno.EPERM,
        "link": errno.EOPNOTSUPP,
        "bind": errno.EPERM,
        "mkfifo": errno.EOPNOTSUPP,
    },
    "FUSE": {
        "fsync-folder": errno.ENOTSUP,
        "flock": errno.ENOSYS,
        "chmod": errno.ENOSYS,
        "link": errno.ENOSYS,
        "bind": errno.EOPNOTSUPP,
        "mkfifo": errno.ENOSYS,
    },
    "overlay": {"rename-folder": errno.EXDEV},
}
"""What each lacks, beside symbolic links: the calls, as the shim names them, and what they give."""


def environment(kind: dict[str, int], below: Path) -> dict[str, str]:
    """Return the variables that make the shim treat a folder as such a file system."""
    rules = ",".join(f"{call}={number}" for call, number in kind.items())
    return {"FAULTS_RULES": rules, "FAULTS_BELOW": str(below)}


def main(role: str, place: Path) -> None:
    """Run a role's operations."""
    os.environ.pop("LD_PRELOAD", None)  # what is started here is as it is
    stdout = sys.stdout
    vars(holds)["RECENTLY_READ"] = 0.0  # what was looked at is retired at once
    vars(data_dir)["DirectoryLock"] = partial(DirectoryLock, settling=0.0)
    vars(shutil)["copystat"] = lambda *_, **__: None  # with which the operations' own copies set permissions
    watch = Watch.begin()
    nodes = Nodes(watch)
    operations: tuple[type[Operation], ...] = import_module(f"tests.support.faults.{role}").OPERATIONS
    for number, kind in enumerate(operations):
        folder = place / str(number)
        folder.mkdir()
        operation = kind(folder, nodes)
        try:
            outcome = _run(operation)
        except Exception as error:  # noqa: BLE001  it is the result
            outcome = Outcome(BARE, stderr=repr(error))
        finally:
            operation.end()
        said, unhandled = watch.take()
        line = {"operation": operation.name, "code": outcome.code, "said": f"{outcome.stderr}\n{said}"}
        print(json.dumps({**line, "unhandled": unhandled}), file=stdout, flush=True)
    nodes.close()


def _run(operation: Operation) -> Outcome:
    """Run an operation, without faults beyond those of the file system."""
    operation.begin()
    operation.prepare()
    outcome = operation.act()
    operation.check(outcome)
    operation.recover()
    return outcome


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
