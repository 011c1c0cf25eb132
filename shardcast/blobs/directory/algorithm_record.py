"""The record of a directory's digest algorithm: ``.shardcast-store/digest``."""

from __future__ import annotations

from pathlib import Path

from shardcast.blobs.directory.layout import OWN_FOLDER, share_with_group
from shardcast.blobs.interface import ALGORITHMS
from shardcast.directories import sync_folder
from shardcast.disk_errors import disk_errors
from shardcast.errors import UsageError, WrongStore
from shardcast.filesystem import give_name_if_free
from shardcast.open_files import close, write_all
from shardcast.temporary_files import create_private, temporary_name


def check_algorithm(requested: str | None) -> None:
    """Check that a requested algorithm can name blobs.

    Raises:
        UsageError: the algorithm is unknown.
    """
    if requested is not None and requested not in ALGORITHMS:
        raise UsageError(f"{requested!r} is no digest of a store; choose one of {', '.join(ALGORITHMS)}")


def settle_algorithm(root: Path, requested: str | None, writable: bool) -> str:
    """Return the algorithm of a directory's blobs, and record it where blobs are to be put.

    The record binds. Without one, the first process with the directory ``writable`` records ``requested``, or
    SHA-256 when nothing is requested.

    Raises:
        WrongStore: the record names another algorithm than ``requested``, or an unknown one.
        LocalDiskError: the record can't be read, or written.
    """
    record = root / OWN_FOLDER / "digest"
    with disk_errors("could not read", record):
        try:
            # Zeros: an earlier node did not sync the record before the power went.
            recorded = record.read_text(errors="replace").strip().strip("\0")
        except FileNotFoundError:
            recorded = ""
    if recorded and recorded not in ALGORITHMS:
        raise WrongStore(
            f"{record} names the digest {recorded!r}, unknown to this shardcast; use a newer release"
        )
    if recorded and requested and recorded != requested:
        raise WrongStore(f"the blobs in {root} are named by {recorded}, not {requested}; give {recorded}")
    if not recorded and writable:
        with disk_errors("could not use", root):
            record.parent.mkdir(exist_ok=True)
            share_with_group(str(record.parent))
            _write_once(record, f"{requested or ALGORITHMS[0]}\n".encode())
        return settle_algorithm(root, requested, writable=False)  # another process may have been first
    return recorded or requested or ALGORITHMS[0]


def _write_once(record: Path, data: bytes) -> None:
    """Write a file durably, unless another process has written it before.

    Raises:
        OSError: the file can't be written.
    """
    part = temporary_name(record)
    descriptor = create_private(part)
    try:
        write_all(descriptor, data)
        if not give_name_if_free(descriptor, part, record):
            sync_folder(record.parent)  # the other process may not have synced its name yet
        sync_folder(record.parent.parent)
    finally:
        close(descriptor)
        part.unlink(missing_ok=True)
