"""A blob's file ─▶ an answer, whose bytes are verified before its last ones leave."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate

from aiohttp import web

from shardcast.blobs.directory.compression import SEAL, Check, Malformed
from shardcast.blobs.directory.file import PORTION, BlobFile
from shardcast.blobs.directory.hashing import Hashing
from shardcast.blobs.directory.verify_cache import WORTH_A_SEAL, VerifiedFiles
from shardcast.concurrency import cancel
from shardcast.errors import LocalDiskError
from shardcast.protocol.wire import TEXT, etag
from shardcast.server.conditional import select
from shardcast.server.sending import LEAST_PORTION, send_part
from shardcast.server.writing import write
from shardcast.store.holds import READ, Reader

log = logging.getLogger(__name__)

_HELD_BACK = 64 << 10
"""Bytes at the end of an answer that leave only when its digest is right."""
_LEAST = 1 << 20
"""Bytes that are hashed at a time of a blob that isn't large."""
_AHEAD = 64 << 20
"""Bytes that may be hashed and not sent yet."""
_OF_304 = ("ETag", "Cache-Control", "Vary")
"""Heads of the whole answer that stand in the one that says that it is still right, too."""


class Asked:
    """What a request wants of a blob, and the head of its answer.

    Attributes:
        answer: the answer that needs none of its bytes; None where some are to be sent.
        start: the first.
        end: the byte after the last.
    """

    def __init__(
        self, request: web.Request, digest: str, length: int, mtime: float, coding: str | None, ranges: bool
    ) -> None:
        """``coding`` is that of the answer, ``length`` its bytes when it is whole."""
        self.request = request
        tag = f"{digest}-{coding}" if coding else digest
        self.headers = {
            "Content-Type": TEXT,
            "Content-Disposition": f'attachment; filename="{digest}"',
            "ETag": etag(tag),
            "Cache-Control": "public, max-age=31536000, immutable",
        }
        with contextlib.suppress(ValueError, OverflowError, OSError):  # a file's time may be of any year
            self.headers["Last-Modified"] = formatdate(mtime, usegmt=True)
        if coding:
            self.headers["Content-Encoding"] = coding
        if coding or not ranges:
            self.headers["Vary"] = "Accept-Encoding"
        # hashserver passes If-Match over, and sends no range to a HEAD.
        by_range = ranges and request.method == "GET"
        selected = select(request.headers, tag, length, if_match=False, ranges=by_range)
        self.start, self.end, self.status = selected.start, selected.end, selected.status
        self.answer: web.Response | None = None
        if self.status == 304:
            kept = {key: value for key, value in self.headers.items() if key in _OF_304}
            self.answer = web.Response(status=304, headers=kept)
            return
        if ranges:
            self.headers["Accept-Ranges"] = "bytes"
        if self.status == 416:
            self.answer = web.Response(status=416, headers=selected.headers)
        self.headers |= selected.headers

    def with_body(self, data: bytes) -> web.Response:
        """The answer, of a blob whose bytes are in memory."""
        return self.answer or web.Response(
            body=data[self.start : self.end], status=self.status, headers=self.headers
        )

    @asynccontextmanager
    async def answering(self) -> AsyncIterator[web.StreamResponse]:
        """Entered with the head sent, to send the body in; breaks the connection off when that fails."""
        request = self.request
        response = web.StreamResponse(status=self.status, headers=self.headers)
        response.content_length = self.end - self.start
        try:
            await response.prepare(request)
            yield response
            await response.write_eof()
        except (TimeoutError, ConnectionError, LocalDiskError) as error:
            if isinstance(error, (WrongOnTheWay, LocalDiskError)):
                log.error("broke off an answer to %s: %s", request.remote, error)
            if request.transport:
                request.transport.abort()


class WrongOnTheWay(ConnectionError):
    """Bytes turned out to be wrong while they were sent."""


async def send_file(
    asked: Asked, file: BlobFile, digest: str, algorithm: str, verified: VerifiedFiles, fresh: bool
) -> web.StreamResponse:
    """The answer with a verified file's bytes as they are. Unless it was verified just now (``fresh``), a
    whole one is hashed again while it is sent; what was changed meanwhile is broken off before its end."""
    if asked.answer:
        return asked.answer
    reader = Reader(READ, asked.request.remote or "")
    async with asked.answering() as response:
        if asked.request.method == "HEAD":
            return response
        with os.fdopen(file.descriptor, "rb", buffering=0, closefd=False) as source:
            position, most = asked.start, LEAST_PORTION

            async def send(end: int) -> None:
                nonlocal position, most
                if end > position:
                    begin, position = position, end
                    count = end - begin
                    most = await send_part(asked.request, response, source, begin, count, reader, most)

            try:
                if fresh or asked.status == 206:
                    await send(asked.end - _HELD_BACK)
                else:
                    file.seal = await _hashed_meanwhile(file, digest, algorithm, send, verified.hashing)
                if file.is_changed:
                    raise WrongOnTheWay(f"{file.path} was changed while it was sent")
                if file.seal:
                    verified.seal(digest, file.looks, file.seal)
            except WrongOnTheWay:
                verified.forget(digest, file.looks)
                raise
            await send(asked.end)
    return response


async def _hashed_meanwhile(
    file: BlobFile,
    digest: str,
    algorithm: str,
    send: Callable[[int], Awaitable[None]],
    hashing: Hashing,
) -> str | None:
    """Send all but the last bytes of a file while they are hashed, a little ahead: what is sent is in memory
    by then, and the event loop does not wait for the disk. A file with a seal is known again by that; one
    without gets one if it is worth it. Returns the seal.

    Raises:
        WrongOnTheWay: they are not what the digest says.
    """
    check = Check(SEAL) if file.seal else Check(algorithm, file.coding, sealing=file.size >= WORTH_A_SEAL)
    hashed, sent, news = 0, 0, asyncio.Event()
    end, portion = max(0, file.size - _HELD_BACK), min(PORTION, max(_LEAST, file.size // 16))

    async def hash_all() -> None:
        nonlocal hashed
        while hashed < file.size:
            due = min(hashed + portion, file.size)
            reach = await hashing.run(file.read, check, hashed, due, check.is_sealing)
            if reach < due:
                raise WrongOnTheWay(f"{file.path} became shorter while it was sent")
            hashed = reach
            news.set()
            while hashed - sent > _AHEAD:
                news.clear()
                await news.wait()

    async def send_all() -> None:
        nonlocal sent
        while sent < end:
            while hashed <= sent:
                news.clear()
                await news.wait()
            due = min(hashed, end)
            await send(due)
            sent = due
            news.set()

    both = [asyncio.ensure_future(hash_all()), asyncio.ensure_future(send_all())]
    try:
        await asyncio.gather(*both)
        if check.finish() != (file.seal or digest):
            raise WrongOnTheWay(f"the bytes of {file.path} are not what its name says")
        return file.seal or check.seal
    except Malformed as error:
        raise WrongOnTheWay(f"{file.path}: {error}") from None
    finally:
        await cancel(both)


async def send_decoded(
    asked: Asked, file: BlobFile, digest: str, algorithm: str, verified: VerifiedFiles
) -> web.StreamResponse:
    """The answer with what a verified file decodes to, which is hashed while it is sent."""
    if asked.answer:
        return asked.answer
    async with asked.answering() as response:
        if asked.request.method == "HEAD":
            return response
        check, parts, last = Check(algorithm), file.decoded(), b""

        def next_part() -> bytes:
            part = next(parts, b"")
            check.update(part)
            return part

        try:
            while part := await verified.hashing.run(next_part):
                await write(asked.request, response, last)
                last = part
            if check.finish() != digest:
                raise WrongOnTheWay(f"the bytes of {file.path} are not what its name says")
        except Malformed as error:
            verified.forget(digest, file.looks)
            raise WrongOnTheWay(f"{file.path}: {error}") from None
        except WrongOnTheWay:
            verified.forget(digest, file.looks)
            raise
        await write(asked.request, response, last)
    return response
