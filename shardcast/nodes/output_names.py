"""Names in a folder of downloaded versions: outputs, their records, links and notes."""

from __future__ import annotations

import os
import re
from hashlib import sha256
from pathlib import Path, PurePosixPath

from shardcast.protocol.wire import VERSION_PATTERN, version_number
from shardcast.temporary_files import PART, is_temporary_of

LATEST_LINK = "latest"
"""The link to the version announced last."""
UNDER_WAY_LINK = ".latest-under-way"
"""The link to the version being announced now; removed once its hook has ended."""
LINES_FILE = ".shardcast-lines"
"""The notes about the lines followed into the folder (``folder_lines``)."""
LOCK_FILE = ".shardcast-lines.lock"
HOOK_LOCK = ".shardcast-hook.lock"
"""In the folder of outputs; locked while a hook runs, also one whose client was killed."""

_REPLACED = (LATEST_LINK, UNDER_WAY_LINK, LINES_FILE)
"""Names, beside those of records, replaced by a rename only."""
_OUTPUT = re.compile(rf"(?:download_({VERSION_PATTERN})\.bin|({VERSION_PATTERN}))", re.ASCII)
_RECORD = re.compile(
    rf"\.(download_{VERSION_PATTERN}\.bin|{VERSION_PATTERN})"
    rf"\.(?:record|manifest|files)((~[0-9a-f]{{16}})?{re.escape(PART)})?",
    re.ASCII,
)
"""A record, a kept manifest or state of a folder, or the temporary file of one of these after a kill."""
_NAMED_RECORD = re.compile(r"\.output-[0-9a-f]{32}\.record", re.ASCII)
_NAMED_MANIFEST = re.compile(r"\.output-[0-9a-f]{32}\.manifest", re.ASCII)
_NAMED_RECORD_PART = re.compile(
    rf"\.output-[0-9a-f]{{32}}\.(?:record|manifest)~[0-9a-f]{{16}}{re.escape(PART)}", re.ASCII
)
_PART = re.compile(
    r"\.(?:download_(v[1-9][0-9]{0,17})\.bin|(v[1-9][0-9]{0,17}))"
    r"(\.part(-[0-9a-f]+)*(\.manifest)?|~[0-9a-f]{16}\.part)",
    re.ASCII,
)
"""The part of an output, the part's manifest, or the temporary name of a part."""


def output_name(version: str) -> str:
    """Return the name of a version's file in the folder of outputs."""
    return f"download_{version}.bin"


def folder_name(version: str) -> str:
    """Return the name of a folder version in the folder of outputs."""
    return version


def names_folder(name: str) -> bool:
    """Return whether a name is that of a folder version."""
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
    """Return the version of a file left by an interrupted download; None for other names."""
    found = _PART.fullmatch(name)
    return found[1] or found[2] if found else None


def record_path(path: Path, outputs: Path | None = None) -> Path:
    """Return the path of the record of an output.

    Args:
        path: the output.
        outputs: the folder of outputs; None for the parent of the output. An output with a name of its own
            may lie in a folder further below.
    """
    folder = outputs or path.parent
    if path.parent == folder and _OUTPUT.fullmatch(path.name):
        return folder / f".{path.name}.record"
    return folder / f".output-{sha256(os.fsencode(path.relative_to(folder))).hexdigest()[:32]}.record"


def manifest_path(path: Path, outputs: Path) -> Path:
    """Return the path of the manifest that is kept of an output that is a file, beside its record."""
    return record_path(path, outputs).with_suffix(".manifest")


def is_named_record(name: str) -> bool:
    """Return whether a name is that of the record of an output with a name of its own."""
    return _NAMED_RECORD.fullmatch(name) is not None


def path_below(folder: Path, text: str) -> Path | None:
    """Return the path named by a record or a link in a folder; None for a path outside the folder."""
    relative = PurePosixPath(text)
    if relative.is_absolute() and relative.is_relative_to(folder):
        relative = relative.relative_to(folder)
    if not text or "\0" in text or relative.is_absolute() or ".." in relative.parts or not relative.parts:
        return None
    return folder / relative


def is_stale(entry: Path) -> bool:
    """Return whether a file is a leftover: a killed process's temporary file, or a record without output."""
    found = _RECORD.fullmatch(entry.name)
    if found and (found[2] or not os.path.lexists(entry.with_name(found[1]))):
        # The record of a folder is written before the folder gets its name.
        return bool(found[2]) or not any(entry.parent.glob(f".{found[1]}{PART}*"))
    if _NAMED_RECORD_PART.fullmatch(entry.name):
        return True
    if _NAMED_MANIFEST.fullmatch(entry.name):
        return not os.path.lexists(entry.with_suffix(".record"))
    return any(is_temporary_of(entry.name, name) for name in _REPLACED)
