"""The place of one version in a data directory: the folder and the records beside it."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from shardcast.constants import MANIFEST_FILE, PAYLOAD_FILE
from shardcast.file_copies import clone_bytes, hard_link
from shardcast.file_systems import NO_LINKS
from shardcast.filesystem import give_name
from shardcast.protocol.wire import shard_name, shard_number
from shardcast.store.linked_files import LinkedFiles, linked_number
from shardcast.temporary_files import PART, create_private, is_temporary_of, temporary_name


@dataclass(frozen=True, slots=True)
class VersionPlace:
    """The paths of one version.

    Attributes:
        folder: has the manifest and the shards, or files published without a copy.
        verified: the record of verified shards.
        linked: the record of files published without a copy.
        pinned: an empty file, present while the version is pinned.
    """

    folder: Path
    verified: Path
    linked: Path
    pinned: Path

    @property
    def records(self) -> tuple[Path, Path, Path]:
        """The version's files beside the folder."""
        return self.pinned, self.verified, self.linked

    @property
    def manifest(self) -> Path:
        """The manifest."""
        return self.folder / MANIFEST_FILE

    @property
    def payload(self) -> Path:
        """The payload of a version published without a copy."""
        return self.folder / PAYLOAD_FILE

    @property
    def linked_files(self) -> LinkedFiles:
        """The files published without a copy; none for other versions. Blocks on the disk."""
        return LinkedFiles.read(self.linked, self.folder)

    def shard(self, shard: int) -> Path:
        """Return the file of a shard; names from 0.3.x have five digits."""
        file = self.folder / shard_name(shard)
        if shard < 10_000 and not file.exists():
            older = self.folder / shard_name(shard, 5)
            return older if older.exists() else file
        return file

    def adopt(self, payload: Path) -> bool:
        """Bring a payload here as a clone or a hard link; return False where neither is possible.

        Raises:
            OSError: the payload can't be read.
        """
        real = payload.resolve(strict=True)  # of a symbolic link, link(2) would link the link
        if not clone(real, self.payload) and not hard_link(real, self.payload):
            return False
        if stat.S_ISREG(self.payload.lstat().st_mode):
            return True
        self.payload.unlink()  # the name became a symbolic link after it was resolved
        return False

    def adopt_open(self, descriptor: int, name: bytes, folder: int, target: Path) -> bool:
        """Bring an open file here as a clone or a hard link; return False where neither is possible.

        Args:
            descriptor: the file, open for reading.
            name: the file's name in its folder.
            folder: the folder's descriptor.
            target: the file's new name here.

        Raises:
            OSError: the file can't be read, or has lost its name.
        """
        if clone_open(descriptor, target):
            return True
        try:
            os.link(name, target, src_dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            return False
        if os.path.samestat(os.fstat(descriptor), target.lstat()):
            return True
        target.unlink()
        raise FileNotFoundError(errno.ENOENT, "the file was replaced", os.fsdecode(name))

    def part(self, shard: int) -> Path:
        """Return the temporary name of a shard."""
        return self.folder / (shard_name(shard) + PART)


def remove_version(folder: Path) -> None:
    """Remove a version's folder, except for foreign files; blocks on the disk.

    Raises:
        OSError: a file can't be removed.
    """
    for entry in folder.iterdir():
        if is_versions_file(entry):
            entry.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def is_versions_file(entry: Path) -> bool:
    """Return whether a file has a name of a version's folder, temporary or not."""
    name = entry.name.removesuffix(PART)
    if name == MANIFEST_FILE or shard_number(name) is not None or linked_number(name) is not None:
        return True
    original = entry.name.partition("~")[0]
    return is_temporary_of(entry.name, MANIFEST_FILE) or (
        linked_number(original.lstrip(".")) is not None and is_temporary_of(entry.name, original.lstrip("."))
    )


def clone(original: Path, copy: Path) -> bool:
    """Copy a file by sharing its blocks until a write to either file.

    Returns:
        False if the file system can't.

    Raises:
        OSError: the original can't be read, or the name of the copy is taken.
    """
    with original.open("rb") as source:
        return clone_open(source.fileno(), copy)


def clone_open(source: int, copy: Path) -> bool:
    """Clone an open file, like ``clone``.

    Raises:
        OSError: the original can't be read, or the name of the copy is taken.
    """
    part = temporary_name(copy)
    target = create_private(part)
    try:
        if not clone_bytes(source, target):
            return False
        os.fsync(target)
        give_name(target, part, copy, durable=False)
    finally:
        os.close(target)
        part.unlink(missing_ok=True)
    return True
