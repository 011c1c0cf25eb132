"""The file in which a program that was started by another says how that went, and on which port it
listens."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
import time
from pathlib import Path
from typing import Any

from shardcast.errors import NodeFailed
from shardcast.filesystem import clear_leftovers, close, in_words, replace

log = logging.getLogger(__name__)

_PATIENCE = 20.0
_POLL = 0.1
_MOST = 1 << 20
"""Bytes of a status file."""


class StatusFile:
    """A JSON object that whoever starts us writes first, and that we complete; what it says otherwise is
    kept."""

    def __init__(self, path: Path, said: dict[str, Any]) -> None:
        self._path, self._said = path, said

    @classmethod
    async def awaited(cls, path: Path, patience: float = _PATIENCE) -> StatusFile:
        """Wait for the file, and for its writer to finish it: it is empty, or half an object, until then.

        Raises:
            NodeFailed: it doesn't come or stays unfinished, or is no JSON object; it is left as it is.
        """
        deadline = time.monotonic() + patience
        while not (text := _read(path)) or (text.startswith(b"{") and not text.endswith(b"}")):
            if time.monotonic() > deadline:
                what = "did not appear" if text is None else "stayed unfinished" if text else "stayed empty"
                raise NodeFailed(f"the status file {path} {what} for {patience:g} s; write {{}} there")
            await asyncio.sleep(_POLL)
        try:
            said = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise NodeFailed(f"the status file {path} can't be read as JSON: {error}") from None
        if not isinstance(said, dict):
            raise NodeFailed(f"the status file {path} holds no JSON object; write {{}} there")
        return cls(path, said)

    def running(self, port: int) -> None:
        """Tell that the program listens on this port."""
        self._write({"port": port, "status": "running"})

    def failed(self) -> None:
        """Tell that the program could not start."""
        self._write({"status": "failed"})

    def _write(self, news: dict[str, Any]) -> None:
        try:
            clear_leftovers(self._path)  # of a run before this one that was killed
            replace(self._path, json.dumps({**self._said, **news}).encode() + b"\n")
        except OSError as error:  # telling never decides about doing
            log.error("the status file does not say %s: %s", json.dumps(news), in_words(error))


def _read(path: Path) -> bytes | None:
    """Return what a file holds, without blanks around it; None where there is none.

    Raises:
        NodeFailed: it can't be read, or is no small file: a pipe is waited for, and a device may never end.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise NodeFailed(f"the status file {path} can't be read: it is not a file")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                text = file.read(_MOST + 1)
        finally:
            close(descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NodeFailed(f"the status file {path} can't be read: {in_words(error)}") from None
    if len(text) > _MOST:
        raise NodeFailed(f"the status file {path} can't be read: it is larger than {_MOST} bytes")
    return text.strip()
