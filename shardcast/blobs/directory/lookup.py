"""The places of a blob's files: in a directory, and in the read-only directories beside it."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from shardcast.blobs.directory.compression import CODINGS
from shardcast.blobs.directory.file import BlobFile
from shardcast.blobs.directory.layout import LENGTH_SUFFIX, Folder, Layouts
from shardcast.errors import BlobCorrupt, LocalDiskError
from shardcast.store.file_errors import BlobSearch, UnreadableFile, file_errors, is_absent

FORMS: tuple[str | None, ...] = (None, *CODINGS)
"""The forms of a blob, None for its unchanged bytes, in the order of the search."""


class BlobLookup:
    """Finder of blobs' files; nothing is verified, and every method blocks on the disk."""

    def __init__(self, own: Sequence[Folder], extra: Sequence[str]) -> None:
        """Search ``own`` first, then the directories ``extra``, each in its layout of the moment."""
        self._own = tuple(own)
        self._extra, self._layouts = tuple(extra), Layouts()

    def folders(self) -> list[Folder]:
        """Return the folders to search now, in order."""
        extra = (Folder(root, layout) for root in self._extra for layout in self._layouts.of(root))
        return [*self._own, *extra]

    def files(
        self,
        digest: str,
        search: BlobSearch,
        forms: Sequence[str | None] = FORMS,
        folders: Sequence[Folder] | None = None,
    ) -> Iterator[BlobFile]:
        """Yield each possible file of a blob, open; the caller closes the file.

        Args:
            digest: the blob.
            search: records files that cannot be opened.
            forms: the forms to look for.
            folders: the result of ``folders``, for a caller in search of many blobs.
        """
        for folder in folders or self.folders():
            for coding in forms:
                try:
                    found = BlobFile.open(folder.path(digest, coding), coding)
                except LocalDiskError as error:
                    search.add_error(error)
                else:
                    if found:
                        yield found

    def find(self, digest: str, folders: Sequence[Folder]) -> tuple[Folder, str | None, int] | None:
        """Return the folder, the form and the size of a blob's first file; None without a file.

        A file unreadable for a reason of this file alone counts as absent.

        Raises:
            LocalDiskError: the disk failed while looking for a file.
        """
        search = BlobSearch()
        for folder in folders:
            for coding in FORMS:
                path = folder.path(digest, coding)
                try:
                    found = os.stat(path)  # noqa: PTH116
                except OSError as error:
                    if not is_absent(error):
                        search.add_error(_as_disk_error(error, path))
                    continue
                if stat.S_ISREG(found.st_mode):
                    return folder, coding, found.st_size
        search.check()
        return None

    def present(self, digests: Sequence[str]) -> list[bool]:
        """Return for each of these blobs whether it has a file, right or wrong.

        Raises:
            LocalDiskError: the disk failed while looking for a file.
        """
        folders = self.folders()
        return [self.find(digest, folders) is not None for digest in digests]

    def length(self, digest: str) -> int | None:
        """Return the number of a blob's bytes, decoded, or None for an absent one; no bytes are verified.

        The length of a coded blob is the recorded one, else its file is decoded.

        Raises:
            BlobCorrupt: the blob has only a coded file, impossible to decode.
            LocalDiskError: the file can't be read.
        """
        place = self.find(digest, self.folders())
        if place is None:
            return None
        folder, coding, size = place
        if coding is None:
            return size
        with contextlib.suppress(OSError):  # most coded blobs have no record of their length
            recorded = Path(folder.path(digest) + LENGTH_SUFFIX).read_bytes()[:20]
            if recorded.isdigit():
                return int(recorded)
        try:
            found = BlobFile.open(folder.path(digest, coding), coding)
        except UnreadableFile as error:
            raise BlobCorrupt(f"{error}; put the blob again to repair it") from error
        if found is None:
            return None
        with found:
            return found.decoded_length()


def _as_disk_error(error: OSError, path: str) -> LocalDiskError:
    """Return an error of the system in the translation of ``file_errors``."""
    try:
        with file_errors("could not look at", path):
            raise error
    except LocalDiskError as failure:
        return failure
