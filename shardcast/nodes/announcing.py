"""What a following client does with a version that is there: the ``latest`` link, old versions, the hook."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
import shlex
import signal
import sys
from pathlib import Path

from shardcast.errors import LocalDiskError
from shardcast.store.durable import disk_errors, point
from shardcast.store.output import clear_abandoned
from shardcast.wire import version_name, version_number

log = logging.getLogger(__name__)

LATEST_LINK = "latest"
_UNDER_WAY = ".latest-under-way"
"""A link to the version that is being announced, until that is done: what a kill cuts off begins again."""
_LEFT = re.compile(r"\.download_(v[1-9][0-9]{0,17})\.bin\.part(-[0-9]+)?(\.manifest)?", re.ASCII)
_OURS = re.compile(r"download_(v[1-9][0-9]{0,17})\.bin", re.ASCII)
_GRACE = 5.0
"""Seconds that a hook has left when the client ends."""


def output_name(version: str) -> str:
    """Where a version goes in its folder."""
    return f"download_{version}.bin"


def next_to_announce(output_dir: Path) -> int:
    """The number from which on versions are still to be announced: of the one whose announcing was cut off,
    or the one after that which the ``latest`` link names; 0 where neither's file is there.

    Raises:
        LocalDiskError: the folder can't be read.
    """
    cut_off = _named_by(output_dir / _UNDER_WAY)
    last = _named_by(output_dir / LATEST_LINK)
    return cut_off or (last + 1 if last else 0)


def _named_by(link: Path) -> int:
    """The number of the version that a link names, if its file is there; else 0."""
    with disk_errors("could not read", link):
        found = _OURS.fullmatch(link.readlink().name) if link.is_symlink() and link.exists() else None
    return (version_number(found[1]) or 0) if found else 0


def versions_in(output_dir: Path) -> list[str]:
    """The versions whose files are in a folder, oldest first."""
    try:
        found = sorted(filter(None, (_number(_OURS, entry) for entry in output_dir.iterdir())))
    except OSError:  # it isn't there yet, or can't be read just now
        return []
    return [version_name(number) for number in found]


def check_folder(output_dir: Path) -> None:
    """See now rather than after a download whether versions can be put there.

    Raises:
        LocalDiskError: they can't, or ``latest`` is something else.
    """
    with disk_errors("could not write", output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
        if not os.access(output_dir, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        link = output_dir / LATEST_LINK
        if link.exists() and not link.is_symlink():
            raise LocalDiskError(f"{link} is in the way: it is no symbolic link; move it")


def announce(path: Path, keep: int | None, newest: bool = True) -> None:
    """Have ``latest`` name the version at ``path`` if it is the ``newest``, and remove all but the newest
    ``keep`` versions, and what is left of older ones that never got that far. ``announced`` belongs to it.

    Raises:
        LocalDiskError: the folder can't be written, or ``latest`` is something else.
    """
    with disk_errors("could not write", path.parent / _UNDER_WAY):
        point(path.parent / _UNDER_WAY, path.name)
    if newest:
        with disk_errors("could not switch", path.parent / LATEST_LINK):
            point(path.parent / LATEST_LINK, path.name)
    numbers: dict[Path, int] = {}
    with disk_errors("could not tidy", path.parent):
        for entry in path.parent.iterdir():
            if _number(_OURS, entry) and entry.is_file():
                numbers[entry] = _number(_OURS, entry)
            if 0 < _number(_LEFT, entry) < _number(_OURS, path):
                clear_abandoned(path.with_name(output_name(version_name(_number(_LEFT, entry)))))
    if keep is None:
        return
    newest_first = sorted(numbers, key=lambda entry: numbers[entry], reverse=True)
    for entry in newest_first[keep:]:
        if entry != path:
            with disk_errors("could not remove", entry):
                entry.unlink(missing_ok=True)


def announced(output_dir: Path) -> None:
    """All is done that there is to do for the version that ``announce`` was called with.

    Raises:
        LocalDiskError: the folder can't be written.
    """
    with disk_errors("could not remove", output_dir / _UNDER_WAY):
        (output_dir / _UNDER_WAY).unlink(missing_ok=True)


def _number(pattern: re.Pattern[str], entry: Path) -> int:
    """The version's number in a file's name; 0 where it has none."""
    found = pattern.fullmatch(entry.name)
    return (version_number(found[1]) or 0) if found else 0


async def run_hook(command: str, path: Path, version: str) -> None:
    """Run a command by ``sh -c``, with ``{path}`` and ``{version}`` replaced, and wait for it. What it
    prints goes to stderr. That it fails is told, and ends nothing."""
    placeholders = {"{path}": shlex.quote(str(path)), "{version}": shlex.quote(version)}
    filled = re.sub(r"\{path\}|\{version\}", lambda found: placeholders[found[0]], command)
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec("sh", "-c", filled, stdout=sys.stderr.fileno(), start_new_session=True)
    )
    try:
        hook = await asyncio.shield(starting)
        code = await hook.wait()
    except asyncio.CancelledError:
        await asyncio.shield(asyncio.ensure_future(_end(starting)))
        raise
    if code:
        how = f"was ended by {_signal(-code)}" if code < 0 else f"ended with exit code {code}"
        log.error("the hook for %s %s: %s", version, how, filled)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time one
        return f"signal {number}"


async def _end(starting: asyncio.Future[asyncio.subprocess.Process]) -> None:
    """End a hook and what it started: they are a process group of their own."""
    hook = await starting
    with contextlib.suppress(ProcessLookupError, PermissionError):
        try:
            os.killpg(hook.pid, signal.SIGTERM)
            await asyncio.wait_for(hook.wait(), _GRACE)
        except asyncio.TimeoutError:
            pass
        finally:
            os.killpg(hook.pid, signal.SIGKILL)
