"""A part of a file ─▶ the socket: by sendfile where the event loop has it, as fast as the reader takes it."""

from __future__ import annotations

import asyncio
import logging
from typing import BinaryIO

from aiohttp import web

from shardcast.server.bounds import bounds_of
from shardcast.server.upload_limit import take
from shardcast.server.writing import write_granted
from shardcast.store.holds import Reader

log = logging.getLogger(__name__)

_MIN_PORTION, _MAX_PORTION = 256 << 10, 16 << 20
"""Bytes after which a reader must have shown that it still takes any: few for a slow reader, so that slowness
is told from silence."""
_FAST, _SLOW = 0.5, 2.0
"""Seconds for one portion, below which the next one is doubled, and above which it is halved."""
_FALLBACK_CHUNK = 256 << 10
"""Bytes read at a time where there is no sendfile (TLS, uvloop)."""


class FileSender:
    """A sender of parts of one file in a prepared answer, in portions that fit the reader's speed."""

    def __init__(
        self, request: web.Request, response: web.StreamResponse, file: BinaryIO, reader: Reader
    ) -> None:
        """Send to ``reader``, whose count of bytes grows with each portion."""
        self._request = request
        self._response = response
        self._file = file
        self._reader = reader
        self._portion = _MIN_PORTION
        self._by_sendfile = True

    async def send(self, offset: int, count: int) -> None:
        """Send ``count`` bytes of the file from ``offset`` on.

        Raises:
            ConnectionResetError: the reader went away, or took nothing for too long.
        """
        loop, end, granted = asyncio.get_running_loop(), offset + count, 0
        while offset < end:
            granted = granted or await take(self._request, end - offset)
            started = loop.time()
            try:
                sent = await self._send_portion(offset, granted)
            except (NotImplementedError, asyncio.SendfileNotAvailableError):
                self._by_sendfile = False
                continue
            offset, granted = offset + sent, granted - sent
            self._reader.sent += sent
            self._adapt(loop.time() - started)

    async def _send_portion(self, offset: int, granted: int) -> int:
        """Send the next bytes, at most ``granted``, and return their number.

        Raises:
            ConnectionResetError: the reader went away, or took nothing for too long.
            NotImplementedError, asyncio.SendfileNotAvailableError: this transport or loop has no sendfile.
        """
        request, transport = self._request, self._request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the reader went away")
        portion = min(granted, self._portion if self._by_sendfile else _FALLBACK_CHUNK)
        stalled = bounds_of(request).reader_seconds
        try:
            if self._by_sendfile:
                loop = asyncio.get_running_loop()
                async with asyncio.timeout(stalled):
                    await loop.sendfile(transport, self._file, offset, portion, fallback=False)
            else:
                self._file.seek(offset)
                chunk = await asyncio.to_thread(self._file.read, portion)
                await write_granted(request, self._response, chunk)
        except (NotImplementedError, asyncio.SendfileNotAvailableError):
            raise
        except RuntimeError as error:  # sendfile's, when the reader went away since is_closing was checked
            if not transport.is_closing():
                raise
            raise ConnectionResetError("the reader went away") from error
        except TimeoutError:
            log.info("%s took nothing for %g s, and was dropped", request.remote, stalled)
            transport.abort()
            raise ConnectionResetError("the reader stalled") from None
        return portion

    def _adapt(self, seconds: float) -> None:
        """Choose the next portion by the seconds that the last one took."""
        if seconds < _FAST:
            self._portion = min(2 * self._portion, _MAX_PORTION)
        elif seconds > _SLOW:
            self._portion = max(self._portion // 2, _MIN_PORTION)
