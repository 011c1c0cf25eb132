"""The removal of folders and records of unlisted versions."""

from __future__ import annotations

import asyncio
import errno
import logging
import secrets
from collections.abc import Collection, Sequence
from pathlib import Path

from shardcast.concurrency import in_thread
from shardcast.directories import remove_tree
from shardcast.file_moves import rename
from shardcast.store.data_dir import DataDir
from shardcast.store.disk_usage import DiskUsage
from shardcast.store.link_changes import LinkChanges
from shardcast.store.version_place import VersionPlace

log = logging.getLogger(__name__)


class Remover:
    """Removal of folders and records in two steps.

    ``remove`` renames a folder into a grave, quickly, under the lock of the list: the place is free before
    another version can get it. ``empty`` removes the files, without the lock.
    """

    def __init__(self, data_dir: DataDir, usage: DiskUsage) -> None:
        """Remove versions of a directory; ``usage`` counts them until their bytes are free."""
        self._data_dir = data_dir
        self._usage = usage
        self._left: set[VersionPlace] = set()
        self._graves: list[Path] = []

    async def remove(self, place: VersionPlace) -> None:
        """Remove a version from its place. A failure is left for ``again``."""
        grave = _grave(place, self._data_dir.retired)
        try:
            await in_thread(self._bury, place, grave)
            self._left.discard(place)
        except OSError as error:
            if place not in self._left:
                log.error(
                    "could not remove the files of %s, and will try again: %s", place.folder.name, error
                )
            self._left.add(place)
        finally:
            self._graves.append(grave)  # also when only a record couldn't be removed

    async def again(self, used: Collection[VersionPlace]) -> None:
        """Repeat failed removals, except at places ``used`` again."""
        self._left -= set(used)
        for place in list(self._left):
            await self.remove(place)

    async def empty(self) -> None:
        """Remove the files in graves; failures are left for the next time."""
        graves, self._graves = self._graves, []
        left = await asyncio.to_thread(_empty, graves, self._data_dir.links)
        self._graves += left  # `+= await` would add to the list as it was before the pause
        for grave in set(graves) - set(left):
            self._usage.drop(grave)

    def _bury(self, place: VersionPlace, grave: Path) -> None:
        """Move a version to its grave; blocks on the disk."""
        self._data_dir.check_held()
        if place.folder.exists():
            if _move(place, grave):
                self._usage.move(place.folder, grave)
            else:
                self._usage.drop(place.folder)
        _remove_records(place)


def bury(place: VersionPlace, graves: Path) -> list[Path]:
    """Remove a version's folder in one rename, then its records; blocks on the disk.

    A kill in between leaves records without a folder, to be removed by the next start; never a folder without
    its pin.

    Returns:
        The grave, alone in a list; the caller removes it. Missing after a removal in place.

    Raises:
        OSError: the folder can't be moved, or a record not be removed.
    """
    grave = _grave(place, graves)
    if place.folder.exists():
        _move(place, grave)
    _remove_records(place)
    return [grave]


def _grave(place: VersionPlace, graves: Path) -> Path:
    """Return a new name for a version's folder among the graves."""
    return graves / f"{place.folder.name}-{secrets.token_hex(4)}"


def _move(place: VersionPlace, grave: Path) -> bool:
    """Move a version's folder to its grave; return False after a removal in its place instead.

    An overlay file system can't rename a folder from the image below (EXDEV).
    """
    try:
        rename(place.folder, grave, durable=False, copy=False)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _remove_in_place(place)
        return False
    return True


def _remove_records(place: VersionPlace) -> None:
    for record in place.records:
        record.unlink(missing_ok=True)


def _remove_in_place(place: VersionPlace) -> None:
    """Remove a version's folder in its place, without the room needed by a copy.

    The manifest goes first: without it, the remains after a kill are no version.

    Raises:
        OSError: an entry of the folder can't be removed.
    """
    place.manifest.unlink(missing_ok=True)
    if not remove_tree(place.folder):
        raise OSError(errno.ENOTEMPTY, "something in it can't be removed", str(place.folder))


def _empty(graves: Sequence[Path], links: LinkChanges) -> list[Path]:
    """Remove graves, and return those with something left."""
    return [grave for grave in graves if not _empty_one(grave, links)]


def _empty_one(grave: Path, links: LinkChanges) -> bool:
    """Remove a grave, and return whether it is gone completely."""
    try:
        return links.remove(grave) and remove_tree(grave)
    except OSError:
        return False
