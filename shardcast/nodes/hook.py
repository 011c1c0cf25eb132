"""The hook of a following client: a command that runs for each version and each withdrawal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shlex
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from shardcast.nodes.child_process import signal_name

log = logging.getLogger(__name__)

NEW_LINE, WITHDRAWN, WITHDRAWN_REASON = HOOK_VARIABLES = (
    "SHARDCAST_NEW_LINE",
    "SHARDCAST_WITHDRAWN",
    "SHARDCAST_WITHDRAWN_REASON",
)
"""What the hook finds in its environment: the origin id of a line that is new, or "none"; the version that
was withdrawn, and why. None of them is the variable of an option: a hook may run shardcast itself."""
_GRACE = 5.0
"""Seconds that a hook has left when the client ends."""


async def run_hook(
    command: str, path: Path, version: str, variables: Mapping[str, str] | None = None
) -> None:
    """Run a hook by ``sh -c``, with ``{path}`` and ``{version}`` replaced, and wait for it.

    Its output goes to stderr. A hook that fails is logged, and ends nothing; a hook that runs while this is
    cancelled is ended with all that it started.

    Args:
        command: the hook, as people write it.
        path: the file of the version.
        version: its name.
        variables: those of ``HOOK_VARIABLES`` that are set for this run.
    """
    placeholders = {"{path}": shlex.quote(str(path)), "{version}": shlex.quote(version)}
    script = re.sub(r"\{path\}|\{version\}", lambda found: placeholders[found[0]], command)
    environment = {name: value for name, value in os.environ.items() if name not in HOOK_VARIABLES}
    environment |= variables or {}
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            "sh", "-c", script, stdout=sys.stderr.fileno(), start_new_session=True, env=environment
        )
    )
    try:
        hook = await asyncio.shield(starting)
        code = await hook.wait()
    except asyncio.CancelledError:
        await asyncio.shield(asyncio.ensure_future(_end(starting)))
        raise
    if code:
        how = f"was ended by {signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        log.error("the hook for %s %s: %s", version, how, script)


async def _end(starting: asyncio.Future[asyncio.subprocess.Process]) -> None:
    """End a hook and the processes that it started: they are a process group of their own."""
    hook = await starting
    # SIGKILL also where the hook itself has ended: its background processes are in its group.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        try:
            os.killpg(hook.pid, signal.SIGTERM)
            async with asyncio.timeout(_GRACE):
                await hook.wait()
        except TimeoutError:
            pass
        finally:
            os.killpg(hook.pid, signal.SIGKILL)
