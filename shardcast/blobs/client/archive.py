"""An archive as typed calls: pull many blobs in one request, push many.

Nothing from an archive is trusted: no more is read than requested, and each blob is verified before it
counts.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from contextlib import aclosing
from io import BufferedRandom
from itertools import islice
from pathlib import Path
from typing import IO

import aiohttp

from shardcast.access.secret import Secret, bearer
from shardcast.addresses import server_url
from shardcast.blobs.framing import (
    MAX_KEYS,
    MAX_LENGTH,
    FramingError,
    Part,
    PullReader,
    WrongContent,
    write_length,
    write_pull,
)
from shardcast.constants import HTTP_TIMEOUT
from shardcast.digest import is_digest
from shardcast.disk_errors import disk_errors
from shardcast.errors import (
    AccessDenied,
    BadAnswer,
    PayloadChanged,
    PayloadMissing,
    PeerError,
    ServerLacks,
    UsageError,
    WrongBytes,
)
from shardcast.peer.download_limit import blob_turn
from shardcast.peer.failures import denied_error, refused_error
from shardcast.peer.pace import PORTION, Upload, read_paced
from shardcast.peer.session import Session, answer
from shardcast.protocol.wire import BYTES, DENIED_STATUSES, NODE_ID_HEADER, PULL_PATH, PUSH_PATH, VIA_HEADER

Blob = bytes | bytearray | memoryview | Path | BufferedRandom
"""A blob to push: bytes, or a file, by its path or open."""

_NO_ARCHIVE = frozenset({404, 405, 501})
"""Statuses of servers other than archives."""
_KEPT_BLOBS, _KEPT_BYTES = 50, 5_000_000
"""Blobs and bytes written in a second by a busy archive; a push is answered once all are on its disk."""
_CHUNK = 1 << 20


class ArchiveClient:
    """An archive: Casa, or a shardcast archive.

    Attributes:
        url: base URL.
        node_id: id of a shardcast archive; None for others, or before the first answer.
    """

    def __init__(
        self,
        url: str,
        session: Session,
        token: str | None = None,
        *,
        keys_per_request: int = MAX_KEYS,
        timeout: float = HTTP_TIMEOUT,
    ) -> None:
        """Name an archive; no request is sent.

        Args:
            url: base URL.
            session: session for all requests.
            token: allows pushes at any port; None for the session's.
            keys_per_request: keys of one pull, 1 to 1280.
            timeout: seconds without progress.

        Raises:
            UsageError: ``url`` is no address, or not https where TLS is required, or an archive takes no such
                number of keys.
        """
        if not 1 <= keys_per_request <= MAX_KEYS:
            raise UsageError(f"{keys_per_request} keys in a request; it can be 1 to {MAX_KEYS}")
        self.url = server_url(url)
        session.access.check_server(self.url)
        self.node_id: str | None = None
        self._session = session
        self._token = Secret(token) if token else None
        self._keys = keys_per_request
        self._timeout = timeout

    async def pull(self, wanted: Mapping[str, int]) -> AsyncGenerator[tuple[str, bytes], None]:
        """Yield the archive's blobs, in any order, each with its key; missing ones are left out.

        Many keys make several requests, one after the other. Only one of the blobs, and those received in one
        go, are in memory.

        Args:
            wanted: the length of each blob by its key (64 hex digits).

        Raises:
            UsageError: a key or a length in ``wanted`` is malformed.
            WrongBytes: the bytes of a blob do not have its key.
            PeerError: the archive does not answer, or its answer is wrong.
        """
        async with aclosing(self.pull_batches(wanted)) as batches:
            async for batch in batches:
                for blob in batch:
                    yield blob

    async def pull_batches(self, wanted: Mapping[str, int]) -> AsyncGenerator[list[tuple[str, bytes]], None]:
        """Yield the blobs of ``pull`` in lists of those received in one go; raises as ``pull`` does."""
        pairs = iter(_checked(wanted).items())
        while request := dict(islice(pairs, self._keys)):
            parts: list[bytes] = []
            async with aclosing(self.pull_parts(request)) as answers:
                async for batch in answers:
                    whole = []
                    for part in batch:
                        parts.append(bytes(part.data))
                        if part.last:
                            whole.append((part.key, parts[0] if len(parts) == 1 else b"".join(parts)))
                            parts = []
                    if whole:
                        yield whole

    async def pull_parts(
        self, wanted: Mapping[str, int], via: Sequence[str] = ()
    ) -> AsyncGenerator[list[Part], None]:
        """Pull blobs in one request, and yield their parts as they come, the last of each once verified.

        Args:
            wanted: the length of each blob by its key; 1280 blobs at most.
            via: ids of the nodes on the request's way so far.

        Raises:
            ServerLacks: the server is no archive.
            WrongBytes: the bytes of a blob do not have its key.
            PeerError: the archive does not answer, or its answer is wrong.
        """
        what, reader = f"POST {PULL_PATH}", PullReader(wanted)
        headers = {"Content-Type": BYTES} | ({VIA_HEADER: ", ".join(via)} if via else {})
        body = write_pull(wanted.items())
        async with (
            blob_turn(self._session.downloads, self.url) as share,
            answer(
                self._session, self.url, PULL_PATH, "POST", headers=headers, silence=self._timeout, body=body
            ) as response,
        ):
            self.node_id = response.headers.get(NODE_ID_HEADER)
            if response.status in _NO_ARCHIVE:
                raise ServerLacks(self.url, f"{what}: the server is no archive ({response.status})")
            if response.status != 200:
                raise refused_error(self.url, what, response.status, response.headers, reason=response.reason)
            paced = read_paced(response, self.url, what, self._timeout, share=share)
            async with aclosing(paced) as chunks:
                async for chunk in chunks:
                    parts: list[Part] = []
                    failure: PeerError | None = None
                    try:
                        parts.extend(reader.feed(chunk))  # also the parts before the failure
                    except WrongContent as error:
                        failure = WrongBytes(self.url, f"{what}: {error}", error.key)
                    except FramingError as error:
                        failure = BadAnswer(self.url, f"{what}: {error}")
                    yield parts
                    if failure:
                        raise failure
            try:
                reader.end()
            except FramingError as error:
                raise BadAnswer(self.url, f"{what}: {error}") from None

    async def push(self, blobs: Iterable[Blob] | AsyncIterable[Blob]) -> list[str]:
        """Push blobs, bytes or files, in one request, all of them or none, and return their keys in order.

        Files are read while sent.

        Raises:
            PayloadMissing, LocalDiskError: a file can't be read.
            PayloadChanged: a file became shorter or longer meanwhile, or has no size of its own, as in /proc.
            PeerError: the archive cannot be reached, or refuses the blobs.
        """
        sending = _Sending(blobs)
        headers = {"Content-Type": BYTES} | (bearer(self._token) if self._token else {})
        body = Upload(sending.body(), sending.keeping)
        try:
            async with answer(
                self._session, self.url, PUSH_PATH, "POST", headers=headers, silence=self._timeout, body=body
            ) as response:
                self.node_id = response.headers.get(NODE_ID_HEADER)
                self._check_pushed(response)
        except PeerError:
            if sending.failure:  # an unreadable file is why the request failed
                raise sending.failure from None
            raise
        if sending.failure:
            raise sending.failure
        return sending.keys

    def _check_pushed(self, response: aiohttp.ClientResponse) -> None:
        """Check the answer to a push.

        Raises:
            PeerError: the blobs were not taken.
        """
        what = f"POST {PUSH_PATH}"
        if response.status in DENIED_STATUSES:
            denied = denied_error(self.url, what, response.status, response.headers)
            if denied.scopes:
                raise denied
            raise AccessDenied(
                self.url,
                f"{what}: {response.status}: pushing is not allowed there; "
                "use the archive's authorized port, or a token (--token-file, SHARDCAST_TOKEN)",
                wants_token=denied.wants_token,
            )
        if response.status != 200:
            raise refused_error(self.url, what, response.status, response.headers, reason=response.reason)


class _Sending:
    """The body of a push.

    Attributes:
        keys: keys of the sent blobs.
        failure: reason for an early end of the body.
    """

    def __init__(self, blobs: Iterable[Blob] | AsyncIterable[Blob]) -> None:
        self.keys: list[str] = []
        self.failure: BaseException | None = None
        self._blobs = blobs
        self._size: int | None = None  # bytes of the body, once all were sent

    def keeping(self) -> float:
        """Return the seconds allowed to the archive for keeping the sent blobs; 0 until all are sent."""
        return 0.0 if self._size is None else len(self.keys) / _KEPT_BLOBS + self._size / _KEPT_BYTES

    async def body(self) -> AsyncGenerator[bytes, None]:
        """Yield the body in portions; an error that ends the body early is kept in ``failure``."""
        gathered, size = bytearray(), 0
        try:
            async with aclosing(self._frames()) as frames:
                async for frame in frames:
                    gathered += frame
                    size += len(frame)
                    if len(gathered) >= PORTION:
                        yield bytes(gathered)
                        gathered.clear()
            if gathered:
                yield bytes(gathered)
            self._size = size
        except (GeneratorExit, asyncio.CancelledError):  # the request ended first
            raise
        except BaseException as error:
            self.failure = error
            raise

    async def _frames(self) -> AsyncGenerator[bytes | memoryview, None]:
        """Yield the encoded length of each blob and its bytes, and then append its key to ``keys``."""
        async with aclosing(_in_turn(self._blobs)) as blobs:
            async for blob in blobs:
                hasher = hashlib.sha256()
                async with aclosing(_parts(blob)) as parts:
                    async for part in parts:
                        if not isinstance(part, int):
                            hasher.update(part)
                            yield part
                        else:
                            yield write_length(part)
                self.keys.append(hasher.hexdigest())


async def _in_turn(blobs: Iterable[Blob] | AsyncIterable[Blob]) -> AsyncGenerator[Blob, None]:
    """Yield the blobs of either kind of iterable."""
    if isinstance(blobs, AsyncIterable):
        async for blob in blobs:
            yield blob
    else:
        for blob in blobs:
            yield blob


def _parts(blob: Blob) -> AsyncGenerator[int | bytes | memoryview, None]:
    """Yield the length of a blob, and then its bytes."""
    if isinstance(blob, BufferedRandom):
        return _read(blob, Path(str(blob.name)))
    return _open(blob) if isinstance(blob, Path) else _cut(blob)


async def _cut(
    blob: bytes | bytearray | memoryview,
) -> AsyncGenerator[int | bytes | memoryview, None]:
    """Yield the length of bytes, and then the bytes in chunks."""
    view = memoryview(blob).cast("B")
    yield len(view)
    for start in range(0, len(view), _CHUNK):
        yield view[start : start + _CHUNK]


async def _open(path: Path) -> AsyncGenerator[int | bytes | memoryview, None]:
    """Yield the length of a file, and then its bytes.

    Raises:
        PayloadMissing, LocalDiskError, PayloadChanged: as ``push`` does.
    """
    if not path.exists():
        raise PayloadMissing(f"there is no {path} to push")
    with disk_errors("could not read", path), path.open("rb") as file:
        async with aclosing(_read(file, path)) as parts:
            async for part in parts:
                yield part


async def _read(file: IO[bytes], path: Path) -> AsyncGenerator[int | bytes | memoryview, None]:
    """Yield the length of an open file, and then its bytes from the beginning.

    Raises:
        LocalDiskError: the file can't be read.
        PayloadChanged: the file became shorter or longer meanwhile, or has no size of its own, as in /proc.
    """
    with disk_errors("could not read", path):
        file.flush()
        left = os.fstat(file.fileno()).st_size  # a file in /proc has no end to seek
        file.seek(0)
        yield left
        while left:
            data = await asyncio.to_thread(file.read, min(_CHUNK, left))
            if not data:
                raise PayloadChanged(f"{path} became shorter while being pushed; push the file again")
            left -= len(data)
            yield data
        if await asyncio.to_thread(file.read, 1):  # made as it is read, as in /proc, or it grew
            raise PayloadChanged(
                f"{path} grew while being pushed, or is made as it is read, as in /proc; push a finished copy"
            )


def _checked(wanted: Mapping[str, int]) -> dict[str, int]:
    """Return ``wanted`` with its keys in lower case.

    Raises:
        UsageError: ``wanted`` has something else than a key, or than a length.
    """
    checked = {str(key).lower(): length for key, length in wanted.items()}
    for key, length in checked.items():
        if not is_digest(key):
            raise UsageError(f"{key!r} is no key; write the 64 hex digits of a SHA-256")
        if type(length) is not int or not 0 <= length <= MAX_LENGTH:
            raise UsageError(f"{length!r} is no length of {key}; write the number of bytes")
    return checked
