"""A directory of blobs, as hashserver keeps one, and others beside it that are only read."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from shardcast.blobs.directory.blob_writer import FileWriter, Incoming
from shardcast.blobs.directory.compression import CODINGS
from shardcast.blobs.directory.file import BlobFile, verify
from shardcast.blobs.directory.layout import (
    FLAT,
    LENGTH,
    OWN,
    PREFIX,
    Folder,
    Layouts,
    decide,
    prepare,
    seal,
    share,
)
from shardcast.blobs.directory.marks import is_marked, note_put
from shardcast.blobs.directory.quarantine import recover
from shardcast.blobs.directory.stat import forms_of
from shardcast.blobs.directory.verify_cache import VerifiedFiles
from shardcast.blobs.interface import ALGORITHMS, BlobWriter
from shardcast.digest import new_hasher
from shardcast.errors import BlobCorrupt, LocalDiskError, ReadOnlyStore, UsageError, WrongStore
from shardcast.filesystem import (
    close,
    create_private,
    disk_errors,
    give_free_name,
    sync_file,
    sync_folder,
    temporary_name,
    write_all,
)
from shardcast.store.file_errors import Search, UnreadableFile, file_errors, says_absent
from shardcast.store.interfaces import BlobReader

log = logging.getLogger(__name__)

AS_IT_IS_FIRST: tuple[str | None, ...] = (None, *CODINGS)
"""The forms that a blob can have, in the order in which they are looked for."""


class BlobDirectory:
    """A directory as a ``BlobStore``; several processes can work on it at once.

    Attributes:
        algorithm: its digest.
        folder: the directory itself, and its layout.
        writable: whether blobs can be put here.
        verified: which of its files were verified by this process.
    """

    def __init__(
        self,
        root: str | Path,
        algorithm: str | None = None,
        layout: str | None = None,
        extra: Sequence[str | Path] = (),
        writable: bool = False,
    ) -> None:
        """Open a directory. Without ``algorithm`` it is the one that is written there, or else SHA-256;
        without ``layout`` the one that the directory has, or else the prefix one. The directories ``extra``
        are only read, in this order, each with the layout that it has at the time.

        Raises:
            UsageError: there is no such directory, no such algorithm, or its layout is another one.
            WrongStore: the directory is of another algorithm.
            LocalDiskError: it can't be read, or not written where it is to be.
        """
        with disk_errors("could not look at", root):
            is_there = Path(root).is_dir() and Path(root).stat().st_nlink > 0  # "." may have been removed
        if not is_there:
            raise UsageError(f"{root} is no directory; make it first, or name another")
        if algorithm is not None and algorithm not in ALGORITHMS:
            raise UsageError(f"{algorithm!r} is no digest of a store; there are {', '.join(ALGORITHMS)}")
        found = decide(str(root), layout)
        self.folder = Folder(str(root), found.layout or layout or PREFIX)
        self._other: list[Folder] = []
        if found.flat and found.prefix:
            log.warning(
                "%s has blobs of both layouts; it is %s, and the others are only read: move them",
                root,
                self.folder.layout,
            )
            self._other = [Folder(str(root), FLAT if self.folder.layout == PREFIX else PREFIX)]
        self.algorithm = _agree(Path(root), algorithm, writable)
        self.writable = writable
        self.verified = VerifiedFiles()
        self._extra, self._layouts = [str(one) for one in extra], Layouts()
        self._incoming: Incoming | None = None
        self._making = threading.Lock()
        if writable:
            prepare(self.folder)

    async def begin(self) -> None:
        """Make ready to put blobs: what processes that have ended left unfinished is removed. Otherwise the
        first who puts does so.

        Raises:
            LocalDiskError: nothing can be written here.
        """
        await self._begun()

    async def close(self) -> None:
        """Let go of the directory; blobs that are still arriving are given up."""
        if self._incoming is not None:
            await asyncio.to_thread(self._incoming.close)
            self._incoming = None

    def folders(self) -> list[Folder]:
        """Where blobs are looked for, now."""
        extra = (Folder(root, layout) for root in self._extra for layout in self._layouts.of(root))
        return [self.folder, *self._other, *extra]

    def files(
        self,
        digest: str,
        search: Search,
        forms: Sequence[str | None] = AS_IT_IS_FIRST,
        folders: Sequence[Folder] | None = None,
    ) -> Iterator[BlobFile]:
        """The files that may hold a blob, each opened; who takes one closes it. What is no regular file is
        told of as such; ``search`` is told of what can't be opened. Who looks for many hands over
        ``folders()``."""
        for folder in folders or self.folders():
            for coding in forms:
                try:
                    found = BlobFile.open(folder.path(digest, coding), coding)
                except LocalDiskError as error:
                    search.met(error)
                else:
                    if found:
                        yield found

    def present(self, digests: Sequence[str]) -> list[bool]:
        """Which of these are here, in whatever state; blocks on the disk.

        Raises:
            LocalDiskError: it can't be told of one.
        """
        folders = self.folders()
        return [self._place(folders, digest) is not None for digest in digests]

    def _place(self, folders: Sequence[Folder], digest: str) -> tuple[Folder, str | None, int] | None:
        """Where a blob is, in which form, and how many bytes its file has. What can't be looked at for a
        reason of its own isn't here.

        Raises:
            LocalDiskError: it can't be told.
        """
        search = Search()
        for folder in folders:
            for coding in AS_IT_IS_FIRST:
                path = folder.path(digest, coding)
                try:
                    found = os.stat(path)  # noqa: PTH116
                except OSError as error:
                    if not says_absent(error):
                        search.met(_as_failure(error, path))
                    continue
                if stat.S_ISREG(found.st_mode):
                    return folder, coding, found.st_size
        search.check()
        return None

    def length(self, digest: str) -> int | None:
        """Bytes of a blob, decoded; None where it isn't here. Blocks on the disk.

        Raises:
            BlobCorrupt: it is kept coded, and can't be decoded.
            LocalDiskError: it can't be read.
        """
        place = self._place(self.folders(), digest)
        if place is None:
            return None
        folder, coding, size = place
        if coding is None:
            return size
        with contextlib.suppress(OSError):  # most have no such file
            told = Path(folder.path(digest) + LENGTH).read_bytes()[:20]
            if told.isdigit():
                return int(told)
        try:
            found = BlobFile.open(folder.path(digest, coding), coding)
        except UnreadableFile as error:
            raise BlobCorrupt(f"{error}; put it again to repair it") from error
        if found is None:
            return None
        with found:
            return found.decoded_length()

    async def size(self, digest: str) -> int | None:
        return await self.verified.hashing.run(self.length, digest)

    @asynccontextmanager
    async def _open(self, digest: str) -> AsyncIterator[BlobReader]:
        search = Search()
        for file in self.files(digest, search):
            with file:
                if await self.is_right(digest, file, search):
                    yield file.reader(digest)
                    return
                search.met_wrong(f"the bytes of {file.path} are not what its name says")
        search.end(f"{digest} is not in {self.folder.root}")

    async def is_right(self, digest: str, file: BlobFile, search: Search) -> bool:
        """Whether a file holds this blob; ``search`` is told what keeps it from being read."""
        try:
            return await verify(self.verified, self.algorithm, digest, file)
        except LocalDiskError as error:
            search.met(error)
            return False

    def open(self, digest: str) -> AbstractAsyncContextManager[BlobReader]:
        return self._open(digest)

    async def read_small(self, digests: Sequence[str], most: int) -> dict[str, bytes]:
        return await self.verified.hashing.run(self._read_small, digests, most)

    def _read_small(self, digests: Sequence[str], most: int) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        folders = self.folders()
        for digest in digests:
            search = Search()
            for file in self.files(digest, search, folders=folders):
                try:
                    with file:
                        data = file.read_small(most)
                except LocalDiskError as error:
                    search.met(error)
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
    async def _put(self, digest: str | None, coding: str | None) -> AsyncIterator[BlobWriter]:
        if not self.writable:
            raise ReadOnlyStore(f"{self.folder.root} is only read; open it as writable to put blobs there")
        arriving = await self._begun()

        def after(digest: str, length: int) -> None:
            self._after_put(arriving, digest, coding, length)

        writer = FileWriter(self.folder, arriving, self.verified, self.algorithm, digest, coding, after)
        try:
            yield writer
        finally:
            await writer.abandon()

    def _after_put(self, arriving: Incoming, digest: str, coding: str | None, length: int) -> None:
        """A blob of so many bytes, decoded, has its name; called in a thread or not."""
        sidecar = Path(self.folder.path(digest) + LENGTH)
        if coding is not None:
            arriving.replace(sidecar, b"%d" % length)
        else:
            sidecar.unlink(missing_ok=True)

    def put(
        self, digest: str | None = None, coding: str | None = None
    ) -> AbstractAsyncContextManager[BlobWriter]:
        """Put a blob. With a ``coding`` (one of ``CODINGS``) what is written is that of it, and kept as it
        is; the digest is the one of what it decodes to."""
        return self._put(digest, coding)

    def seal(self, digest: str, coding: str | None = None) -> bool:
        """Have a blob that is there count as put now: nobody writes to its file any more, the group can to
        its folder, and gc leaves it alone for its time. False where that can't be: it has gone meanwhile, or
        it is somebody else's and nothing can be written down."""
        path = self.folder.path(digest, coding)
        try:
            was_marked = is_marked(os.lstat(path))
            self.folder.make_parent(digest)
            seal(path)
            if was_marked:
                sync_file(Path(path))
        except FileNotFoundError:
            return False
        except OSError:
            return note_put(self.folder, digest)
        return True

    def renew(self, digest: str) -> bool:
        """Have gc forget that it marked a blob; False where that can't be. Blocks on the disk.

        Raises:
            LocalDiskError: it can't be looked at.
        """
        with disk_errors("could not look at", self.folder.path(digest)):
            marked = [form for form in forms_of(self.folder, digest) if is_marked(form.looks)]
        return all(self.seal(digest, form.coding) for form in marked)

    async def delete(self, digest: str) -> bool:
        if not self.writable:
            raise ReadOnlyStore(f"{self.folder.root} is only read; open it as writable to remove blobs")
        return await asyncio.to_thread(self._delete, digest)

    def _delete(self, digest: str) -> bool:
        found = False
        for coding in AS_IT_IS_FIRST:
            name = Path(self.folder.path(digest, coding))
            with disk_errors("could not remove", name), contextlib.suppress(FileNotFoundError):
                name.unlink()
                found = True
        Path(self.folder.path(digest) + LENGTH).unlink(missing_ok=True)
        return found

    async def digests(self) -> AsyncIterator[str]:
        told: list[Folder] = []
        for folder in self.folders():
            batches = folder.entries()
            while (some := await asyncio.to_thread(next, batches, None)) is not None:
                for digest in await asyncio.to_thread(self._new, told, some):
                    yield digest
            told.append(folder)

    def _new(self, told: Sequence[Folder], some: Sequence[str]) -> list[str]:
        """Those of a folder's digests that were not told of as another folder's."""
        return [digest for digest in some if self._place(told, digest) is None]

    async def _begun(self) -> Incoming:
        if self._incoming is not None:
            return self._incoming
        return await asyncio.to_thread(self._arriving)

    def _arriving(self) -> Incoming:
        with self._making:
            if self._incoming is None:
                root = self.folder.root
                self._incoming = Incoming(root, lambda: _agree(Path(root), self.algorithm, True))
                try:
                    recover(self.folder)
                except LocalDiskError as error:  # gc and verify say so too, and end with it
                    log.warning("%s", error)
            return self._incoming


def _as_failure(error: OSError, path: str) -> LocalDiskError:
    try:
        with file_errors("could not look at", path):
            raise error
    except LocalDiskError as failure:
        return failure


def _digest_of(algorithm: str, data: bytes) -> str:
    hasher = new_hasher(algorithm)
    hasher.update(data)
    return hasher.hexdigest()


def _agree(root: Path, said: str | None, writable: bool) -> str:
    """A directory's algorithm: what is written there, which can't be gainsaid; what is said is written there
    by the first who is to put blobs.

    Raises:
        WrongStore: it is another.
        LocalDiskError: it can't be read, or written.
    """
    record = root / OWN / "digest"
    with disk_errors("could not read", record):
        try:
            # Zeros: an earlier node did not sync it, and the power went.
            there = record.read_text(errors="replace").strip().strip("\0")
        except FileNotFoundError:
            there = ""
    if there and there not in ALGORITHMS:
        raise WrongStore(
            f"{record} names the digest {there!r}, which this shardcast doesn't know; use a newer one"
        )
    if there and said and there != said:
        raise WrongStore(f"the blobs in {root} are kept under {there}, not {said}; say {there}")
    if not there and writable:
        with disk_errors("could not use", root):
            record.parent.mkdir(exist_ok=True)
            share(str(record.parent))
            _write_first(record, f"{said or ALGORITHMS[0]}\n".encode())
        return _agree(root, said, False)
    return there or said or ALGORITHMS[0]


def _write_first(record: Path, data: bytes) -> None:
    """Write a file, unless another process did so first.

    Raises:
        OSError: it can't be written.
    """
    part = temporary_name(record)
    descriptor = create_private(part)
    try:
        write_all(descriptor, data)
        if not give_free_name(descriptor, part, record):
            sync_folder(record.parent)  # the other process may not have come to that
        sync_folder(record.parent.parent)
    finally:
        close(descriptor)
        part.unlink(missing_ok=True)
