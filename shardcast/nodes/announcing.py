"""What a following client does with a version that is there: the ``latest`` link, old versions, the hook."""

from __future__ import annotations

import asyncio
import logging
import re
import shlex
import signal
import sys
from pathlib import Path

from shardcast.store.durable import disk_errors, point
from shardcast.wire import version_number

log = logging.getLogger(__name__)

LATEST_LINK = "latest"
_OURS = re.compile(r"download_(v[1-9][0-9]{0,17})\.bin", re.ASCII)
_GRACE = 5.0
"""Seconds that a hook has left when the client ends."""


def output_name(version: str) -> str:
    """Where a version goes in its folder."""
    return f"download_{version}.bin"


def last_announced(output_dir: Path) -> int:
    """The number of the version that the ``latest`` link names, if its file is there; else 0.

    Raises:
        LocalDiskError: the folder can't be read.
    """
    link = output_dir / LATEST_LINK
    with disk_errors("could not read", link):
        found = _OURS.fullmatch(link.readlink().name) if link.is_symlink() and link.exists() else None
    return (version_number(found[1]) or 0) if found else 0


def announce(path: Path, keep: int | None) -> None:
    """Have ``latest`` name the version at ``path``, and remove all but the newest ``keep`` versions.

    Raises:
        LocalDiskError: the folder can't be written, or ``latest`` is something else.
    """
    with disk_errors("could not switch", path.parent / LATEST_LINK):
        point(path.parent / LATEST_LINK, path.name)
    if keep is None:
        return
    names = {entry: _OURS.fullmatch(entry.name) for entry in path.parent.iterdir()}
    numbers = {entry: version_number(found[1]) or 0 for entry, found in names.items() if found}
    newest_first = sorted(numbers, key=lambda entry: numbers[entry], reverse=True)
    for entry in newest_first[keep:]:
        if entry != path:
            with disk_errors("could not remove", entry):
                entry.unlink(missing_ok=True)


async def run_hook(command: str, path: Path, version: str) -> None:
    """Run a command by ``sh -c``, with ``{path}`` and ``{version}`` replaced, and wait for it. What it
    prints goes to stderr. That it fails is told, and ends nothing."""
    placeholders = {"{path}": shlex.quote(str(path)), "{version}": shlex.quote(version)}
    filled = re.sub(r"\{path\}|\{version\}", lambda found: placeholders[found[0]], command)
    hook = await asyncio.create_subprocess_exec("sh", "-c", filled, stdout=sys.stderr.fileno())
    try:
        code = await hook.wait()
    except asyncio.CancelledError:
        await _end(hook)
        raise
    if code:
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        log.error("the hook for %s %s: %s", version, how, filled)


async def _end(hook: asyncio.subprocess.Process) -> None:
    try:
        hook.terminate()
        await asyncio.wait_for(hook.wait(), _GRACE)
    except asyncio.TimeoutError:
        hook.kill()
    except ProcessLookupError:
        pass  # it ended meanwhile
