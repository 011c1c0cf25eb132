"""Pulls from an archive: many blobs in one answer, in the format of ``framing``.

Local blobs are sent at once, then blobs fetched by a mirror, each on its arrival.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing

from aiohttp import web

from shardcast.blobs.framing import MAX_PULL, FramingError, parse_pull
from shardcast.blobs.server.archive_routes.answers import (
    compressed,
    failure,
    refuse_coded,
    too_large,
    too_slow,
)
from shardcast.blobs.server.archive_routes.context import ArchiveContext
from shardcast.errors import BlobCorrupt, BlobMissing, LocalDiskError, ShardcastError
from shardcast.protocol.wire import BYTES, VIA_HEADER, parse_via
from shardcast.server.bodies import BodyTooLarge, read_body
from shardcast.server.connections import BodyTooSlow
from shardcast.server.hang_ups import open_while_connected
from shardcast.server.upload_limit import admit
from shardcast.server.writing import write_in_turn

log = logging.getLogger(__name__)

_SMALL, _AT_ONCE = 64 << 10, 64
"""Maximum bytes of a small blob, and maximum small blobs read in one step."""
_TOGETHER = 256 << 10
"""Bytes read in one step, about; they stay in memory while the reader takes nothing."""
_CHUNK = 1 << 20


class Pulls:
    """Answers to pulls: the requested blobs present in an archive."""

    def __init__(self, context: ArchiveContext) -> None:
        self._context = context

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Send the local blobs of a pull, and then those fetched by a mirror, each on its arrival.

        Each requested key is counted. Missing blobs, and blobs of another length than requested, are left
        out. An answer that fails after its head breaks off.
        """
        refusal, length = refuse_coded(request), request.content_length
        if refusal:
            return refusal
        if length is not None and length > MAX_PULL:
            return too_large(length, MAX_PULL)
        try:
            pairs = parse_pull(await read_body(request, MAX_PULL))
        except BodyTooLarge as error:
            return too_large(error.length, MAX_PULL)
        except BodyTooSlow as error:
            return too_slow(request, error)
        except FramingError as error:
            more = {"errors": [f"Invalid blob keys, parse error: {error}"]}
            return failure(request, 400, "Invalid Arguments", more)
        self._context.access_stats.count_pulls(key for key, _ in pairs)
        wanted: dict[str, int] = {}
        for key, size in pairs:
            wanted.setdefault(key, size)
        await admit(request)
        response = compressed(request, web.StreamResponse(headers={"Content-Type": BYTES}))
        try:
            missing = await self._send_local(request, response, wanted)
            await response.prepare(request)
            if missing and self._context.upstream:
                via = parse_via(request.headers.get(VIA_HEADER))
                async with aclosing(self._context.upstream.fetch(missing, via)) as arrived:
                    async for key in arrived:
                        await self._send_one(request, response, key, missing[key])
            await response.write_eof()
        except (TimeoutError, ConnectionError, ShardcastError) as error:
            if isinstance(error, LocalDiskError) and not response.prepared:
                raise  # the head isn't sent: the answer can still be a failure
            log.info("a pull of %s broke off: %s", request.remote, error or "the reader took no more bytes")
            if request.transport:
                request.transport.abort()
        return response

    async def _send_local(
        self, request: web.Request, response: web.StreamResponse, wanted: Mapping[str, int]
    ) -> dict[str, int]:
        """Send the local blobs, after the head, and return the lengths of the missing ones by key.

        Raises:
            ConnectionError, asyncio.TimeoutError: the reader hung up, or takes no bytes.
            LocalDiskError: the disk failed while looking for a blob.
            ShardcastError: a blob cannot be read to its end.
        """
        missing = {}
        small = [key for key, length in wanted.items() if length <= _SMALL]
        for keys in _steps(small, wanted):
            found = await self._context.store.read_small(keys, _SMALL)
            frames = []
            for key in keys:
                blob = found.get(key)
                if blob is None:
                    missing[key] = wanted[key]
                elif len(blob) == wanted[key]:
                    frames += [bytes.fromhex(key), blob]
                    self._context.hits += 1
            if frames:
                await response.prepare(request)
                await write_in_turn(request, response, b"".join(frames))
        for key, length in wanted.items():
            if length > _SMALL:
                if await self._send_one(request, response, key, length):
                    self._context.hits += 1
                else:
                    missing[key] = length
        return missing

    async def _send_one(
        self, request: web.Request, response: web.StreamResponse, key: str, length: int
    ) -> bool:
        """Send a blob if it has this length; return whether the archive has the blob, undamaged.

        Raises:
            ConnectionError, asyncio.TimeoutError: the reader hung up, or takes no bytes.
            LocalDiskError: the disk failed while looking for the blob.
            ShardcastError: the blob cannot be read to its end.
        """
        started = False
        try:
            async with open_while_connected(request, self._context.store.open(key)) as blob:
                if blob.size != length:
                    return True
                started = True
                await response.prepare(request)
                await write_in_turn(request, response, bytes.fromhex(key))
                left = length
                while left:
                    data = await blob.read(min(_CHUNK, left))
                    if not data:
                        raise BlobCorrupt(f"{key} is shorter than announced")
                    await write_in_turn(request, response, data)
                    left -= len(data)
        except (BlobMissing, BlobCorrupt) as error:
            if started:
                raise
            if isinstance(error, BlobCorrupt):
                log.error("can't serve %s: %s", key, error)
            return False
        return True


def _steps(keys: Sequence[str], lengths: Mapping[str, int]) -> Iterator[list[str]]:
    """Yield the keys of blobs to read in one step."""
    step: list[str] = []
    size = 0
    for key in keys:
        step.append(key)
        size += lengths[key]
        if len(step) == _AT_ONCE or size >= _TOGETHER:
            yield step
            step, size = [], 0
    if step:
        yield step
