"""Pushes into an archive: many blobs in one request, framed as in ``blobs.framing``.

The blobs of a push are named after all of them are on the disk: a push that breaks off, or fills the disk,
leaves nothing.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence
from contextlib import aclosing

from aiohttp import ClientError, web

from shardcast.access.authorization import bearer_of
from shardcast.blobs.directory.batch_writer import BatchWriter
from shardcast.blobs.framing import FramingError, PushReader, TooLong
from shardcast.blobs.interface import BlobStore
from shardcast.blobs.server.archive_routes.answers import failure, refuse_coded, too_large, too_slow
from shardcast.blobs.server.archive_routes.context import ArchiveContext
from shardcast.disk_errors import is_full
from shardcast.errors import LocalDiskError
from shardcast.protocol.wire import BYTES, RETRY_AFTER
from shardcast.server.bodies import chunks
from shardcast.server.connections import BodyTooSlow

log = logging.getLogger(__name__)


_NOT_NOW = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
"""Errors of a resource used up for now on this machine."""


class Pushes:
    """Answers to pushes into an archive."""

    def __init__(self, context: ArchiveContext, without_token: bool) -> None:
        """Take pushes of everybody ``without_token``; else of the token's bearer only."""
        self._context = context
        self._without_token = without_token

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Put the blobs of a push, none unless all are whole and on the disk, and record their put time."""
        refusal, stage = self._refuse(request) or refuse_coded(request), self._context.stage
        if refusal:
            return refusal
        if stage is None:
            return failure(request, 403, "Permission Denied. This archive is only read")
        try:
            async with stage() as staging:
                await self._receive(request, staging.blobs)
                now = self._context.access_stats.now()
                async with aclosing(staging.publish()) as published:
                    async for keys in published:
                        await self._record(keys, now)
        except TooLong as error:
            return too_large(error.length, self._context.max_blob)
        except FramingError as error:
            return failure(request, 400, "Invalid Arguments", {"errors": [str(error)]})
        except BodyTooSlow as error:
            return too_slow(request, error)
        except LocalDiskError as error:
            log.error("a push of %s was not stored: %s", request.remote, error)
            if is_full(error):
                return failure(request, 507, "Insufficient Storage")
            if error.errno in _NOT_NOW:
                return failure(request, 503, "Service Unavailable", headers={"Retry-After": RETRY_AFTER})
            return failure(request, 500, "Storage Failed")
        return web.Response(body=b"", content_type=BYTES)

    def _refuse(self, request: web.Request) -> web.Response | None:
        """Return the refusal of a client without permission to push; None with permission."""
        if self._without_token:
            return None
        if self._context.token is None:
            return failure(request, 403, "Permission Denied. Not authorized on this port")
        bearer = bearer_of(request.headers.getall("Authorization", []))
        if isinstance(bearer, str) and self._context.is_push_token(bearer):
            return None
        return failure(
            request, 401, "Permission Denied. Wrong token, or none", headers={"WWW-Authenticate": "Bearer"}
        )

    async def _receive(self, request: web.Request, blobs: BlobStore) -> None:
        """Put the blobs of a push, and check that the push is whole.

        Raises:
            FramingError: the body is no whole push.
            BodyTooSlow: the body does not keep the minimum rate.
            LocalDiskError: a blob cannot be stored.
        """
        frames = PushReader(self._context.max_blob)
        async with BatchWriter(blobs, lambda key, length: None) as putting:
            try:
                async for chunk in chunks(request):
                    for part in frames.feed(chunk):
                        await putting.write_part(part)
            except BodyTooSlow:
                raise
            except (ConnectionError, ClientError, web.RequestPayloadError) as error:
                raise FramingError(f"the push broke off: {error}") from error
        frames.end()

    async def _record(self, keys: Sequence[str], when: float) -> None:
        """Record when blobs were put; a failure is only logged, since the blobs are kept."""
        try:
            await self._context.access_stats.record_put(keys, when)
        except LocalDiskError as error:
            log.error("could not record the time of the put of %d blobs: %s", len(keys), error)
