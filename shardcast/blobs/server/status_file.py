"""The status file: a JSON file with the port of a server, for the parent program that started the server."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
import time
from pathlib import Path
from typing import Any, Self

from shardcast.disk_errors import error_text
from shardcast.errors import NodeFailed
from shardcast.filesystem import replace
from shardcast.json_text import parse_json
from shardcast.open_files import close
from shardcast.temporary_files import clear_leftovers

log = logging.getLogger(__name__)

_PATIENCE = 20.0
"""Maximum seconds to wait for the file."""
_POLL = 0.1
"""Seconds between two looks."""
_MAX_SIZE = 1 << 20
"""Bytes of a status file."""


class StatusFile:
    """A JSON object written first by the parent, and completed by the server; other keys are kept."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self._path, self._content = path, content

    @classmethod
    async def wait_for_file(cls, path: Path, patience: float = _PATIENCE) -> Self:
        """Wait until the file exists and is whole, and return its content.

        While the parent writes, the file is empty, or half an object.

        Raises:
            NodeFailed: the file is missing or unfinished after ``patience`` seconds, or is no JSON object;
                the file is left unchanged.
        """
        deadline = time.monotonic() + patience
        while not (text := _read(path)) or (text.startswith(b"{") and not text.endswith(b"}")):
            if time.monotonic() > deadline:
                what = "did not appear" if text is None else "stayed unfinished" if text else "stayed empty"
                raise NodeFailed(f"the status file {path} {what} for {patience:g} s; write {{}} there")
            await asyncio.sleep(_POLL)
        try:
            content = parse_json(text)
        except ValueError as error:
            raise NodeFailed(f"the status file {path} can't be read as JSON: {error}") from None
        if not isinstance(content, dict):
            raise NodeFailed(f"the status file {path} holds no JSON object; write {{}} there")
        return cls(path, content)

    def report_running(self, port: int) -> None:
        """Write the port of the running server."""
        self._write({"port": port, "status": "running"})

    def report_failed(self) -> None:
        """Write that the start failed."""
        self._write({"status": "failed"})

    def _write(self, changes: dict[str, Any]) -> None:
        """Replace the file; an error is only logged, and the server runs on."""
        try:
            clear_leftovers(self._path)  # of a run before this one that was killed
            replace(self._path, json.dumps({**self._content, **changes}).encode() + b"\n")
        except OSError as error:
            log.error("could not write %s to the status file: %s", json.dumps(changes), error_text(error))


def _read(path: Path) -> bytes | None:
    """Return a file's bytes without blanks around them; None where there is no file.

    Raises:
        NodeFailed: the file can't be read, or is no small regular file: opening a pipe would wait, and a
            device may never end.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise NodeFailed(f"the status file {path} can't be read: it is not a file")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                text = file.read(_MAX_SIZE + 1)
        finally:
            close(descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NodeFailed(f"the status file {path} can't be read: {error_text(error)}") from None
    if len(text) > _MAX_SIZE:
        raise NodeFailed(f"the status file {path} can't be read: it is larger than {_MAX_SIZE} bytes")
    return text.strip()
