"""Chunks ─▶ packs at the server: ask for missing chunks, encode, pack and send, in threads beside the reader.

::

    reader ─▶ batch ─▶ [queue] ─▶ missing? ─▶ encode ─▶ pack ─▶ send        (three threads take batches)
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from shardcast.backup.encoding import encode_chunks
from shardcast.backup.ids import ChunkKind
from shardcast.backup.packs import Pack, PackWriter
from shardcast.digest import Buffer
from shardcast.errors import CannotAsk, LocalLimit

THREADS = 3
_BATCH_BYTES, _BATCH_CHUNKS = 4 << 20, 2048
"""Size of a full batch."""
_QUEUED = 3
"""Batches in the queue: they bound the memory, and let the reader run ahead of the server."""
_RENEW = 60.0
"""Seconds without a batch after which the run is renewed."""

QueuedChunk = tuple[ChunkKind, bytes, Buffer, bytes | None]
"""Kind, id, bytes, and the encoded bytes where they are known."""


class ChunkStore(Protocol):
    """Where chunks are sent: a ``BackupRun``."""

    def missing(self, ids: Sequence[bytes]) -> list[bool]:
        """Return for each id whether the chunk is missing at the server."""

    def share(self, chunks: Mapping[bytes, Buffer]) -> set[bytes]:
        """Return the ids of chunks there from other clients, which need not be sent."""

    def put_pack(self, pack: Pack) -> None:
        """Send a pack."""


class ChunkSender:
    """A sender of the chunks missing at a server.

    Attributes:
        sent_bytes: bytes of the sent packs.
        sent_chunks: chunks in these packs.
    """

    def __init__(self, store: ChunkStore) -> None:
        self.sent_bytes = self.sent_chunks = 0
        self._store = store
        self._batch: list[QueuedChunk] = []
        self._batch_bytes = 0
        self._queue: queue.Queue[list[QueuedChunk] | None] = queue.Queue(_QUEUED)
        # Guards the packs and the ids under way only: requests and encoding run beside each other.
        self._lock = threading.Lock()
        self._packs = {kind: PackWriter() for kind in ChunkKind}
        # Until its pack has arrived, the server calls a chunk missing: another batch must not add the chunk.
        self._under_way: set[bytes] = set()
        self._failure: BaseException | None = None  # one assignment, so read without the lock
        self._threads: list[threading.Thread] = []

    def take(self, kind: ChunkKind, chunk: bytes, data: Buffer, encoded: bytes | None = None) -> None:
        """Take a chunk; waits while the server is slower than the reader.

        Args:
            kind: the chunk's kind.
            chunk: the chunk's id.
            data: the plain bytes.
            encoded: the encoded bytes, if already known.

        Raises:
            PeerError, UploadRefused: an earlier chunk could not be sent.
        """
        self._batch.append((kind, chunk, data, encoded))
        self._batch_bytes += len(data)
        if self._batch_bytes >= _BATCH_BYTES or len(self._batch) >= _BATCH_CHUNKS:
            self._hand_on()

    def finish(self) -> None:
        """Send the rest, and return once the server has all chunks.

        Raises:
            PeerError, UploadRefused: a chunk could not be sent.
        """
        if self._batch:
            self._hand_on()
        self.stop()
        self._check()
        for kind in ChunkKind:
            if len(self._packs[kind]):
                self._send(self._take_pack(kind))

    def stop(self) -> None:
        """End the threads after the queued batches; chunks in packs that are not full stay unsent."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []

    def abandon(self) -> None:
        """Drop the queued batches, and refuse further ones; requests under way end by themselves."""
        self._failure = self._failure or CannotAsk("the backup server", "the backup was broken off")

    def _hand_on(self) -> None:
        """Queue the batch, and start threads as needed."""
        self._check()
        if len(self._threads) < THREADS:
            self._start_thread()
        self._queue.put(self._batch)
        self._batch, self._batch_bytes = [], 0

    def _start_thread(self) -> None:
        """Start one more thread; if this fails, go on with the others.

        Raises:
            CannotAsk: this machine allows not even one thread.
        """
        thread = threading.Thread(target=self._run, daemon=True, name="backup-sender")
        try:
            thread.start()
        except RuntimeError as error:
            if not self._threads:
                raise CannotAsk("the backup server", str(LocalLimit.of(error) or error)) from error
            return
        self._threads.append(thread)

    def _check(self) -> None:
        """Raise the first failure of a thread."""
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        """Send batches until the end; after a failure, drop them so that the reader is never blocked."""
        while True:
            try:
                batch = self._queue.get(timeout=_RENEW)
            except queue.Empty:
                batch = []  # an empty question renews the run, while nothing that changed is found
            if batch is None:
                return
            if self._failure is not None:
                continue
            try:
                self._work(batch)
            except BaseException as error:  # noqa: BLE001  raised in the reader's thread
                self._failure = self._failure or error

    def _work(self, batch: list[QueuedChunk]) -> None:
        """Collect the missing chunks of a batch, and send each pack once full."""
        chunks = iter(self._wanted(batch))
        while (full := self._fill_packs(chunks)) is not None:
            self._send(full)

    def _fill_packs(self, chunks: Iterator[tuple[ChunkKind, bytes, bytes]]) -> PackWriter | None:
        """Add chunks to the packs until one is full, and return it; None once all chunks are added."""
        with self._lock:
            for kind, chunk, encoded in chunks:
                pack = self._packs[kind]
                pack.add(chunk, encoded)
                if pack.is_full:
                    return self._take_pack(kind)
        return None

    def _wanted(self, batch: list[QueuedChunk]) -> list[tuple[ChunkKind, bytes, bytes]]:
        """Return the encoded chunks of a batch to send, and count them as under way.

        These are the chunks that the server lacks, no other thread is sending, and no other client's copy
        spares.
        """
        chunks = {one[1]: one for one in batch}
        ids = list(chunks)
        missing = self._store.missing(ids)
        wanted = []
        with self._lock:
            for chunk, lacks in zip(ids, missing, strict=True):
                if lacks and chunk not in self._under_way:
                    self._under_way.add(chunk)
                    wanted.append(chunks[chunk])
        wanted = self._without_shared(wanted)
        fresh = iter(encode_chunks([data for _, _, data, encoded in wanted if encoded is None]))
        return [(kind, chunk, encoded or next(fresh)) for kind, chunk, _, encoded in wanted]

    def _without_shared(self, wanted: list[QueuedChunk]) -> list[QueuedChunk]:
        """Return the chunks that no other client's copy spares; the others are no longer under way."""
        shared = self._store.share({chunk: data for kind, chunk, data, _ in wanted if kind is ChunkKind.DATA})
        with self._lock:
            self._under_way -= shared
        return [one for one in wanted if one[1] not in shared]

    def _take_pack(self, kind: ChunkKind) -> PackWriter:
        """Return the pack of a kind, and begin a new one."""
        pack, self._packs[kind] = self._packs[kind], PackWriter()
        return pack

    def _send(self, writer: PackWriter) -> None:
        """Send a pack. Afterwards the server knows the pack's chunks, so the sender forgets them."""
        pack = writer.finish()
        self._store.put_pack(pack)
        with self._lock:
            self._under_way.difference_update(chunk.id for chunk in pack.chunks)
            self.sent_bytes += len(pack.data)
            self.sent_chunks += len(pack.chunks)
