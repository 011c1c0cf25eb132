"""A blob's file ─▶ an answer; its last bytes are sent only after all are verified."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate

from aiohttp import web

from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.directory.compression import SEAL, DigestCheck, MalformedCoding
from shardcast.blobs.directory.file import PORTION, BlobFile
from shardcast.blobs.directory.verify_cache import MIN_SEALED_SIZE
from shardcast.concurrency import Notifier, cancel
from shardcast.errors import LocalDiskError
from shardcast.protocol.wire import TEXT, etag
from shardcast.server.conditional import select
from shardcast.server.file_sender import FileSender
from shardcast.server.upload_limit import admit
from shardcast.server.writing import BlobResponse, write_in_turn
from shardcast.store.holds import READ, Reader

log = logging.getLogger(__name__)

_HELD_BACK = 64 << 10
"""Bytes at the end of an answer held back until its digest is right."""
_MIN_PORTION = 1 << 20
"""Minimum bytes hashed at a time."""
_MAX_AHEAD = 64 << 20
"""Maximum bytes hashed and not sent yet."""
_OF_304 = ("ETag", "Cache-Control", "Vary")
"""Headers of the whole answer repeated in a 304."""


class AnswerHead:
    """The head of an answer to a request for a blob, and the range of bytes after it.

    Attributes:
        request: the request.
        digest: of the blob.
        status: of the answer.
        headers: of the answer.
        answer: a finished answer without bytes of the blob; else None.
        start: the first byte to send.
        end: the byte after the last.
    """

    def __init__(
        self,
        request: web.Request,
        digest: str,
        *,
        length: int,
        mtime: float,
        coding: str | None,
        ranges: bool,
    ) -> None:
        """Compute status, headers and range of the answer from a request.

        Args:
            request: a GET or HEAD of the blob.
            digest: of the blob.
            length: bytes of the whole answer.
            mtime: time of the last write of the blob's file, in seconds since 1970.
            coding: the content coding of the answer; None for the blob's bytes unchanged.
            ranges: whether a part may be sent.
        """
        self.request, self.digest = request, digest
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
            kept = {name: value for name, value in self.headers.items() if name in _OF_304}
            self.answer = web.Response(status=304, headers=kept)
            return
        if ranges:
            self.headers["Accept-Ranges"] = "bytes"
        if self.status == 416:
            self.answer = web.Response(status=416, headers=selected.headers)
        self.headers |= selected.headers

    def with_body(self, data: bytes) -> web.Response:
        """Return the answer with a blob whose bytes are in memory; a finished ``answer`` goes first."""
        return self.answer or BlobResponse(
            body=data[self.start : self.end], status=self.status, headers=self.headers
        )

    @asynccontextmanager
    async def answering(self) -> AsyncIterator[web.StreamResponse]:
        """Send the head, yield the response for its body, and end it.

        If the reader goes away or the blob can't be read, the connection is aborted, and no error is raised.

        Raises:
            HTTPServiceUnavailable: an upload limit has no room for another reader.
        """
        request = self.request
        if request.method != "HEAD":
            await admit(request)
        response = web.StreamResponse(status=self.status, headers=self.headers)
        response.content_length = self.end - self.start
        try:
            await response.prepare(request)
            yield response
            await response.write_eof()
        except (TimeoutError, ConnectionError, LocalDiskError) as error:
            if isinstance(error, (CorruptOnTheWay, LocalDiskError)):
                log.error("broke off an answer to %s: %s", request.remote, error)
            if request.transport:
                request.transport.abort()


class CorruptOnTheWay(ConnectionError):
    """Bytes of a blob found wrong while being sent."""


async def send_file(
    head: AnswerHead, file: BlobFile, store: BlobDirectory, *, fresh: bool
) -> web.StreamResponse:
    """Answer with the bytes of a verified file, unchanged.

    A whole file is hashed again while being sent, unless verified for this request (``fresh``). An answer
    breaks off before its end if the file changes meanwhile.
    """
    if head.answer:
        return head.answer
    reader = Reader(READ, head.request.remote or "")
    async with head.answering() as response:
        if head.request.method == "HEAD":
            return response
        with os.fdopen(file.descriptor, "rb", buffering=0, closefd=False) as source:
            position, sender = head.start, FileSender(head.request, response, source, reader)

            async def send(end: int) -> None:
                nonlocal position
                if end > position:
                    start, position = position, end
                    await sender.send(start, end - start)

            try:
                if fresh or head.status == 206:
                    await send(head.end - _HELD_BACK)
                else:
                    file.seal = await _send_hashed(file, head.digest, store, send)
                if file.is_changed:
                    raise CorruptOnTheWay(f"{file.path} was changed while being sent")
                if file.seal:
                    store.verified.set_seal(head.digest, file.stat_result, file.seal)
            except CorruptOnTheWay:
                store.verified.forget(head.digest, file.stat_result)
                raise
            await send(head.end)
    return response


async def _send_hashed(
    file: BlobFile, digest: str, store: BlobDirectory, send: Callable[[int], Awaitable[None]]
) -> str | None:
    """Send all but the last bytes of a file while hashing them, and return the file's seal.

    Hashing runs a little ahead, so bytes are in memory before sending, and the event loop does not wait for
    the disk. A file with a seal is verified by the seal; a file without one gets a seal if large enough.

    Raises:
        CorruptOnTheWay: the bytes do not match the digest.
    """
    check = (
        DigestCheck(SEAL)
        if file.seal
        else DigestCheck(store.algorithm, file.coding, with_seal=file.size >= MIN_SEALED_SIZE)
    )
    hashed, sent, progress = 0, 0, Notifier()
    end, portion = max(0, file.size - _HELD_BACK), min(PORTION, max(_MIN_PORTION, file.size // 16))

    def is_near() -> bool:
        return hashed - sent <= _MAX_AHEAD

    def is_ahead() -> bool:
        return hashed > sent

    async def hash_all() -> None:
        nonlocal hashed
        while hashed < file.size:
            due = min(hashed + portion, file.size)
            reach = await store.verified.hashing.run(file.read, check, hashed, due, check.computes_seal)
            if reach < due:
                raise CorruptOnTheWay(f"{file.path} became shorter while being sent")
            hashed = reach
            progress.notify()
            await progress.wait_for(is_near)

    async def send_all() -> None:
        nonlocal sent
        while sent < end:
            await progress.wait_for(is_ahead)
            due = min(hashed, end)
            await send(due)
            sent = due
            progress.notify()

    tasks = [asyncio.ensure_future(hash_all()), asyncio.ensure_future(send_all())]
    try:
        await asyncio.gather(*tasks)
        if check.finish() != (file.seal or digest):
            raise CorruptOnTheWay(f"the bytes of {file.path} do not match its name")
        return file.seal or check.seal
    except MalformedCoding as error:
        raise CorruptOnTheWay(f"{file.path}: {error}") from None
    finally:
        await cancel(tasks)


async def send_decoded(head: AnswerHead, file: BlobFile, store: BlobDirectory) -> web.StreamResponse:
    """Answer with the decoded bytes of a verified file, hashed while being sent."""
    if head.answer:
        return head.answer
    async with head.answering() as response:
        if head.request.method == "HEAD":
            return response
        check, parts, last = DigestCheck(store.algorithm), file.decoded(), b""

        def next_part() -> bytes:
            part = next(parts, b"")
            check.update(part)
            return part

        try:
            while part := await store.verified.hashing.run(next_part):
                await write_in_turn(
                    head.request, response, last
                )  # the last part only when the digest is right
                last = part
            if check.finish() != head.digest:
                raise CorruptOnTheWay(f"the bytes of {file.path} do not match its name")
        except MalformedCoding as error:
            store.verified.forget(head.digest, file.stat_result)
            raise CorruptOnTheWay(f"{file.path}: {error}") from None
        except CorruptOnTheWay:
            store.verified.forget(head.digest, file.stat_result)
            raise
        await write_in_turn(head.request, response, last)
    return response
