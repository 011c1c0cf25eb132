"""Copying of blobs between stores: pulled, pushed, or fetched to repair damaged ones."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from shardcast.access.client_access import ClientAccess
from shardcast.addresses import server_url
from shardcast.blobs.client.remote import RemoteStore
from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.directory.marks import unmark
from shardcast.blobs.interface import BlobStore
from shardcast.blobs.maintenance.scrub import Repair
from shardcast.concurrency import cancel, start_staggered
from shardcast.constants import STALL_WHEN_OTHERS_CAN
from shardcast.errors import (
    AccessDenied,
    BlobCorrupt,
    BlobMissing,
    IntegrityError,
    PeerError,
    ServerStalled,
    ServerUnreachable,
    ShardcastError,
    TlsFailure,
    WrongBytes,
)
from shardcast.fair_limit import FairLimit
from shardcast.peer.session import open_session

log = logging.getLogger(__name__)

LANES = 8
"""Blobs copied at once, each in a lane."""
_BATCH = 512
"""Blobs looked up before the missing ones among them are copied."""
_SMALL = 32 << 10
"""Bytes of the largest blob sent to an archive together with others, from memory."""
_CHUNK = 1 << 20
_CHEAP = 1 << 20
"""Bytes of the largest local blob to read and verify before it counts as present."""
_FOR_ALL_BLOBS = (ServerUnreachable, TlsFailure, ServerStalled, AccessDenied)
"""Errors of a server, the same for every other blob."""
_MOST_FAILED = 100
"""Maximum blobs that may fail one by one; with more, the cause isn't theirs, and the copy ends."""


@dataclass
class CopyProgress:
    """The progress of a copy.

    Attributes:
        copied: number of copied blobs.
        bytes: copied bytes so far.
        present: number of blobs already at the target.
        missing: digests missing at the source.
        failed: the errors of failed blobs, by digest.
    """

    copied: int = 0
    bytes: int = 0
    present: int = 0
    missing: list[str] = field(default_factory=list)
    failed: dict[str, ShardcastError] = field(default_factory=dict)

    @property
    def seen(self) -> int:
        """The number of finished blobs."""
        return self.copied + self.present + len(self.missing) + len(self.failed)


async def copy(source: BlobStore, target: BlobStore, digests: Iterable[str], state: CopyProgress) -> None:
    """Copy the blobs missing at the ``target``, several at a time, and count them in ``state``.

    An archive is sent small blobs together. A blob with another digest is not copied, and does not stop the
    others.

    Raises:
        ServerUnreachable, TlsFailure, ServerStalled, AccessDenied: a server is gone, or refuses.
        PeerError, IntegrityError: too many blobs failed.
        LocalDiskError: they can't be kept or read here.
        ReadOnlyStore: the target takes nothing.
    """
    left = iter(dict.fromkeys(digests))
    while batch := list(islice(left, _BATCH)):
        lacking = await _lacking(source, target, batch, state)
        if isinstance(target, RemoteStore) and await target.takes_pulls():
            lacking = await _send_small(source, target, lacking, state)
        await _in_lanes(lacking, lambda digest: _copy_one(source, target, digest, state))


async def _lacking(
    source: BlobStore, target: BlobStore, digests: Sequence[str], state: CopyProgress
) -> list[str]:
    """Return the blobs to copy; count the others in ``state``, as present, missing or failed.

    In a local directory, gc treats the present ones as put now.
    """
    lacking: list[str] = []

    async def look(digest: str) -> None:
        with _counted(digest, state):
            if await _is_there(source, target, digest) and await _renewed(target, digest):
                state.present += 1
            else:
                lacking.append(digest)

    await _in_lanes(digests, look)
    return lacking


async def _is_there(source: BlobStore, target: BlobStore, digest: str) -> bool:
    """Return whether the target has a blob.

    The lengths at both ends are compared. If the source's length is unknown, or reading the blob costs
    little, the target's bytes are verified instead.
    """
    is_local = not isinstance(target, RemoteStore)
    try:
        size = await target.size(digest)
        if size is None:
            return False
        if is_local and size <= _CHEAP:
            return await _is_right(target, digest)
        source_size = await source.size(digest)
    except BlobCorrupt:
        return False
    if source_size is None:
        return await _is_right(target, digest)
    return size == source_size


async def _renewed(target: BlobStore, digest: str) -> bool:
    """Remove gc's marks of a blob in a directory; return whether this was possible (elsewhere True)."""
    return not isinstance(target, BlobDirectory) or await asyncio.to_thread(unmark, target.folder, digest)


async def _is_right(store: BlobStore, digest: str) -> bool:
    """Return whether a store has the right bytes of a blob."""
    try:
        async with store.open(digest) as reader:
            while isinstance(store, RemoteStore) and await reader.read(_CHUNK):
                pass  # a remote blob is verified only as it is read, a local one when it is opened
            return True
    except (BlobMissing, IntegrityError):
        return False


async def _send_small(
    source: BlobStore, target: RemoteStore, digests: Sequence[str], state: CopyProgress
) -> list[str]:
    """Send small blobs in one request, and return the blobs to copy one by one.

    Those are the larger ones, the missing and wrong ones, and all of them after a refusal of the archive.
    """
    small = await source.read_small(digests, _SMALL)
    try:
        await target.push_batch(list(small.values()))
    except _FOR_ALL_BLOBS:
        raise
    except PeerError as error:
        log.info("sending blobs one by one, since the server refused them together: %s", error)
        return list(digests)
    state.copied += len(small)
    state.bytes += sum(map(len, small.values()))
    return [digest for digest in digests if digest not in small]


async def _in_lanes(digests: Sequence[str], work: Callable[[str], Awaitable[None]]) -> None:
    """Call ``work`` for each digest, ``LANES`` at a time; the first error cancels all lanes."""
    left = iter(digests)

    async def lane() -> None:
        for digest in left:
            await work(digest)

    lanes = [asyncio.ensure_future(lane()) for _ in range(min(LANES, len(digests)))]
    try:
        await asyncio.gather(*lanes)
    finally:
        await cancel(lanes)


async def _copy_one(source: BlobStore, target: BlobStore, digest: str, state: CopyProgress) -> None:
    """Copy a blob, and count the blob or the error."""
    with _counted(digest, state):
        await _transfer(source, target, digest, state)
        state.copied += 1


@contextmanager
def _counted(digest: str, state: CopyProgress) -> Iterator[None]:
    """Count a blob with a fault of its own in ``state``, and let other errors through.

    Raises:
        ServerUnreachable, TlsFailure, ServerStalled, AccessDenied: the server is gone for all blobs, or
            refuses.
        PeerError, IntegrityError: ``_MOST_FAILED`` blobs have failed.
    """
    try:
        yield
    except BlobMissing:
        state.missing.append(digest)
    except _FOR_ALL_BLOBS:
        raise
    except (IntegrityError, PeerError) as error:
        state.failed[digest] = error
        if len(state.failed) >= _MOST_FAILED:
            raise


async def _transfer(source: BlobStore, target: BlobStore, digest: str, state: CopyProgress) -> None:
    """Copy the bytes of a blob, and count them."""
    async with source.open(digest) as reader, target.put(digest) as writer:
        while data := await reader.read(_CHUNK):
            await writer.write(data)
            state.bytes += len(data)
        await writer.commit()


@asynccontextmanager
async def remote_store(
    url: str,
    algorithm: str,
    token: str | None = None,
    access: ClientAccess | None = None,
    *,
    downloads: FairLimit | None = None,
    uploads: FairLimit | None = None,
) -> AsyncIterator[RemoteStore]:
    """Yield a server as a store, after its first answer.

    Args:
        url: URL of the server.
        algorithm: the digest of its blobs.
        token: token for pushes.
        access: access to the server.
        downloads: limit of received bytes; None for no limit.
        uploads: limit of sent bytes; None for no limit.

    Raises:
        UsageError: the URL is no address of a server.
        PeerError: the server does not answer.
    """
    async with open_session(access=access, downloads=downloads, uploads=uploads) as session:
        store = RemoteStore(server_url(url), session, algorithm, token)
        await store.server_kind()
        yield store


@asynccontextmanager
async def open_repair(
    urls: Sequence[str],
    algorithm: str,
    target: Callable[[], BlobStore],
    access: ClientAccess | None = None,
) -> AsyncIterator[Repair | None]:
    """Yield a function to repair a store's blobs from servers, or None where no server is named.

    The servers are asked in turn; the next one also when no bytes come for a while.

    Args:
        urls: the servers.
        algorithm: the digest of the store.
        target: opens the store for the right bytes.
        access: access to the servers.

    Raises:
        UsageError: a URL is no address of a server.
    """
    if not urls:
        yield None
        return
    async with open_session(access=access) as session:
        servers = [RemoteStore(server_url(url), session, algorithm) for url in urls]
        denied = set[str]()

        async def repair(digest: str) -> str | None:
            """Fetch a blob into the target, and return the URL of its server, or None where none gave it.

            A refusing server is logged once, and asked no more. Raises LocalDiskError if the blob can't be
            stored.
            """
            copied = CopyProgress()

            async def ask(server: RemoteStore) -> str:
                await _transfer(server, target(), digest, copied)
                return server.url

            works = [partial(ask, server) for server in servers if server.url not in denied]
            asking_all = start_staggered(works, STALL_WHEN_OTHERS_CAN, lambda: copied.bytes)
            async with aclosing(asking_all) as asked:
                async for asking in asked:
                    try:
                        if asking:
                            return asking.result()
                    except BlobMissing:
                        continue
                    except AccessDenied as error:
                        if error.server not in denied:
                            log.warning("not used for repairs: %s", error)
                        denied.add(error.server)
                    except (PeerError, IntegrityError) as error:
                        log.warning("could not repair %s: %s", digest, error)
            return None

        yield repair


def worst_error(state: CopyProgress) -> ShardcastError | None:
    """Return the error to report for a copy, wrong bytes before all others; None where no blob failed.

    Blobs missing at the source do not count as failed.
    """
    wrong = [error for error in state.failed.values() if isinstance(error, (IntegrityError, WrongBytes))]
    return next(iter([*wrong, *state.failed.values()]), None)
