"""The hook of a following client: a command run for each version and each withdrawal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shardcast.constants import HOOK_VARIABLES, IN_HOOK
from shardcast.disk_errors import disk_errors
from shardcast.errors import ShardcastError
from shardcast.file_locks import Lock, open_lock_file, try_lock
from shardcast.nodes.child_process import signal_name
from shardcast.nodes.output_names import HOOK_LOCK
from shardcast.nodes.runtime import callers_file_limit
from shardcast.plain_text import one_line

log = logging.getLogger(__name__)

NEW_LINE, WITHDRAWN, WITHDRAWN_REASON, VERSION, PATH, NAME, PREVIOUS_PATH, METADATA = HOOK_VARIABLES
_LOOK_AGAIN = 0.05
"""Seconds between two looks at whether a hook has ended."""
_GRACE = 5.0
"""Seconds left to a hook when the client ends."""
_SCRIPT = """\
trap : TERM
exec 3>&2 2>/dev/null
ulimit -S -n "$1"
sh -c "$2" </dev/null 2>&3 3>&-
exit $?
"""
"""A shell that holds the lock, as stdin, exactly as long as the hook runs; background processes left by the
hook do not hold the lock. The shell is silent. At SIGTERM it waits for the hook, since the hook may handle
the signal. The hook may have as many open files as the caller of this process."""
_LONGEST_NAME = 255
_SIGNALLED = 128
"""Added by a shell to the number of the signal that ended its command, to give the exit code."""


class HookFailed(ShardcastError):
    """A failed hook that ends following."""


@dataclass(frozen=True, slots=True)
class Hook:
    """The command run by a follower.

    Attributes:
        command: as people write it, with ``{path}`` and ``{version}``.
        folder: the folder of outputs.
        stops: whether a failure ends following.
    """

    command: str
    folder: Path
    stops: bool = False

    async def run(self, path: Path, version: str, variables: Mapping[str, str]) -> None:
        """Run the command by ``sh -c``, with ``{path}`` and ``{version}`` replaced, and wait for it.

        Output goes to stderr; stdin is empty. A hook already running for the folder, an earlier run's or
        another follower's, is waited for. Cancelling ends the hook and all processes started by it. A failure
        is logged.

        Args:
            path: the output of the version.
            version: the version's name.
            variables: those of ``HOOK_VARIABLES`` to set for this run.

        Raises:
            HookFailed: the hook failed, and ``stops``.
            LocalDiskError: the lock can't be opened.
        """
        placeholders = {"{path}": shlex.quote(str(path)), "{version}": shlex.quote(version)}
        script = re.sub(r"\{path\}|\{version\}", lambda found: placeholders[found[0]], self.command)
        with disk_errors("could not lock", self.folder / HOOK_LOCK):
            lock = await asyncio.to_thread(open_lock_file, self.folder / HOOK_LOCK)
        try:
            await self._take(lock)
            code = await _run(script, lock, {VERSION: version, PATH: str(path), **variables})
        except OSError as error:
            self._fail(f"the hook for {version} could not be started: {error.strerror}")
        else:
            if code:
                self._fail(f"the hook for {version} {_describe_end(code)}: {script}")
        finally:
            os.close(lock)

    def _fail(self, message: str) -> None:
        """Log a failure.

        Raises:
            HookFailed: ``stops``.
        """
        if self.stops:
            raise HookFailed(message)
        log.error("%s", message)

    async def _take(self, lock: int) -> None:
        """Wait until no hook runs for the folder, where the file system has locks."""
        told = False
        while try_lock(lock) is Lock.HELD:
            if not told:
                told = True
                log.warning(
                    "waiting for a hook that runs for %s already: an earlier run's, or another follower's",
                    self.folder,
                )
            await asyncio.sleep(_LOOK_AGAIN)


def name_variable(name: str) -> str:
    """Return a publisher's name, shortened and cleaned for an environment variable."""
    return one_line(name, _LONGEST_NAME).encode("utf-8", "replace").decode()


def _describe_end(code: int) -> str:
    """Return in words how a hook ended, from the exit code of its shell."""
    signalled = -code if code < 0 else code - _SIGNALLED
    return f"was ended by {signal_name(signalled)}" if signalled > 0 else f"ended with exit code {code}"


async def _run(script: str, lock: int, variables: Mapping[str, str]) -> int:
    """Run a script, and return the exit code.

    Raises:
        OSError: no shell can be started.
    """
    hook = _start(script, lock, variables)
    try:
        return await _wait(hook)
    except asyncio.CancelledError:
        await asyncio.shield(asyncio.ensure_future(_end(hook)))
        raise


def _start(script: str, lock: int, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a script as a process group of its own; without uvloop, since uvloop leaks ``lock`` to children.

    Raises:
        OSError: no shell can be started.
    """
    environment = {name: value for name, value in os.environ.items() if name not in HOOK_VARIABLES}
    return subprocess.Popen(
        ["sh", "-c", _SCRIPT, "sh", str(callers_file_limit()), script],
        stdin=lock,
        stdout=sys.stderr.fileno(),
        start_new_session=True,
        env=environment | {IN_HOOK: "1"} | dict(variables),
    )


async def _wait(hook: subprocess.Popen[bytes]) -> int:
    """Wait until a hook has ended, and return the exit code."""
    while True:
        code = hook.poll()
        if code is not None:
            return code
        await asyncio.sleep(_LOOK_AGAIN)


async def _end(hook: subprocess.Popen[bytes]) -> None:
    """End a hook and all processes of its process group."""
    # SIGKILL also after the end of the hook itself: background processes of the hook are in the same group.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        try:
            os.killpg(hook.pid, signal.SIGTERM)
            async with asyncio.timeout(_GRACE):
                await _wait(hook)
        except TimeoutError:
            pass
        finally:
            os.killpg(hook.pid, signal.SIGKILL)
            hook.wait()
