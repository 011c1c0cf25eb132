"""A server as a store of blobs: an archive (Casa's or ours), a hash server, or a node with its shards."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from enum import StrEnum
from io import BufferedRandom
from pathlib import Path

from shardcast.blobs.client.archive import ArchiveClient
from shardcast.blobs.client.blob_requests import BlobRequests
from shardcast.blobs.client.endpoint import Endpoint
from shardcast.blobs.client.hash_server import OTHER_UPLOAD, HashServerClient
from shardcast.blobs.framing import Part
from shardcast.constants import HTTP_TIMEOUT
from shardcast.digest import is_digest, new_hasher
from shardcast.disk_errors import disk_errors
from shardcast.errors import BlobMissing, IntegrityError, ReadOnlyStore, ServerLacks, UsageError, WrongBytes
from shardcast.peer.session import Session
from shardcast.protocol.wire import MAX_VIA
from shardcast.store.interfaces import Span

_EMPTY = hashlib.sha256(b"").hexdigest()
_NOT_FORWARDED = ("asks-what-is-spoken",) * MAX_VIA
"""A full list of Via hops, so that a mirror answers the probe itself."""


class ServerKind(StrEnum):
    """The protocol of a server besides ``GET /<digest>``."""

    ARCHIVE = "archive"
    """Pull and push."""
    HASH_SERVER = "hash server"
    """``/has-now`` and PUT."""
    SHARDS = "shards"
    """Nothing else: a node."""


class RemoteStore:
    """A server as a ``BlobStore``; the first request finds out the server's kind.

    Attributes:
        url: base URL of the server.
        algorithm: the digest of its blobs.
    """

    def __init__(
        self,
        url: str,
        session: Session,
        algorithm: str = "sha256",
        token: str | None = None,
        *,
        max_size: int = 1 << 40,
        timeout: float = HTTP_TIMEOUT,
        patience: float = OTHER_UPLOAD,
    ) -> None:
        """Name a server; no request is sent.

        Args:
            url: base URL of the server.
            session: for all requests.
            algorithm: the digest of its blobs.
            token: for pushes to an archive at any port.
            max_size: maximum bytes of a blob read without a known length.
            timeout: seconds without progress.
            patience: maximum seconds to wait for another's upload of the same blob.

        Raises:
            UsageError: ``url`` is no address, or not https where TLS is required.
        """
        self.algorithm = algorithm
        self._archive = ArchiveClient(url, session, token, timeout=timeout)
        self.url = self._archive.url
        self._endpoint = Endpoint(self.url, session, timeout)
        self._blobs = BlobRequests(self._endpoint, algorithm, max_size)
        self._hash_server = HashServerClient(self._endpoint, new_hasher(algorithm).hexdigest(), patience)
        self._kind: ServerKind | None = None

    @property
    def node_id(self) -> str | None:
        """The id of a shardcast node; None for other servers, or before the first answer."""
        return self._endpoint.node_id

    @node_id.setter
    def node_id(self, node_id: str | None) -> None:
        self._endpoint.node_id = node_id

    async def server_kind(self) -> ServerKind:
        """Return the server's kind; the first call asks the server, in one request or two.

        Raises:
            PeerError: the server does not answer.
        """
        if self._kind is None:
            self._kind = await self._probe()
        return self._kind

    async def _probe(self) -> ServerKind:
        """Return the kind, found by asking for the empty blob as from an archive, then as from a hash server.

        An archive's blobs have SHA-256: with another digest the first request is left out.

        Raises:
            PeerError: the server does not answer.
        """
        if self.algorithm == "sha256":
            try:
                async with aclosing(self._archive.pull_parts({_EMPTY: 0}, _NOT_FORWARDED)) as parts:
                    async for _ in parts:
                        pass
                return ServerKind.ARCHIVE
            except ServerLacks:
                pass
        return ServerKind.HASH_SERVER if await self._hash_server.is_hash_server() else ServerKind.SHARDS

    # Many blobs in one request

    async def takes_pulls(self) -> bool:
        """Return whether the server answers for many blobs in one request.

        Raises:
            PeerError: the server can't be asked.
        """
        return await self.server_kind() is ServerKind.ARCHIVE

    async def fetch(
        self, wanted: Mapping[str, int | None], via: Sequence[str] = ()
    ) -> AsyncGenerator[list[Part], None]:
        """Yield the parts of blobs on arrival; a blob is verified before its last part.

        Blobs missing at the server, or of another length there, are left out.

        Args:
            wanted: the length of each blob by its digest, None if unknown; 1280 blobs at most.
            via: ids of the nodes on the request's way so far.

        Raises:
            WrongBytes: the bytes of a blob do not match its digest.
            PeerError: the server does not answer, or its answer is wrong.
        """
        kind = await self.server_kind()
        known = {digest: length for digest, length in wanted.items() if length is not None}
        if kind is ServerKind.ARCHIVE and len(known) == len(wanted):
            async with aclosing(self._archive.pull_parts(known, via)) as batches:
                async for batch in batches:
                    self.node_id = self._archive.node_id
                    yield batch
            self.node_id = self._archive.node_id
            return
        digests = list(wanted)
        if kind is ServerKind.HASH_SERVER:
            digests = await self._hash_server.present(digests)
        for digest in digests:  # one after the other; callers that want several at a time fetch several times
            try:
                async with aclosing(self._blobs.get(digest, wanted[digest], via)) as parts:
                    async for part in parts:
                        yield [part]
            except ServerLacks:
                continue

    async def push_batch(self, blobs: Sequence[bytes]) -> None:
        """Push blobs into an archive in one request, all of them or none.

        Raises:
            PeerError: the archive doesn't take them.
        """
        if blobs:
            await self._archive.push(blobs)

    # BlobStore

    async def size(self, digest: str) -> int | None:
        """Return the number of bytes of a blob; None for one missing at the server.

        Raises:
            PeerError: the server does not answer, or its answer is wrong.
        """
        if await self.server_kind() is ServerKind.HASH_SERVER:
            return await self._hash_server.size(digest)
        return await self._blobs.size(digest)

    @asynccontextmanager
    async def open(self, digest: str) -> AsyncIterator[_Reader]:
        """Yield a reader of a blob, which is received as the caller reads.

        Raises:
            BlobMissing: the server does not have the blob, or ``digest`` is no digest.
            IntegrityError: the bytes do not match the digest.
            PeerError: the server does not answer, or its answer is wrong.
        """
        if not is_digest(digest):
            raise BlobMissing(f"{digest!r} is no digest")
        if await self.server_kind() is ServerKind.HASH_SERVER and not await self._hash_server.present(
            [digest]
        ):
            raise BlobMissing(f"{self.url} has no {digest}")
        async with aclosing(self._blobs.get(digest, None)) as parts:
            try:
                first = await anext(parts)
            except ServerLacks as error:
                raise BlobMissing(f"{self.url} has no {digest}") from error
            except WrongBytes as error:
                raise IntegrityError(str(error)) from error
            yield _Reader(first, parts)

    async def read_small(self, digests: Sequence[str], max_size: int) -> dict[str, bytes]:
        """Return the bytes of the blobs of at most ``max_size`` bytes; missing and wrong ones are left out.

        Raises:
            PeerError: the server does not answer, or its answer is wrong.
        """
        found: dict[str, bytes] = {}
        for digest in digests:
            try:
                async with self.open(digest) as reader:
                    if reader.size <= max_size:
                        found[digest] = await reader.read(max_size + 1)
            except (BlobMissing, IntegrityError):
                continue
        return found

    @asynccontextmanager
    async def put(self, digest: str | None = None) -> AsyncIterator[_Writer]:
        """Write a blob to a temporary file, and upload it on ``commit``.

        The request begins with the blob's length or digest, and neither is known earlier.

        Raises:
            ReadOnlyStore: the server takes no blobs.
            PeerError: the server does not answer.
        """
        if await self.server_kind() is ServerKind.SHARDS:
            raise ReadOnlyStore(f"{self.url} takes no blobs: only a hash server or an archive does")
        with tempfile.TemporaryFile() as spool:  # without a name, so that a kill leaves none
            yield _Writer(self, digest, spool)

    async def upload(self, digest: str, file: BufferedRandom) -> None:
        """Upload the bytes of an open file, and return when the server keeps them.

        Raises:
            LocalDiskError: the file can't be read.
            PeerError: the server doesn't keep the blob.
        """
        if await self.server_kind() is ServerKind.ARCHIVE:
            await self._archive.push([file])
        else:
            await self._hash_server.upload(digest, file)

    async def delete(self, digest: str) -> bool:
        """Refuse: no server lets blobs be removed.

        Raises:
            ReadOnlyStore: always.
        """
        raise ReadOnlyStore(f"nothing can be removed from {self.url}")

    def digests(self) -> AsyncIterator[str]:
        """Refuse: no server lists its blobs.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{self.url} cannot list its blobs; request blobs by their digests")


class _Reader:
    """A reader of a blob during its arrival.

    Attributes:
        size: bytes of the blob.
        span: always None: the blob has no file here.
    """

    def __init__(self, first: Part, rest: AsyncGenerator[Part, None]) -> None:
        self.size = first.length
        self.span: Span | None = None
        self._data = first.data
        self._last = first.last
        self._rest = rest

    async def read(self, max_bytes: int) -> bytes:
        """Return the next bytes, at most ``max_bytes``; empty at the end.

        Raises:
            IntegrityError: the bytes do not match the digest.
            PeerError: the answer breaks off or stalls.
        """
        while not self._data and not self._last:
            try:
                part = await anext(self._rest)
            except WrongBytes as error:
                raise IntegrityError(str(error)) from error
            self._data, self._last = part.data, part.last
        data, self._data = self._data[:max_bytes], self._data[max_bytes:]
        return bytes(data)


class _Writer:
    """A blob in a temporary file, uploaded by ``commit``."""

    def __init__(self, store: RemoteStore, digest: str | None, spool: BufferedRandom) -> None:
        self._store = store
        self._expected = digest
        self._spool = spool
        self._hasher = new_hasher(store.algorithm)

    async def write(self, data: bytes | memoryview, /) -> None:
        """Append bytes to the temporary file.

        Raises:
            LocalDiskError: they can't be written.
        """
        self._hasher.update(data)
        with disk_errors("could not write", Path(tempfile.gettempdir())):
            await asyncio.to_thread(self._spool.write, data)

    async def commit(self) -> str:
        """Upload the blob, and return its digest.

        Raises:
            LocalDiskError: the temporary file cannot be written or read.
            IntegrityError: the bytes do not match the expected digest; nothing was sent.
            PeerError: the server does not store the blob.
        """
        digest = self._hasher.hexdigest()
        if self._expected not in (None, digest):
            raise IntegrityError(
                f"the blob put as {self._expected} has the digest {digest}; nothing was sent"
            )
        with disk_errors("could not write", Path(tempfile.gettempdir())):
            self._spool.flush()
        await self._store.upload(digest, self._spool)
        return digest
