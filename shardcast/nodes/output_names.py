"""Names in a folder of downloaded versions: outputs, their records, links and notes."""

from __future__ import annotations

import os
import re
from pathlib import Path

from shardcast.protocol.wire import VERSION_PATTERN, version_number
from shardcast.temporary_files import PART, is_temporary_of

LATEST_LINK = "latest"
"""The link to the version that was announced last."""
UNDER_WAY_LINK = ".latest-under-way"
"""The link to the version that is being announced; removed once its hook has ended."""
LINES_FILE = ".shardcast-lines"
"""The notes about the lines that were followed into the folder (``folder_lines``)."""
LOCK_FILE = ".shardcast-lines.lock"

_REPLACED = (LATEST_LINK, UNDER_WAY_LINK, LINES_FILE)
"""Names, beside those of records, that are only ever replaced by a rename."""
_OUTPUT = re.compile(rf"(?:download_({VERSION_PATTERN})\.bin|({VERSION_PATTERN}))", re.ASCII)
_RECORD = re.compile(
    rf"\.(download_{VERSION_PATTERN}\.bin|{VERSION_PATTERN})"
    rf"\.(?:record|manifest|files)((~[0-9a-f]{{16}})?{re.escape(PART)})?",
    re.ASCII,
)
"""A record, what is kept of a folder, or the temporary file of one of these that a kill left."""
_PART = re.compile(
    r"\.(?:download_(v[1-9][0-9]{0,17})\.bin|(v[1-9][0-9]{0,17}))"
    r"(\.part(-[0-9a-f]+)*(\.manifest)?|~[0-9a-f]{16}\.part)",
    re.ASCII,
)
"""The part of an output, its manifest, or the temporary name of a part."""


def output_name(version: str) -> str:
    """Return the name of a version's file in its folder."""
    return f"download_{version}.bin"


def folder_name(version: str) -> str:
    """Return the name of a version that is a folder, in the folder of outputs."""
    return version


def names_folder(name: str) -> bool:
    """Return whether a name is that of a version that is a folder."""
    found = _OUTPUT.fullmatch(name)
    return found is not None and found[2] is not None


def output_path(folder: Path, version: str) -> Path:
    """Return the path of a version's output: of the folder where one is there, else of the file."""
    as_folder = folder / folder_name(version)
    return as_folder if as_folder.is_dir() else folder / output_name(version)


def output_number(name: str) -> int:
    """Return the number in the name of an output; 0 for other names."""
    found = _OUTPUT.fullmatch(name)
    return (version_number(found[1] or found[2]) or 0) if found else 0


def part_version(name: str) -> str | None:
    """Return the version of which an interrupted download left a file; None for other names."""
    found = _PART.fullmatch(name)
    return found[1] or found[2] if found else None


def record_path(path: Path) -> Path:
    """Return the path of the record of an output."""
    return path.with_name(f".{path.name}.record")


def is_stale(entry: Path) -> bool:
    """Return whether a file is a temporary one that a kill left, or the record of an output that has gone."""
    found = _RECORD.fullmatch(entry.name)
    if found and (found[2] or not os.path.lexists(entry.with_name(found[1]))):
        # What is kept of a folder is written before it gets its name.
        return bool(found[2]) or not any(entry.parent.glob(f".{found[1]}{PART}*"))
    return any(is_temporary_of(entry.name, name) for name in _REPLACED)
