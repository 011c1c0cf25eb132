"""A directory of blobs in hashserver's layout, with read-only directories beside it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from shardcast.blobs.directory.algorithm_record import check_algorithm, settle_algorithm
from shardcast.blobs.directory.blob_writer import FileWriter
from shardcast.blobs.directory.file import BlobFile, verify
from shardcast.blobs.directory.incoming_folder import IncomingFolder
from shardcast.blobs.directory.layout import FLAT, LENGTH_SUFFIX, PREFIX, Folder, check_layout, prepare
from shardcast.blobs.directory.lookup import FORMS, BlobLookup
from shardcast.blobs.directory.private_mark import check_not_private
from shardcast.blobs.directory.quarantine import recover
from shardcast.blobs.directory.verify_cache import VerifyCache
from shardcast.blobs.interface import BlobWriter
from shardcast.digest import new_hasher
from shardcast.disk_errors import disk_errors
from shardcast.errors import LocalDiskError, ReadOnlyStore, UsageError
from shardcast.store.file_errors import BlobSearch
from shardcast.store.interfaces import BlobReader

log = logging.getLogger(__name__)


class BlobDirectory:
    """A directory as a ``BlobStore``; several processes can work on one directory at once.

    Attributes:
        algorithm: the digest of its blobs.
        folder: the directory for new blobs, and its layout.
        lookup: the finder of blobs' files, here and in the read-only directories.
        writable: whether blobs can be put here.
        verified: the files verified by this process.
    """

    def __init__(
        self,
        root: str | Path,
        algorithm: str | None = None,
        layout: str | None = None,
        *,
        extra: Sequence[str | Path] = (),
        writable: bool = False,
        private: bool = False,
        on_put: Callable[[str], object] = lambda digest: None,
    ) -> None:
        """Open a directory.

        Args:
            root: the directory.
            algorithm: by default the recorded algorithm, or SHA-256 without a record.
            layout: by default the layout of the directory, or the prefix layout for an empty directory.
            extra: read-only directories, in this order, each in its layout of the moment.
            writable: whether blobs are to be put here.
            private: whether the caller is the only server of a private directory (``private_mark``).
            on_put: called with the digest of each new blob, in a thread or in the event loop.

        Raises:
            UsageError: the directory does not exist, the algorithm is unknown, or the layout is another one.
            WrongStore: the directory has another algorithm; or the directory, or one of ``extra``, is
                private.
            LocalDiskError: the directory cannot be read; or not written, if ``writable``.
        """
        with disk_errors("could not look at", root):
            exists = Path(root).is_dir() and Path(root).stat().st_nlink > 0  # "." may have been removed
        if not exists:
            raise UsageError(f"{root} is no directory; make it first, or name another")
        for folder in extra if private else (root, *extra):
            check_not_private(folder)
        check_algorithm(algorithm)
        found = check_layout(str(root), layout)
        self.folder = Folder(str(root), found.layout or layout or PREFIX)
        own = [self.folder]
        if found.flat and found.prefix:
            log.warning(
                "%s has blobs of both layouts; it is %s, and the others are only read: move them",
                root,
                self.folder.layout,
            )
            own.append(Folder(str(root), FLAT if self.folder.layout == PREFIX else PREFIX))
        self.lookup = BlobLookup(own, [str(folder) for folder in extra])
        self.algorithm = settle_algorithm(Path(root), algorithm, writable)
        self.writable = writable
        self.verified = VerifyCache()
        self._on_put = on_put
        self._incoming: IncomingFolder | None = None
        self._opening_incoming = threading.Lock()
        if writable:
            prepare(self.folder)

    async def prepare(self) -> None:
        """Make the folder for arriving blobs, and clean up after ended processes.

        Their temporary files are removed, and files taken out by a killed gc or scrub are put back.

        Without this call, the first put does so.

        Raises:
            LocalDiskError: the directory cannot be written.
        """
        await self._opened_incoming()

    async def close(self) -> None:
        """Release the directory, and discard arriving blobs."""
        if self._incoming is not None:
            await asyncio.to_thread(self._incoming.close)
            self._incoming = None

    async def size(self, digest: str) -> int | None:
        """See ``BlobStore``; of a coded blob, its decoded bytes.

        Raises:
            BlobCorrupt: the blob has only a coded file, and decoding failed.
            LocalDiskError: the file cannot be read.
        """
        return await self.verified.hashing.run(self.lookup.length, digest)

    @asynccontextmanager
    async def open(self, digest: str) -> AsyncIterator[BlobReader]:
        """See ``BlobStore``; reads the first file of the blob with the right digest."""
        search = BlobSearch()
        for file in self.lookup.files(digest, search):
            with file:
                if await self.is_right(digest, file, search):
                    yield file.reader(digest)
                    return
                search.add_corrupt(f"the bytes of {file.path} do not match its name")
        search.raise_outcome(f"{digest} is not in {self.folder.root}")

    async def is_right(self, digest: str, file: BlobFile, search: BlobSearch) -> bool:
        """Return whether a file holds this blob; ``search`` records an unreadable file."""
        try:
            return await verify(self.verified, self.algorithm, digest, file)
        except LocalDiskError as error:
            search.add_error(error)
            return False

    async def read_small(self, digests: Sequence[str], max_size: int) -> dict[str, bytes]:
        """See ``BlobStore``; one job of a hashing thread reads them all."""
        return await self.verified.hashing.run(self._read_small, digests, max_size)

    def _read_small(self, digests: Sequence[str], most: int) -> dict[str, bytes]:
        """Return blobs as ``read_small`` does; blocks on the disk."""
        found: dict[str, bytes] = {}
        folders = self.lookup.folders()
        for digest in digests:
            search = BlobSearch()
            for file in self.lookup.files(digest, search, folders=folders):
                try:
                    with file:
                        data = file.read_small(most)
                except LocalDiskError as error:
                    search.add_error(error)
                    continue
                if data is not None and _digest_of(self.algorithm, data) == digest:
                    found[digest] = data
                    break
            else:
                search.check()
                if search.wrong:
                    log.error("%s is left out: %s", digest, search.wrong)
        return found

    @asynccontextmanager
    async def put(self, digest: str | None = None, coding: str | None = None) -> AsyncIterator[BlobWriter]:
        """Put a blob; see ``BlobStore``.

        With a ``coding`` (one of ``CODINGS``) the written bytes are of this coding and stored unchanged; the
        digest is of the decoded bytes.

        Raises:
            ReadOnlyStore: the directory was not opened as writable.
        """
        if not self.writable:
            raise ReadOnlyStore(
                f"{self.folder.root} is read-only; open the directory as writable to put blobs"
            )
        incoming = await self._opened_incoming()

        def after(digest: str, length: int) -> None:
            self._record_length(incoming, digest, coding, length)
            self._on_put(digest)

        writer = FileWriter(
            self.folder,
            incoming,
            self.verified,
            self.algorithm,
            digest=digest,
            coding=coding,
            after=after,
        )
        try:
            yield writer
        finally:
            await writer.discard()

    def _record_length(self, incoming: IncomingFolder, digest: str, coding: str | None, length: int) -> None:
        """Record the decoded length of a coded blob; remove the record of any other blob."""
        record = Path(self.folder.path(digest) + LENGTH_SUFFIX)
        if coding is not None:
            incoming.replace(record, b"%d" % length)
        else:
            record.unlink(missing_ok=True)

    async def delete(self, digest: str) -> bool:
        """See ``BlobStore``; every form of the blob is removed, from the writable directory only."""
        if not self.writable:
            raise ReadOnlyStore(
                f"{self.folder.root} is read-only; open the directory as writable to remove blobs"
            )
        return await asyncio.to_thread(self._delete, digest)

    def _delete(self, digest: str) -> bool:
        """Remove all forms of a blob; blocks on the disk."""
        found = False
        for coding in FORMS:
            name = Path(self.folder.path(digest, coding))
            with disk_errors("could not remove", name), contextlib.suppress(FileNotFoundError):
                name.unlink()
                found = True
        Path(self.folder.path(digest) + LENGTH_SUFFIX).unlink(missing_ok=True)
        return found

    async def digests(self) -> AsyncIterator[str]:
        """See ``BlobStore``; a blob of several folders is yielded for the first of them."""
        finished: list[Folder] = []
        for folder in self.lookup.folders():
            batches = folder.entries()
            while (batch := await asyncio.to_thread(next, batches, None)) is not None:
                for digest in await asyncio.to_thread(self._absent_from, finished, batch):
                    yield digest
            finished.append(folder)

    def _absent_from(self, folders: Sequence[Folder], digests: Sequence[str]) -> list[str]:
        """Return the blobs without a file in these folders; blocks on the disk."""
        return [digest for digest in digests if self.lookup.find(digest, folders) is None]

    async def _opened_incoming(self) -> IncomingFolder:
        """Return the folder for temporary files, made by the first caller."""
        if self._incoming is not None:
            return self._incoming
        return await asyncio.to_thread(self._open_incoming)

    def _open_incoming(self) -> IncomingFolder:
        """Make the folder for temporary files, and put back files taken out by killed processes."""
        with self._opening_incoming:  # several puts may come first at once, each in its thread
            if self._incoming is None:
                root = self.folder.root
                self._incoming = IncomingFolder(
                    root, lambda: settle_algorithm(Path(root), self.algorithm, True)
                )
                try:
                    recover(self.folder)
                except LocalDiskError as error:  # gc and verify report it too, and end with it
                    log.warning("%s", error)
            return self._incoming


def _digest_of(algorithm: str, data: bytes) -> str:
    hasher = new_hasher(algorithm)
    hasher.update(data)
    return hasher.hexdigest()
