"""Blobs from one store to another: pulled, pushed, or fetched to repair what is damaged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from shardcast.addresses import server_url
from shardcast.blobs.client.remote import RemoteStore
from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.directory.marks import unmark
from shardcast.blobs.interface import BlobStore
from shardcast.blobs.maintenance.scrub import Repair
from shardcast.concurrency import cancel, staggered
from shardcast.constants import STALL_WHEN_OTHERS_CAN
from shardcast.errors import (
    BlobCorrupt,
    BlobMissing,
    IntegrityError,
    PeerError,
    ServerStalled,
    ServerUnreachable,
    ShardcastError,
    WrongBytes,
)
from shardcast.peer.session import open_session

log = logging.getLogger(__name__)

LANES = 8
"""Blobs that are copied at once."""
_BATCH = 512
"""Blobs that are looked for before those that lack are copied."""
_SMALL = 32 << 10
"""Bytes of a blob up to which an archive is sent it with others; a batch of them is held in memory."""
_CHUNK = 1 << 20
_CHEAP = 1 << 20
"""Bytes of a blob here up to which it is read to see that it is right."""
_MOST_FAILED = 100
"""Blobs that may fail one by one; then it is not for them that they do."""


@dataclass
class Copied:
    """How far copying has come.

    Attributes:
        copied: blobs that were copied.
        bytes: theirs so far.
        there: blobs that were there already.
        missing: digests that the source doesn't have.
        failed: why a blob couldn't be copied, by digest.
    """

    copied: int = 0
    bytes: int = 0
    there: int = 0
    missing: list[str] = field(default_factory=list)
    failed: dict[str, ShardcastError] = field(default_factory=dict)

    @property
    def seen(self) -> int:
        """Blobs that are done with."""
        return self.copied + self.there + len(self.missing) + len(self.failed)


async def copy(source: BlobStore, target: BlobStore, digests: Iterable[str], state: Copied) -> None:
    """Copy the blobs that the ``target`` lacks, several at a time, and into an archive small ones together;
    ``state`` tells how far it is. A blob that is not what its digest says is not copied, and doesn't keep the
    others.

    Raises:
        ServerUnreachable, ServerStalled: a server is gone.
        PeerError, IntegrityError: too many blobs failed.
        LocalDiskError: they can't be kept or read here.
        ReadOnlyStore: the target takes nothing.
    """
    left = iter(dict.fromkeys(digests))
    while some := list(islice(left, _BATCH)):
        lacking = await _lacking(source, target, some, state)
        if isinstance(target, RemoteStore) and await target.pulls():
            lacking = await _send_small(source, target, lacking, state)
        await _in_lanes(lacking, lambda digest: _copy_one(source, target, digest, state))


async def _lacking(source: BlobStore, target: BlobStore, digests: Sequence[str], state: Copied) -> list[str]:
    """Which of these are not there."""
    lacking: list[str] = []

    async def look(digest: str) -> None:
        with _counted(digest, state):
            if await _is_there(source, target, digest) and await _renewed(target, digest):
                state.there += 1
            else:
                lacking.append(digest)

    await _in_lanes(digests, look)
    return lacking


async def _is_there(source: BlobStore, target: BlobStore, digest: str) -> bool:
    """Whether the target has a blob: with the length that it has at the source, and where that isn't known,
    or reading it costs little, with the right bytes."""
    local = not isinstance(target, RemoteStore)
    try:
        size = await target.size(digest)
        if size is None:
            return False
        if local and size <= _CHEAP:
            return await _is_right(target, digest)
        said = await source.size(digest)
    except BlobCorrupt:
        return False
    if said is None:
        return await _is_right(target, digest)
    return size == said


async def _renewed(target: BlobStore, digest: str) -> bool:
    """Have gc leave alone what is there as if it was put now; whether that could be."""
    return not isinstance(target, BlobDirectory) or await asyncio.to_thread(unmark, target.folder, digest)


async def _is_right(store: BlobStore, digest: str) -> bool:
    try:
        async with store.open(digest) as reader:
            while isinstance(store, RemoteStore) and await reader.read(_CHUNK):
                pass  # what comes from elsewhere is verified as it is read
            return True
    except (BlobMissing, IntegrityError):
        return False


async def _send_small(
    source: BlobStore, target: RemoteStore, digests: Sequence[str], state: Copied
) -> list[str]:
    """Send small blobs in one request; those that have to be copied one by one: they are larger, there is
    something the matter with them, or the archive took none of them."""
    small = await source.read_small(digests, _SMALL)
    try:
        await target.send_together(list(small.values()))
    except (ServerUnreachable, ServerStalled):
        raise
    except PeerError as error:
        log.info("sending one by one what was not taken together: %s", error)
        return list(digests)
    state.copied += len(small)
    state.bytes += sum(map(len, small.values()))
    return [digest for digest in digests if digest not in small]


async def _in_lanes(digests: Sequence[str], work: Callable[[str], Awaitable[None]]) -> None:
    """Have something done for each, ``LANES`` at a time; the first that fails ends them all."""
    left = iter(digests)

    async def lane() -> None:
        for digest in left:
            await work(digest)

    lanes = [asyncio.ensure_future(lane()) for _ in range(min(LANES, len(digests)))]
    try:
        await asyncio.gather(*lanes)
    finally:
        await cancel(lanes)


async def _copy_one(source: BlobStore, target: BlobStore, digest: str, state: Copied) -> None:
    with _counted(digest, state):
        await _transfer(source, target, digest, state)
        state.copied += 1


@contextmanager
def _counted(digest: str, state: Copied) -> Iterator[None]:
    """A blob that fails by itself is counted as such, unless too many do."""
    try:
        yield
    except BlobMissing:
        state.missing.append(digest)
    except (ServerUnreachable, ServerStalled):
        raise
    except (IntegrityError, PeerError) as error:
        state.failed[digest] = error
        if len(state.failed) >= _MOST_FAILED:
            raise


async def _transfer(source: BlobStore, target: BlobStore, digest: str, state: Copied) -> None:
    async with source.open(digest) as reader, target.put(digest) as writer:
        while data := await reader.read(_CHUNK):
            await writer.write(data)
            state.bytes += len(data)
        await writer.commit()


@asynccontextmanager
async def remote(url: str, algorithm: str, token: str | None = None) -> AsyncIterator[RemoteStore]:
    """A server as a store, once it answers; ``token``: what it takes to push.

    Raises:
        UsageError: that is no address.
        PeerError: it can't be asked.
    """
    async with open_session() as session:
        store = RemoteStore(server_url(url), session, algorithm, token)
        await store.speaks()
        yield store


@asynccontextmanager
async def repairing(
    urls: Sequence[str], algorithm: str, target: Callable[[], BlobStore]
) -> AsyncIterator[Repair | None]:
    """What repairs the blobs of a store from servers, each asked in turn; None where there are none.
    ``target`` opens the store to put them into.

    Raises:
        UsageError: one is no address.
    """
    if not urls:
        yield None
        return
    async with open_session() as session:
        servers = [RemoteStore(server_url(url), session, algorithm) for url in urls]

        async def repair(digest: str) -> str | None:
            copied = Copied()

            async def ask(server: RemoteStore) -> str:
                await _transfer(server, target(), digest, copied)
                return server.url

            works = [partial(ask, server) for server in servers]
            asking_all = staggered(works, STALL_WHEN_OTHERS_CAN, lambda: copied.bytes)
            async with aclosing(asking_all) as asked:
                async for asking in asked:
                    try:
                        if asking:
                            return asking.result()
                    except BlobMissing:
                        continue
                    except (PeerError, IntegrityError) as error:
                        log.warning("could not repair %s: %s", digest, error)
            return None

        yield repair


def failure(state: Copied) -> ShardcastError | None:
    """What keeps a copy from being called whole, the worst of it."""
    wrong = [one for one in state.failed.values() if isinstance(one, (IntegrityError, WrongBytes))]
    return next(iter([*wrong, *state.failed.values()]), None)
