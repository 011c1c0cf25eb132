"""Payload ─▶ shards: cut, hash and store in one pass; and shards that are here already ─▶ their manifest."""

from __future__ import annotations

import logging
import os
import select
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from shardcast.constants import SHARD_SIZE
from shardcast.digest import Hasher, PieceDigests, new_hasher
from shardcast.errors import LocalDiskError, PayloadChanged, PayloadMissing, ShardcastError
from shardcast.manifest import (
    Header,
    Manifest,
    Shard,
    complete,
    header_line,
    piece_size_for,
    shard_line,
)
from shardcast.store.durable import disk_errors
from shardcast.store.open_version import OpenVersion
from shardcast.store.shelf import Span
from shardcast.wire import MAX_SHARDS, version_name

log = logging.getLogger(__name__)

CHUNK_SIZE = 1 << 20
"""Bytes read, hashed and written at a time."""
_CHUNKS = 16
"""Chunks in memory at once: read, hashed or written."""

_MOST_SETTLING = 4
"""Shards that become durable while the next one is cut."""
_PATIENCE = 0.2
"""Seconds that a writer may pause between two looks at whether it was called off."""


Claim = Callable[[int], None]
"""Told how many bytes a version takes before they are stored; raises ``NoRoom`` where it may not."""


class Cancelled(ShardcastError):
    """Publishing was called off."""


def freely(size: int) -> None:
    """A ``Claim`` where there is no bound."""


@dataclass
class Progress:
    """How far publishing has come; read by anybody, written by the thread that publishes.

    Attributes:
        size: bytes of the payload; None until it is open, and for a stream until its writer has ended.
        done: bytes read, hashed and stored.
        shards: shards that are whole.
        cancelled: set to call it off.
    """

    size: int | None = None
    done: int = 0
    shards: int = 0
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Description:
    """What a publisher says of a payload.

    Attributes:
        origin: the origin id.
        shard_size: bytes of a shard.
        digests: the algorithms of the whole digest, ``sha256`` among them.
        copy: whether the shards are files of their own.
        metadata: whatever the publisher adds.
    """

    origin: str
    shard_size: int = SHARD_SIZE
    digests: tuple[str, ...] = ("sha256",)
    copy: bool = True
    metadata: Mapping[str, Any] = field(default_factory=dict)


def check_payload(path: Path) -> os.stat_result:
    """What the file system says of a payload.

    Raises:
        PayloadMissing: there is none.
        LocalDiskError: it is not a file, or can't be read.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        raise PayloadMissing(f"can't broadcast {path}: it does not exist") from None
    except OSError as error:
        raise LocalDiskError(f"can't broadcast {path}: {error.strerror}") from error
    if stat.S_ISDIR(found.st_mode):
        raise LocalDiskError(f"can't broadcast {path}: directories can't be broadcast yet; pack it")
    if not stat.S_ISREG(found.st_mode):
        raise LocalDiskError(f"can't broadcast {path}: it is not a file")
    if not os.access(path, os.R_OK):
        raise LocalDiskError(f"can't broadcast {path}: no permission to read it")
    return found


def publish(
    path: Path, opened: OpenVersion, description: Description, progress: Progress, claim: Claim = freely
) -> Manifest:
    """Cut a file into the shards of an open version; blocks until they are durable. Without a copy
    (``description.copy``) the shards are parts of the file itself, where it can be linked or cloned.

    Raises:
        NoRoom: the version may not take so many bytes.
        PayloadMissing: the file does not exist.
        PayloadChanged: it changed meanwhile.
        LocalDiskError: it can't be read, or the shards can't be written.
        Cancelled: ``progress.cancelled`` was set.
    """
    claim(check_payload(path).st_size)
    adopted = not description.copy and opened.adopt(path)
    if not description.copy and not adopted:
        log.warning("%s can't be linked into %s, and is copied", path, opened.payload.parent)
    file = opened.payload if adopted else path
    with disk_errors("could not read", path), file.open("rb", buffering=0) as payload:
        before = os.fstat(payload.fileno())
        progress.size = before.st_size
        if before.st_size > MAX_SHARDS * description.shard_size:
            raise LocalDiskError(f"can't broadcast {path}: more than {MAX_SHARDS} shards; raise --shard-size")
        header = _header(path.name, before.st_size, opened, description)
        shards, digests = _cut(payload, before.st_size, opened, header, description, progress, freely)
        after = os.fstat(payload.fileno())
        if progress.done != before.st_size or _state(after) != _state(before):
            raise PayloadChanged(
                f"can't broadcast {path}: it changed while it was read ({before.st_size} bytes before, "
                f"{after.st_size} after); write it elsewhere, rename it when it is whole, then broadcast it"
            )
    return complete(header, shards, digests)


def publish_stream(
    source: BinaryIO,
    name: str,
    opened: OpenVersion,
    description: Description,
    progress: Progress,
    claim: Claim = freely,
) -> Manifest:
    """The same with bytes that come from a pipe or a terminal, unbuffered, until it ends.

    Raises:
        NoRoom: the version may not take so many bytes.
        LocalDiskError: it can't be read, or the shards can't be written.
        Cancelled: ``progress.cancelled`` was set, also after its end.
    """
    header = _header(name, None, opened, description)
    most = MAX_SHARDS * description.shard_size
    with disk_errors("could not read", Path(name)):
        shards, digests = _cut(source, most, opened, header, description, progress, claim)
        if progress.done == most and progress.size != most and source.read(1):
            raise LocalDiskError(f"can't broadcast {name}: more than {MAX_SHARDS} shards; raise --shard-size")
    if progress.cancelled or progress.size not in (None, progress.done):
        raise Cancelled(f"{header.version} was called off")
    return complete(header, shards, digests)


def _header(name: str, size: int | None, opened: OpenVersion, description: Description) -> Header:
    return Header(
        version=version_name(opened.number),
        origin=description.origin,
        name=_safe_name(name),
        size=size,
        shard_size=description.shard_size,
        piece_size=piece_size_for(description.shard_size),
        created=round(time.time(), 3),
        metadata=description.metadata,
    )


def _state(found: os.stat_result) -> tuple[int, int]:
    return found.st_size, found.st_mtime_ns


def _safe_name(name: str) -> str:
    """A file's name as a manifest can carry it."""
    printable = "".join(one if one.isprintable() and one not in "/\\" else "_" for one in name)
    return printable.encode("utf-8", "replace").decode()[:255]


def _cut(
    payload: BinaryIO,
    size: int,
    opened: OpenVersion,
    header: Header,
    description: Description,
    progress: Progress,
    claim: Claim,
) -> tuple[list[Shard], dict[str, str]]:
    """Three things happen at once: this thread reads, writes and hashes pieces, one hashes the whole,
    one hashes shards; and one more makes finished shards durable."""
    whole = {name: new_hasher(name) for name in description.digests}
    shards: list[Shard] = []
    with ExitStack() as stack:
        whole_thread, shard_thread, disk_thread = (
            stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix=name))
            for name in ("shardcast-whole", "shardcast-shard", "shardcast-fsync")
        )
        ring = _Ring()
        settling: deque[Future[None]] = deque()

        def settled(most: int) -> None:
            """Wait until all but ``most`` shards are durable."""
            while settling and (settling[0].done() or len(settling) > most):
                settling.popleft().result()

        opened.live.add(header_line(header))
        offset = 0
        while offset < size or not shards:
            number, single = len(shards) + 1, new_hasher("sha256")
            pieces = PieceDigests(header.piece_size)
            length = 0
            with _part(opened, number) as part:
                while length < (target := min(description.shard_size, size - offset)):
                    if progress.cancelled:
                        raise Cancelled(f"{header.version} was called off")
                    chunk = ring.take()[: min(CHUNK_SIZE, target - length)]
                    settled(_MOST_SETTLING)
                    count = _fill(payload, chunk, offset + length, progress)
                    if not count:
                        size = offset + length  # a stream ends, a file shrank; the caller sees that
                        break
                    chunk = chunk[:count]
                    claim(offset + length + count)
                    ring.put(
                        [
                            whole_thread.submit(_update, tuple(whole.values()), chunk),
                            shard_thread.submit(_update, (single,), chunk),
                        ]
                    )
                    pieces.update(chunk)
                    if part:
                        _write_all(part, chunk)
                    length += count
                    progress.done = offset + length
            if shards and not length:  # it ended where a shard does
                break
            sha256 = shard_thread.submit(single.hexdigest).result()
            shards.append(Shard(number, offset, length, sha256, pieces.finish()))
            if not opened.linked:
                opened.take(number, sha256)
                settling.append(disk_thread.submit(opened.settle, number, sha256))
            opened.live.add(shard_line(shards[-1]))
            progress.shards = number
            offset += length
        ring.wait()
        settled(0)
    return shards, {name: hasher.hexdigest() for name, hasher in whole.items()}


def _fill(payload: BinaryIO, chunk: memoryview, position: int, progress: Progress) -> int:
    """Read from ``position`` on until ``chunk`` is full, the payload ends, or it is called off; how many
    bytes came.

    The end is where ``progress.size`` says. A pipe has none while anybody has it open for writing, such as a
    process that its writer forked.
    """
    filled, poll = 0, select.poll()
    poll.register(payload, select.POLLIN)

    def over() -> bool:
        return progress.cancelled or progress.size == position + filled

    while filled < len(chunk):
        while not over() and not poll.poll(_PATIENCE * 1000):
            pass  # a writer that pauses keeps nobody from calling it off
        count = 0 if over() else payload.readinto(chunk[filled:])  # type: ignore[attr-defined]
        if not count:
            break
        filled += count
    return filled


@contextmanager
def _part(opened: OpenVersion, number: int) -> Iterator[BinaryIO | None]:
    """Where a shard is written; None where it is a part of an adopted payload."""
    if opened.linked:
        yield None
        return
    file = opened.part(number)
    with disk_errors("could not write", file), file.open("wb", 0) as part:
        yield part


class _Ring:
    """Buffers that are used again when what was done with them has ended: fresh memory is slow."""

    def __init__(self) -> None:
        self._busy: deque[tuple[memoryview, list[Future[None]]]] = deque()
        self._made = 0
        self._current = memoryview(b"")

    def take(self) -> memoryview:
        if self._made < _CHUNKS:
            self._made += 1
            self._current = memoryview(bytearray(CHUNK_SIZE))
        else:
            self._current, work = self._busy.popleft()
            for future in work:
                future.result()
        return self._current

    def put(self, work: list[Future[None]]) -> None:
        self._busy.append((self._current, work))

    def wait(self) -> None:
        for _, work in self._busy:
            for future in work:
                future.result()


def _update(hashers: Iterable[Hasher], chunk: memoryview) -> None:
    for hasher in hashers:
        hasher.update(chunk)


def _write_all(file: BinaryIO, chunk: memoryview) -> None:
    while chunk:
        chunk = chunk[file.write(chunk) :]


class Survey:
    """The digests of shards that are here already, as their bytes are read in order.

    ``digests`` are the algorithms of the whole digest. Where ``piece_size`` is given, each shard's own
    digests are computed too, so that a manifest can be made of what old nodes gave.
    """

    def __init__(self, digests: Iterable[str], piece_size: int | None = None) -> None:
        self._whole = {name: new_hasher(name) for name in digests}
        self._piece_size = piece_size
        self._single = new_hasher("sha256")
        self._pieces = PieceDigests(piece_size or 1)
        self._length = 0
        self.shards: list[Shard] = []

    def update(self, chunk: memoryview) -> None:
        """Take the next bytes of a shard."""
        for hasher in self._whole.values():
            hasher.update(chunk)
        if self._piece_size:
            self._single.update(chunk)
            self._pieces.update(chunk)
        self._length += len(chunk)

    def end_shard(self) -> None:
        """The shard ends here."""
        if self._piece_size:
            offset = self.shards[-1].end if self.shards else 0
            digests = self._single.hexdigest(), self._pieces.finish()
            self.shards.append(Shard(len(self.shards) + 1, offset, self._length, *digests))
            self._single = new_hasher("sha256")
        self._length = 0

    def digests(self) -> dict[str, str]:
        """The whole digests so far."""
        return {name: hasher.hexdigest() for name, hasher in self._whole.items()}

    def manifest(self, version: str) -> Manifest:
        """A manifest of what was read. It says nothing that two nodes could say differently of the same
        bytes, so that every middle below an old origin makes the same one."""
        assert self._piece_size
        shard_size = self.shards[0].size or None
        header = Header(
            version,
            None,
            f"{version}.bin",
            size=self.shards[-1].end,
            shard_size=shard_size,
            piece_size=self._piece_size,
        )
        return complete(header, self.shards, self.digests())


def survey(version: str, spans: Iterable[Span], digests: Iterable[str], stop: Callable[[], bool]) -> Manifest:
    """Read shards that are here and make their manifest; blocks on the disk.

    Raises:
        LocalDiskError: one can't be read.
        Cancelled: ``stop()`` said so.
    """
    spans = list(spans)
    work = Survey(digests, piece_size_for(max(span.length for span in spans)))
    buffer = memoryview(bytearray(CHUNK_SIZE))
    for span in spans:
        with disk_errors("could not read", span.path), span.path.open("rb", buffering=0) as file:
            file.seek(span.offset)
            left = span.length
            while left:
                count = file.readinto(buffer[: min(left, CHUNK_SIZE)])
                if not count or stop():
                    raise Cancelled(f"the survey of {version} was called off")
                work.update(buffer[:count])
                left -= count
        work.end_shard()
    return work.manifest(version)
