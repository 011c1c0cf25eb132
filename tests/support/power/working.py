"""Common parts of recorded work: names, payloads and messages."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import sys
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

from shardcast.registry import Registry

SHARD = 2000
LINES = ("0a" * 16, "0b" * 16)
DAY = 86_400

Work = Callable[[Path], Awaitable[None]]
WORK: dict[str, Work] = {}
"""Pieces of work by their names. Each gets a folder of its own, in which all that it keeps lies."""


def work(does: Work) -> Work:
    """Register a piece of work under its name."""
    WORK[does.__name__] = does
    return does


def mark(**said: Any) -> None:
    """Write into the record what was acknowledged at this moment."""
    ctypes.CDLL(None).recorder_mark(json.dumps(said).encode())


def payload(number: int) -> bytes:
    """Return the payload of a version: three shards, of which all versions share the first one."""
    return Random(0).randbytes(SHARD) + Random(number).randbytes(SHARD + 100 + number)


def blob(number: int) -> bytes:
    """Return a blob; every third is too large for the event loop to keep it."""
    return Random(f"blob {number}").randbytes(70_000 if number % 3 == 0 else 100 + number)


def registry(base: Path) -> Registry:
    """Return a registry on a folder."""
    main = {"protocol": "file", "location": str(base / "store"), "subfolding": (2, 2)}
    return Registry({"default": "main", "main": main})


def make_folder(folder: Path) -> Path:
    """Make a folder durably, as the documentation tells people to."""
    folder.mkdir()
    for place in (folder, folder.parent):
        sync(place)
    return folder


def sync(folder: Path) -> None:
    """Sync a folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def run() -> None:
    """Do the work that the arguments name, each piece in a folder of its own in the first one."""
    place, chosen = Path(sys.argv[1]), sys.argv[2:]
    for name in chosen:
        base, failure = make_folder(place / name), ""
        mark(begun=name, **{"in": str(base), "inode": base.stat().st_ino})
        try:
            asyncio.run(asyncio.wait_for(WORK[name](base), 60))
        except Exception:  # noqa: BLE001
            failure = traceback.format_exc()
        mark(ended=name, failure=failure)
