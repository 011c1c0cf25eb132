"""The versions of other lines, loaded at the start of a node; all of this blocks on the disk."""

from __future__ import annotations

import time
from pathlib import Path

from shardcast.ages import age_of
from shardcast.errors import LocalDiskError
from shardcast.store.aside import AsideVersions
from shardcast.store.aside_place import LINE_RECORD, origin_of, parse_aside_name, place_of
from shardcast.store.aside_version import read_aside
from shardcast.store.inventory import Inventory
from shardcast.store.line_record import LineRecord, read_record
from shardcast.temporary_files import PART

_MAX_RECORDS = 20
"""Lines without local versions whose records are kept, so their withdrawals stay valid."""


def load_aside(inventory: Inventory) -> list[str]:
    """Load the versions put aside.

    Returns:
        Messages for the log.

    Raises:
        OSError: they can't be read.
    """
    messages: list[str] = []
    aside, lines = inventory.aside, inventory.data_dir.lines
    now, wall = inventory.clock(), time.time()  # once, so that what went aside together stays together
    if not lines.is_dir():
        return messages
    for line in sorted(lines.iterdir()):
        if not line.is_dir():
            continue
        _clear(line)
        try:
            record = read_record(line / LINE_RECORD) or LineRecord(origin_of(line))
        except LocalDiskError as error:
            messages.append(str(error))
            record = LineRecord(origin_of(line))
        aside.records[line.name] = record
        for folder in line.iterdir():
            if folder.is_dir() and parse_aside_name(folder.name):
                since = now - age_of(folder, folder.stat(), lambda: wall)
                aside.add(read_aside(place_of(folder), record, since))
                inventory.usage.measure(folder)
    _forget_lines(aside, lines)
    return messages


def _forget_lines(aside: AsideVersions, lines: Path) -> None:
    """Remove the records of lines without versions here, but for the latest ``_MAX_RECORDS``."""
    used = {version.place.folder.parent.name for version in aside}
    empty = [lines / name for name in aside.records if name not in used]
    by_age = sorted(empty, key=lambda line: line.stat().st_mtime, reverse=True)
    for line in by_age[_MAX_RECORDS:]:
        (line / LINE_RECORD).unlink(missing_ok=True)
        if not any(line.iterdir()):
            line.rmdir()
        del aside.records[line.name]


def _clear(line: Path) -> None:
    """Remove temporary names from a line's folder, and records of removed versions."""
    for entry in line.iterdir():
        if entry.is_dir():
            continue
        name, _, _ = entry.name.partition(".")
        if entry.name.endswith(PART) or (entry.name != LINE_RECORD and not (line / name).is_dir()):
            entry.unlink()
