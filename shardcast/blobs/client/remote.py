"""A server as a store of blobs: an archive (Casa's or ours), a hash server, or a node with its shards."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from io import BufferedRandom
from pathlib import Path
from typing import Any

import aiohttp

from shardcast.blobs.client.archive import ArchiveClient
from shardcast.blobs.framing import Part
from shardcast.constants import HTTP_TIMEOUT
from shardcast.digest import is_digest, new_hasher
from shardcast.errors import (
    BadAnswer,
    BlobMissing,
    IntegrityError,
    PeerError,
    ReadOnlyStore,
    ServerLacks,
    ServerStalled,
    ServerUnreachable,
    UsageError,
    WrongBytes,
)
from shardcast.filesystem import disk_errors
from shardcast.peer.failures import refused_error
from shardcast.peer.pace import Upload, paced
from shardcast.peer.session import Session, answer
from shardcast.protocol.wire import HAS_NOW_PATH, LACKING, LENGTH_PATH, MAX_VIA, NODE_ID, VIA
from shardcast.store.interfaces import Span

ARCHIVE, HASH_SERVER, SHARDS = "archive", "hash server", "shards"
"""What a server can speak: pull and push; ``/has-now`` and PUT; nothing but ``GET /<key>``."""

OTHER_UPLOAD = 600.0
"""Seconds for which another's upload of the same blob is waited for."""
_THERE, _ANOTHER_UPLOAD = 201, 202
"""What a hash server answers to an upload of what it has, and to one beside another of the same blob."""
_SOON, _LATE = 0.1, 5.0
"""Seconds between two uploads of a blob of which another one came to nothing, or was begun anew."""
_EMPTY = hashlib.sha256(b"").hexdigest()
_NO_FURTHER = ("asks-what-is-spoken",) * MAX_VIA
"""Has a mirror that is asked answer for itself."""
_CHUNK = 1 << 20
_MOST_LISTED = 1 << 20
"""Bytes of a list that is read."""


class RemoteStore:
    """A server as a ``BlobStore``; what it speaks is found out by asking it.

    Attributes:
        url: its base URL.
        algorithm: the digest of its blobs.
        node_id: what a shardcast node calls itself; None for others, or before it answered.
    """

    def __init__(
        self,
        url: str,
        session: Session,
        algorithm: str = "sha256",
        token: str | None = None,
        most: int = 1 << 40,
        timeout: float = HTTP_TIMEOUT,
        patience: float = OTHER_UPLOAD,
    ) -> None:
        """``most``: bytes of a blob that is read without its length being known before. ``timeout``: seconds
        without progress. ``patience``: seconds for which another's upload of the same blob is waited for."""
        self.algorithm = algorithm
        self._archive = ArchiveClient(url, session, token, timeout=timeout)
        self.url = self._archive.url
        self.node_id: str | None = None
        self._http = session.http
        self._most = most
        self._timeout = timeout
        self._patience = patience
        self._empty = new_hasher(algorithm).hexdigest()
        self._speaks: str | None = None

    async def speaks(self) -> str:
        """``ARCHIVE``, ``HASH_SERVER`` or ``SHARDS``.

        Raises:
            PeerError: it can't be asked.
        """
        if self._speaks is None:
            self._speaks = await self._find_out()
        return self._speaks

    async def _find_out(self) -> str:
        if self.algorithm == "sha256":
            try:
                async with aclosing(self._archive.parts({_EMPTY: 0}, _NO_FURTHER)) as parts:
                    async for _ in parts:
                        pass
                return ARCHIVE
            except ServerLacks:
                pass
        try:
            return HASH_SERVER if await self._ask(HAS_NOW_PATH, [_EMPTY]) in ([True], [False]) else SHARDS
        except _NotNow:
            raise
        except (ServerLacks, BadAnswer):
            return SHARDS

    # Many at once

    async def pulls(self) -> bool:
        """Whether it answers for many in one request.

        Raises:
            PeerError: it can't be asked.
        """
        return await self.speaks() == ARCHIVE

    async def fetch(
        self, wanted: Mapping[str, int | None], via: Sequence[str] = ()
    ) -> AsyncGenerator[list[Part], None]:
        """The parts of those of these blobs (1280 at the most) that it has with the lengths that are told; a
        blob is right when its last part has come.

        Raises:
            WrongBytes: a blob is not what its digest says.
            PeerError: it can't be asked, or the answer is wrong.
        """
        speaks = await self.speaks()
        known = {digest: length for digest, length in wanted.items() if length is not None}
        if speaks == ARCHIVE and len(known) == len(wanted):
            async with aclosing(self._archive.parts(known, via)) as batches:
                async for batch in batches:
                    self.node_id = self._archive.node_id
                    yield batch
            self.node_id = self._archive.node_id
            return
        there = await self._there(list(wanted)) if speaks == HASH_SERVER else list(wanted)
        for digest in there:  # one by one; who wants several at a time asks so
            try:
                async with aclosing(self._get(digest, wanted[digest], via)) as parts:
                    async for part in parts:
                        yield [part]
            except ServerLacks:
                continue

    async def _there(self, digests: Sequence[str]) -> list[str]:
        """Which of these a hash server has; to ask for one that is only promised would wait for it."""
        said = await self._ask(HAS_NOW_PATH, list(digests))
        if not isinstance(said, list) or len(said) != len(digests):
            raise BadAnswer(self.url, "GET /has-now: that is not the list that was asked for")
        return [digest for digest, has in zip(digests, said, strict=True) if has is True]

    async def _ask(self, path: str, digests: Sequence[str], silence: float | None = None) -> Any:
        """
        Raises:
            ServerLacks: it knows no such question.
            PeerError: it can't be asked, or not now.
        """
        body = json.dumps(list(digests)).encode()
        headers = {"Content-Type": "application/json"}
        async with answer(
            self._http, self.url, path, "GET", headers, silence or self._timeout, body
        ) as response:
            self.node_id = response.headers.get(NODE_ID)
            if response.status >= 500:
                raise _not_now(self.url, f"GET {path}", response)
            if response.status != 200:
                raise ServerLacks(self.url, f"GET {path}: {response.status}")
            raw = bytearray()
            async with aclosing(paced(response, self.url, f"GET {path}", self._timeout)) as chunks:
                async for chunk in chunks:
                    raw += chunk
                    if len(raw) > _MOST_LISTED:
                        raise BadAnswer(self.url, f"GET {path}: the answer is too long")
            try:
                return json.loads(bytes(raw))
            except RecursionError:  # lists in lists in lists
                raise BadAnswer(self.url, f"GET {path}: that is not the list that was asked for") from None

    async def _get(
        self, digest: str, length: int | None, via: Sequence[str] = ()
    ) -> AsyncGenerator[Part, None]:
        """
        Raises:
            ServerLacks: it doesn't have it, or not with this length.
            WrongBytes: it is not what its digest says.
            PeerError: it can't be asked, or the answer is wrong.
        """
        what, hasher = f"GET /{digest}", new_hasher(self.algorithm)
        headers = {VIA: ", ".join(via)} if via else None
        async with answer(self._http, self.url, f"/{digest}", "GET", headers, self._timeout) as response:
            self.node_id = response.headers.get(NODE_ID)
            size = self._size(response, what)
            if length is not None and size != length:
                raise ServerLacks(self.url, f"{what}: it has {size} bytes, not {length}")
            if length is None and size > self._most:
                raise BadAnswer(self.url, f"{what}: it has {size} bytes; at most {self._most} are taken")
            left = size
            async with aclosing(paced(response, self.url, what, self._timeout)) as chunks:
                async for chunk in chunks:
                    left -= len(chunk)
                    if left < 0:
                        raise BadAnswer(self.url, f"{what}: it is longer than was said")
                    hasher.update(chunk)
                    if left:
                        yield Part(digest, size, memoryview(chunk), last=False)
                    else:
                        last = chunk
            if left:
                raise BadAnswer(self.url, f"{what}: it is shorter than was said")
        if hasher.hexdigest() != digest:
            raise WrongBytes(self.url, f"{what}: what came is something else", digest)
        yield Part(digest, size, memoryview(last if size else b""), last=True)

    def _size(self, response: aiohttp.ClientResponse, what: str) -> int:
        status, size = response.status, response.content_length
        if status >= 500:  # 503 is a mirror's, when it couldn't ask
            raise _not_now(self.url, what, response)
        if status in LACKING or status == 400:  # a hash server's word for what is damaged there
            raise ServerLacks(self.url, f"{what}: it is not there ({status})")
        if status != 200 or size is None:
            raise BadAnswer(self.url, f"{what}: {status}" if status != 200 else f"{what}: it tells no length")
        return size

    # A store

    async def size(self, digest: str) -> int | None:
        """
        Raises:
            PeerError: it can't be asked.
        """
        if await self.speaks() == HASH_SERVER:
            if not await self._there([digest]):
                return None
            # An upload of it under way is waited for, and may come to nothing: 0 is "not there", too.
            said = await self._ask(LENGTH_PATH, [digest], self._patience)
            if not isinstance(said, list) or len(said) != 1 or not isinstance(said[0], int) or said[0] < 0:
                raise BadAnswer(self.url, f"GET {LENGTH_PATH}: that is no length")
            known = said[0] is not True and (said[0] or digest == self._empty)  # true: promised
            return said[0] if known else None
        async with answer(self._http, self.url, f"/{digest}", "HEAD", None, self._timeout) as response:
            try:
                return self._size(response, f"HEAD /{digest}")
            except ServerLacks:
                return None

    @asynccontextmanager
    async def open(self, digest: str) -> AsyncIterator[_Reader]:
        """
        Raises:
            BlobMissing: it isn't there.
            PeerError: it can't be asked.
        """
        if not is_digest(digest):
            raise BlobMissing(f"{digest!r} is no digest")
        if await self.speaks() == HASH_SERVER and not await self._there([digest]):
            raise BlobMissing(f"{self.url} has no {digest}")
        async with aclosing(self._get(digest, None)) as parts:
            try:
                first = await anext(parts)
            except ServerLacks as error:
                raise BlobMissing(f"{self.url} has no {digest}") from error
            except WrongBytes as error:
                raise IntegrityError(str(error)) from error
            yield _Reader(first, parts)

    async def read_small(self, digests: Sequence[str], most: int) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for digest in digests:
            try:
                async with self.open(digest) as reader:
                    if reader.size <= most:
                        found[digest] = await reader.read(most + 1)
            except (BlobMissing, IntegrityError):
                continue
        return found

    @asynccontextmanager
    async def put(self, digest: str | None = None) -> AsyncIterator[_Writer]:
        """What is written goes to a temporary file first: its length or its digest has to be told before.

        Raises:
            ReadOnlyStore: the server takes nothing.
            PeerError: it can't be asked.
        """
        if await self.speaks() == SHARDS:
            raise ReadOnlyStore(f"{self.url} takes no blobs")
        with tempfile.TemporaryFile() as spool:  # without a name, so that a kill leaves none
            yield _Writer(self, digest, spool)

    async def send(self, digest: str, file: BufferedRandom) -> None:
        """Put what an open file holds; comes back when it is kept. A hash server takes no upload beside
        another of the same blob (202), which may come to nothing: its end is waited for, and the blob put
        again where it isn't there then. It takes none of a blob that it has (201): hashserver 1.0.2 says so
        of any file with that name, also of a cut one.

        Raises:
            PeerError: it is not taken.
        """
        if await self.speaks() == ARCHIVE:
            await self._archive.push([file])
            return
        loop, length, pause = asyncio.get_running_loop(), file.seek(0, os.SEEK_END), _SOON
        until, empty = loop.time() + self._patience, False
        while (status := await self._put(digest, file)) in (_THERE, _ANOTHER_UPLOAD):
            if status == _ANOTHER_UPLOAD:
                with contextlib.suppress(ServerStalled):  # it is answered when the other upload has ended
                    await self._ask(LENGTH_PATH, [digest], max(_SOON, until - loop.time()))
            size = await self.size(digest)
            if size == length:
                return
            if status == _THERE and (size is not None or empty):
                why = f"it has {size or 0} bytes there, not {length}; repair it there"
                raise BadAnswer(self.url, f"PUT /{digest}: it is not kept: {why}")
            empty = status == _THERE  # or it has gone meanwhile: then it is taken now
            if loop.time() >= until:
                raise BadAnswer(
                    self.url,
                    f"PUT /{digest}: it is not kept: others uploaded it for {self._patience:g} s, "
                    "and it isn't there; push it again",
                )
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LATE)

    async def _put(self, digest: str, file: BufferedRandom) -> int:
        """The status of one upload, of those that are no failures."""
        headers = {"Content-Length": str(file.seek(0, os.SEEK_END))}
        body = Upload(_read(file))
        async with answer(
            self._http, self.url, f"/{digest}", "PUT", headers, self._timeout, body
        ) as response:
            if response.status not in (200, _THERE, _ANOTHER_UPLOAD):
                what = f"PUT /{digest}"
                raise refused_error(self.url, what, response.status, response.headers, response.reason)
            return response.status

    async def send_together(self, blobs: Sequence[bytes]) -> None:
        """Put blobs into an archive in one request, all of them or none.

        Raises:
            PeerError: they are not taken.
        """
        if blobs:
            await self._archive.push(blobs)

    async def delete(self, digest: str) -> bool:
        raise ReadOnlyStore(f"nothing can be removed from {self.url}")

    def digests(self) -> AsyncIterator[str]:
        """
        Raises:
            UsageError: always; no server tells.
        """
        raise UsageError(f"{self.url} can't tell what it has; ask it for what you want")


class _NotNow(BadAnswer):
    """The server couldn't answer, for a reason of its own."""


def _not_now(server: str, what: str, response: aiohttp.ClientResponse) -> PeerError:
    error = refused_error(server, what, response.status, response.headers, response.reason)
    return error if isinstance(error, ServerUnreachable) else _NotNow(server, error.what)


class _Reader:
    """Reads a blob as it comes."""

    def __init__(self, first: Part, rest: AsyncGenerator[Part, None]) -> None:
        self.size = first.length
        self.span: Span | None = None
        self._data = first.data
        self._last = first.last
        self._rest = rest

    async def read(self, most: int) -> bytes:
        """
        Raises:
            IntegrityError: they are not what the digest says.
            PeerError: there is no more, or too slowly.
        """
        while not self._data and not self._last:
            try:
                part = await anext(self._rest)
            except WrongBytes as error:
                raise IntegrityError(str(error)) from error
            self._data, self._last = part.data, part.last
        data, self._data = self._data[:most], self._data[most:]
        return bytes(data)


class _Writer:
    def __init__(self, store: RemoteStore, digest: str | None, spool: BufferedRandom) -> None:
        self._store = store
        self._expected = digest
        self._spool = spool
        self._hasher = new_hasher(store.algorithm)

    async def write(self, data: bytes | memoryview, /) -> None:
        self._hasher.update(data)
        with disk_errors("could not write", Path(tempfile.gettempdir())):
            await asyncio.to_thread(self._spool.write, data)

    async def commit(self) -> str:
        """
        Raises:
            LocalDiskError: it can't be read back.
            IntegrityError: it is not what it was said to be; nothing was kept.
            PeerError: it is not taken.
        """
        digest = self._hasher.hexdigest()
        if self._expected not in (None, digest):
            raise IntegrityError(f"what was put as {self._expected} is {digest}; nothing was sent")
        with disk_errors("could not write", Path(tempfile.gettempdir())):
            self._spool.flush()
        await self._store.send(digest, self._spool)
        return digest


async def _read(file: BufferedRandom) -> AsyncGenerator[bytes, None]:
    """Yield what a temporary file holds.

    Raises:
        LocalDiskError: it can't be read.
    """
    with disk_errors("could not read", Path(tempfile.gettempdir())):
        file.seek(0)
        while data := await asyncio.to_thread(file.read, _CHUNK):
            yield data
