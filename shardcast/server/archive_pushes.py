"""Pushes into an archive, by who may: many blobs in one request, framed as ``framing`` tells.

A push is spooled whole and checked, and only then put, so that one that breaks off keeps nothing.
"""

from __future__ import annotations

import asyncio
import errno
import hmac
import logging
import os
import tempfile
from collections.abc import Sequence
from typing import IO

from aiohttp import ClientError, web

from shardcast.constants import STALLED_READER
from shardcast.errors import LocalDiskError
from shardcast.framing import FramingError, PushReader, TooLong
from shardcast.server.archive_answers import failure, stalled, too_large
from shardcast.server.archive_holdings import Holdings
from shardcast.store.blob_putting import Putting
from shardcast.store.durable import disk_errors, is_full
from shardcast.wire import BYTES

log = logging.getLogger(__name__)

_IN_MEMORY = 1 << 20
"""Bytes of a push that are spooled in memory; longer ones go to a file."""
_CHUNK = 1 << 20
_WRITTEN_DOWN = 1000
"""Keys whose times are written down in one step."""


class Pushes:
    """Puts what is pushed into an archive."""

    def __init__(self, holdings: Holdings, anybody: bool) -> None:
        """``anybody``: whether anybody may push, or only who bears the token."""
        self._holdings = holdings
        self._anybody = anybody

    async def answer(self, request: web.Request) -> web.StreamResponse:
        refusal = self._refuse(request)
        if refusal:
            return refusal
        with tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(self._holdings.spool)) as spool:  # nameless
            try:
                await self._receive(request, spool)
                await self._put_all(spool)
            except TooLong as error:
                return too_large(error.length, self._holdings.max_blob)
            except FramingError as error:
                return failure(request, 400, "Invalid Arguments", {"errors": [str(error)]})
            except asyncio.TimeoutError:
                return stalled(request)
            except LocalDiskError as error:
                log.error("a push of %s was not kept: %s", request.remote, error)
                status = 507 if is_full(error) else 500
                return failure(request, status, "Insufficient Storage" if status == 507 else "Storage Failed")
        return web.Response(body=b"", content_type=BYTES)

    def _refuse(self, request: web.Request) -> web.Response | None:
        token, said = self._holdings.token, request.headers.get("Authorization", "")
        if self._anybody:
            return None
        if token is None:
            return failure(request, 403, "Permission Denied. Not authorized on this port")
        scheme, _, borne = said.partition(" ")
        right = hmac.compare_digest(borne.strip().encode(errors="replace"), token.encode())
        if scheme.lower() == "bearer" and right:
            return None
        return failure(
            request, 401, "Permission Denied. Wrong token, or none", headers={"WWW-Authenticate": "Bearer"}
        )

    async def _receive(self, request: web.Request, spool: IO[bytes]) -> None:
        """Spool a push, and see that it is one.

        Raises:
            FramingError: it isn't.
            asyncio.TimeoutError: nothing came any more.
            LocalDiskError: it can't be written.
        """
        frames = PushReader(self._holdings.max_blob)
        try:
            while chunk := await asyncio.wait_for(request.content.readany(), STALLED_READER):
                for _ in frames.feed(chunk):
                    pass
                with disk_errors("could not keep a push in", self._holdings.spool):
                    await asyncio.to_thread(spool.write, chunk)
        except (ConnectionError, ClientError, web.RequestPayloadError) as error:
            raise FramingError(f"it broke off: {error}") from error
        frames.end()

    async def _put_all(self, spool: IO[bytes]) -> None:
        """Put what was spooled. That there is room for it is looked at before. When the disk fails all the
        same, what was put stays: who else may count on it by then can't be known, and it is whole and right.

        Raises:
            LocalDiskError: it can't be kept.
        """
        size, ledger, frames = spool.tell(), self._holdings.ledger, PushReader()
        now, keys = ledger.now(), list[str]()
        with disk_errors("could not keep a push in", self._holdings.spool):
            disk = os.statvfs(self._holdings.spool)
            if disk.f_bavail * disk.f_frsize < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        spool.seek(0)
        async with Putting(self._holdings.store, lambda key, _: keys.append(key)) as putting:
            while chunk := await asyncio.to_thread(spool.read, _CHUNK):
                for part in frames.feed(chunk):
                    await putting.take(part)
                if len(keys) >= _WRITTEN_DOWN:
                    written, keys = keys, []
                    await self._write_down(written, now)
        await self._write_down(keys, now)

    async def _write_down(self, keys: Sequence[str], when: float) -> None:
        """Write down when blobs were put, which they are in any case."""
        try:
            await self._holdings.ledger.created(keys, when)
        except LocalDiskError as error:
            log.error("when %d blobs were put is not known: %s", len(keys), error)
