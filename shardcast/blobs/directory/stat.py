"""The files of a blob in a directory, described without reading their contents."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from shardcast.blobs.directory.layout import LENGTH_SUFFIX, SUFFIXES, Folder


@dataclass(frozen=True, slots=True)
class Form:
    """A file of a blob.

    Attributes:
        path: path of the file.
        coding: coding of the file; None for the blob's bytes unchanged.
        stat_result: stat result of the file.
    """

    path: str
    coding: str | None
    stat_result: os.stat_result


def forms_of(folder: Folder, digest: str) -> list[Form]:
    """Return the files of a blob, first the uncoded one; blocks on the disk.

    Raises:
        OSError: a file cannot be accessed.
    """
    found = []
    for coding in (None, *SUFFIXES):
        path = folder.path(digest, coding)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            looks = os.lstat(path)
            if stat.S_ISREG(looks.st_mode):
                found.append(Form(path, coding, looks))
    return found


@dataclass(frozen=True, slots=True)
class BlobDescription:
    """A blob in a directory.

    Attributes:
        digest: name of the blob.
        size: bytes of the blob; None for a blob with only coded files, without a record of its length.
        stored: bytes of its files together.
        modified: time of the put, in seconds since 1970.
        forms: the stored forms: ``raw``, ``zstd``, ``gzip``.
        path: the first file.
    """

    digest: str
    size: int | None
    stored: int
    modified: float
    forms: tuple[str, ...]
    path: str


def describe(folder: Folder, digest: str) -> BlobDescription | None:
    """Return the description of a blob, or None for a missing one; blocks on the disk.

    Raises:
        OSError: a file cannot be accessed.
    """
    forms = forms_of(folder, digest)
    if not forms:
        return None
    first = forms[0]
    size = first.stat_result.st_size if first.coding is None else _recorded_length(folder, digest)
    return BlobDescription(
        digest,
        size,
        sum(form.stat_result.st_size for form in forms),
        max(form.stat_result.st_mtime for form in forms),
        tuple(form.coding or "raw" for form in forms),
        first.path,
    )


def _recorded_length(folder: Folder, digest: str) -> int | None:
    """Return the recorded length of a coded blob, or None without a record."""
    try:
        recorded = Path(folder.path(digest) + LENGTH_SUFFIX).read_bytes()[:20]
    except OSError:
        return None
    return int(recorded) if recorded.isdigit() else None
