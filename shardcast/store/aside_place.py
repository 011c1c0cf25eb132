"""The places of versions of other lines in a data directory.

::

    .shardcast/lines/<origin id, or none>/
      line                              the record of the line
      v7-6030a1b2c3d4e5f6/              the folder of a version: number, 16 digits of the payload digest
      v7-6030a1b2c3d4e5f6.pinned        the version's records; also .verified and .linked
      v7-6030a1b2c3d4e5f6.open          there while the version is incomplete or unverified

The modification time of a version's folder is the time of putting aside.
"""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

from shardcast.protocol.wire import version_name
from shardcast.store.data_dir_layout import DataDirLayout
from shardcast.store.version_place import VersionPlace

LINE_RECORD = "line"
"""The file with the record of a line, in the line's folder."""
_NO_ORIGIN = "none"
_PLAIN_ID = re.compile(r"[0-9a-z]{1,64}", re.ASCII)
_NAME = re.compile(r"v([1-9][0-9]{0,17})-([0-9a-f]{16})", re.ASCII)


def line_name(origin: str | None) -> str:
    """Return the name of a line's folder.

    An id other than a plain name, or one a file system might take for another, is hashed: manifests choose
    origin ids, and must choose no path.
    """
    if origin is None:
        return _NO_ORIGIN
    if _PLAIN_ID.fullmatch(origin) and origin != _NO_ORIGIN:
        return origin
    return "id-" + sha256(origin.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def origin_of(line: Path) -> str | None:
    """Return the origin id of a line without a record here, or of a hashed id the folder's name."""
    return None if line.name == _NO_ORIGIN else line.name


def aside_place(data_dir: DataDirLayout, origin: str | None, number: int, digest: str) -> VersionPlace:
    """Return where a version of another line lies."""
    return place_of(data_dir.lines / line_name(origin) / f"{version_name(number)}-{digest[:16]}")


def place_of(folder: Path) -> VersionPlace:
    """Return the place of a version aside: its folder, with the records beside it."""
    verified, linked, pinned = (
        folder.with_name(f"{folder.name}.{record}") for record in ("verified", "linked", "pinned")
    )
    return VersionPlace(folder, verified, linked, pinned)


def open_mark(place: VersionPlace) -> Path:
    """Return the file that marks a version as incomplete or unverified."""
    return place.folder.with_name(f"{place.folder.name}.open")


def record_of(data_dir: DataDirLayout, origin: str | None) -> Path:
    """Return the file with the record of another line."""
    return data_dir.lines / line_name(origin) / LINE_RECORD


def parse_aside_name(name: str) -> tuple[int, str] | None:
    """Return the number and the first digits of the payload digest in the name of a version's folder.

    None for any other name.
    """
    found = _NAME.fullmatch(name)
    return (int(found[1]), found[2]) if found else None
