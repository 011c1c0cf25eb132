"""Thousands of files restored together: chunks fetched in the order of the packs, by several threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, as_completed

from shardcast.backup.attributes import AttributeRights
from shardcast.backup.client.chunk_reader import ChunkReader, PackRange
from shardcast.backup.client.restore_places import RestorePlaces, concerns_one_entry, remove_temporary
from shardcast.backup.client.restore_report import RestoreReport
from shardcast.backup.client.restored_file import RestoredFile, has_chunk
from shardcast.backup.client.snapshot_tree import Chunk, SnapshotTree
from shardcast.backup.ids import ChunkKind
from shardcast.concurrency import ThreadPool
from shardcast.errors import IntegrityError
from shardcast.open_files import close

MAX_FILES = 8192
"""Maximum number of files, and of places for chunks, in a window: bounds the memory."""
_START_BYTES = 32 << 20
"""Plain bytes of the expected chunks at which fetching begins, beside the reading of more entries."""
_THREADS = 4
_ONLY_CHUNK = -1
"""Offset of a chunk that is a whole file."""

Targets = dict[bytes, list[tuple[RestoredFile, int]]]
"""The files, and the offset in each, that need a chunk, by the chunk's id."""


class RestoreWindow:
    """Files whose bytes are fetched together. ``add`` and ``run`` are for one thread."""

    def __init__(
        self,
        tree: SnapshotTree,
        reader: ChunkReader,
        places: RestorePlaces,
        report: RestoreReport,
        *,
        rights: AttributeRights,
        progress: Callable[[], object],
    ) -> None:
        """Have no files yet; ``progress`` is called after each range of a pack is written."""
        self._tree = tree
        self._reader = reader
        self._places = places
        self._report = report
        self._rights = rights
        self._progress = progress
        self._files: list[RestoredFile] = []
        self._targets: Targets = {}
        self._running: list[Future[None]] = []
        self._expected = self._bytes = 0
        self._pool = ThreadPool(_THREADS, "shardcast-restore")

    def close(self) -> None:
        """Drop the queued work, and wait for the threads to end."""
        self._pool.shutdown(cancel_futures=True)

    @property
    def is_full(self) -> bool:
        """Whether the files are to be restored before more are added."""
        return len(self._files) + self._expected >= MAX_FILES

    @property
    def is_empty(self) -> bool:
        """Whether no files are to be restored."""
        return not self._files

    def add(self, file: RestoredFile) -> None:
        """Add a file; parts of a large file may be restored immediately.

        Raises:
            OSError: the file cannot be written.
            ShardcastError: the server failed.
        """
        self._files.append(file)
        entry = file.entry
        if not entry.chunks and not entry.chunk_lists:
            self._write(file, _ONLY_CHUNK, b"")
        elif len(entry.chunks) == 1:
            self._expect(Chunk(entry.chunks[0], entry.size), file, _ONLY_CHUNK)
        else:
            self._add_large(file)

    def _expect(self, chunk: Chunk, file: RestoredFile, offset: int) -> None:
        """Note a chunk to fetch, and begin to fetch once there are many bytes."""
        places = self._targets.setdefault(chunk.id, [])
        self._bytes += 0 if places else chunk.size
        places.append((file, offset))
        self._expected += 1
        if self._bytes >= _START_BYTES:
            self._start()

    def _add_large(self, file: RestoredFile) -> None:
        """Add the chunks of a file, except those already written by an earlier restore."""
        with self._places.folder_of(file.path) as (folder, name):
            had = file.begin(folder, name)
            known = file.open(folder, name) if had else -1
        offset = 0
        try:
            for chunk in self._tree.chunks(file.entry):
                if known < 0 or not has_chunk(known, chunk, offset, self._reader.id_key):
                    file.expect()
                    self._expect(chunk, file, offset)
                offset += chunk.size
                if self._expected >= MAX_FILES:
                    self._fetch()
        except IntegrityError as error:
            self._fail(file, str(error), "damaged")
        finally:
            if known >= 0:
                close(known)
        if file.all_expected() and file.problem is None:
            self._finish(file)

    def run(self) -> list[RestoredFile]:
        """Restore the files; return the failed ones, already reported and without a temporary file.

        Raises:
            OSError: the disk is full, or failed.
            ShardcastError: the server failed.
        """
        self._fetch()
        failed = [file for file in self._files if file.problem is not None]
        for file in failed:  # a thread may have written a part after another one gave it up
            with self._places.folder_of(file.path) as (folder, name):
                remove_temporary(folder, name)
        self._files = []
        return failed

    def _start(self) -> None:
        """Let threads fetch the expected chunks, and write them; report the files of missing chunks."""
        parts, missing = self._reader.plan(self._targets)
        targets, self._targets, self._bytes = self._targets, {}, 0
        for chunk in missing:
            for file, _ in targets[chunk]:
                self._fail(file, f"chunk {chunk.hex()[:16]} is missing at the server", "damaged")
        self._running += [self._pool.submit(self._bring, part, targets) for part in parts]

    def _fetch(self) -> None:
        """Wait until all expected chunks are fetched and written."""
        self._start()
        running, self._running, self._expected = self._running, [], 0
        try:
            for done in as_completed(running):
                done.result()
                self._progress()
        except BaseException:
            self._reader.abort()  # a server that stalls must not hold up the end
            _cancel(running)
            raise

    def _bring(self, part: PackRange, targets: Targets) -> None:
        """Fetch a range of a pack, and write each chunk to all its places."""
        for chunk, plain in self._reader.fetch_moved(ChunkKind.DATA, part):
            for file, offset in targets[chunk]:
                if file.problem is not None:
                    continue
                if isinstance(plain, IntegrityError):
                    self._fail(file, str(plain), "damaged")
                else:
                    self._write(file, offset, plain)

    def _write(self, file: RestoredFile, offset: int, plain: bytes) -> None:
        """Write a chunk, and finish its file if this was the last missing chunk."""
        end = file.entry.size if offset == _ONLY_CHUNK else offset + len(plain)
        if end > file.entry.size or (offset == _ONLY_CHUNK and len(plain) != end):
            self._fail(file, f"it has more or fewer bytes than the {file.entry.size} of its entry", "damaged")
            return
        try:
            with self._places.folder_of(file.path) as (folder, name):
                if offset == _ONLY_CHUNK:
                    self._done(file, file.write_whole(folder, name, plain, self._rights))
                elif file.write(folder, name, offset, plain):
                    self._done(file, file.finish(folder, name, self._rights))
        except OSError as error:
            self._failed(file, error)

    def _finish(self, file: RestoredFile) -> None:
        """Finish a file whose last chunk was written before all its chunks were added."""
        try:
            with self._places.folder_of(file.path) as (folder, name):
                self._done(file, file.finish(folder, name, self._rights))
        except OSError as error:
            self._failed(file, error)

    def _done(self, file: RestoredFile, problems: list[str]) -> None:
        self._report.add(files=1, bytes=file.entry.size)
        for problem in problems:
            self._report.problem(file.path, problem)

    def _failed(self, file: RestoredFile, error: OSError) -> None:
        """Report an error of one file.

        Raises:
            OSError: the error concerns the whole disk.
        """
        if not concerns_one_entry(error):
            raise error
        if isinstance(error, FileExistsError) and not file.replaces:
            self._fail(file, "something has come there meanwhile; it stays", "differing")
        elif file.problem is None:
            self._fail(file, error.strerror or os.strerror(error.errno or 0), "failed")

    def _fail(self, file: RestoredFile, text: str, kind: str) -> None:
        if file.fail(text):
            self._report.problem(file.path, text, kind)


def _cancel(running: list[Future[None]]) -> None:
    """Cancel queued work, and wait for running work."""
    for future in running:
        future.cancel()
    for future in running:
        if not future.cancelled():
            future.exception()
