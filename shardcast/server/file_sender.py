"""A part of a file ─▶ the socket: by sendfile or our own TLS where possible, at the reader's speed."""

from __future__ import annotations

import asyncio
import logging
from typing import BinaryIO

from aiohttp import web

from shardcast.server.bounds import bounds_of
from shardcast.server.cached_reads import CachedReader
from shardcast.server.tls_transport import TlsTransport
from shardcast.server.upload_limit import take
from shardcast.store.holds import Reader

log = logging.getLogger(__name__)

_MIN_PORTION, _MAX_PORTION = 256 << 10, 16 << 20
"""Bytes after which a reader must have shown progress: few for a slow reader, to tell slowness from silence.
"""
_FAST, _SLOW = 0.5, 2.0
"""Seconds for one portion, below which the next one is doubled, and above which it is halved."""
_MIN_CHUNK, _MAX_CHUNK = 64 << 10, 256 << 10
"""Bytes read at a time where there is no sendfile (TLS, uvloop): they wait in memory for the reader. More
fall out of the processor's cache between reading, encrypting and sending."""
_FAST_CHUNK, _SLOW_CHUNK = 0.02, 0.1
"""Seconds for a chunk, below which the next one is doubled, and above which it is halved: few readers are so
fast at a time, and many slow ones take little memory."""


class FileSender:
    """A sender of parts of one file in a prepared answer, in portions adapted to the reader's speed."""

    def __init__(
        self, request: web.Request, response: web.StreamResponse, file: BinaryIO, reader: Reader
    ) -> None:
        """Send to ``reader``, whose count of bytes grows with each portion."""
        self._request = request
        self._response = response
        self._file = file
        self._reader = reader
        self._portion = _MIN_PORTION
        transport = request.transport
        # asyncio's TLS copies data to encrypt at once; other transports may keep their data.
        over_tls = transport is not None and transport.get_extra_info("sslcontext") is not None
        self._over_foreign_tls = over_tls and not isinstance(transport, TlsTransport)
        self._by_sendfile = not self._over_foreign_tls
        self._chunk = _MIN_CHUNK
        self._reading: CachedReader | None = None

    async def send(self, offset: int, count: int) -> None:
        """Send ``count`` bytes of the file from ``offset`` on, each portion when an upload limit allows it.

        Raises:
            ConnectionResetError: the reader went away, or took nothing for too long.
            OSError: the file can't be read, or ends too early.
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
        if not self._by_sendfile:
            return await self._send_chunk(transport, offset, min(granted, self._chunk))
        portion = min(granted, self._portion)
        stalled = bounds_of(request).reader_seconds
        try:
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(stalled):
                if isinstance(transport, TlsTransport):
                    await transport.send_file(self._reader_of(portion), offset, portion)
                else:
                    await loop.sendfile(transport, self._file, offset, portion, fallback=False)
        except (NotImplementedError, asyncio.SendfileNotAvailableError):
            raise
        except RuntimeError as error:  # sendfile's, when the reader went away since is_closing was checked
            if not transport.is_closing():
                raise
            raise ConnectionResetError("the reader went away") from error
        except TimeoutError:
            raise self._stalled(transport) from None
        return portion

    async def _send_chunk(self, transport: asyncio.Transport, offset: int, count: int) -> int:
        """Read and write the next bytes, at most ``count``, and return their number.

        They go to the transport itself: aiohttp would hand over a quarter of them at a time.

        Raises:
            ConnectionResetError: the reader went away, or took nothing for too long.
        """
        chunk = await self._reader_of(count).read(offset, count)
        try:
            async with asyncio.timeout(bounds_of(self._request).reader_seconds):
                transport.write(chunk if self._over_foreign_tls else bytes(chunk))
                await self._request.writer.drain()
        except TimeoutError:
            raise self._stalled(transport) from None
        if self._over_foreign_tls:
            # Python 3.11's TLS learns of the end of its socket in the loop's next round. Without a round,
            # data from memory would be encrypted to the end of the file for nobody, each chunk with a
            # warning.
            await asyncio.sleep(0)
        return len(chunk)

    def _reader_of(self, count: int) -> CachedReader:
        """Return a reader of at least ``count`` bytes at a time, or as many as useful."""
        count = min(count, _MAX_CHUNK)
        if self._reading is None or self._reading.max_bytes < count:
            self._reading = CachedReader(self._file, count)
        return self._reading

    def _stalled(self, transport: asyncio.Transport) -> ConnectionResetError:
        """Drop an inactive reader, and return the error."""
        seconds = bounds_of(self._request).reader_seconds
        log.info("%s took nothing for %g s, and was dropped", self._request.remote, seconds)
        transport.abort()
        return ConnectionResetError("the reader stalled")

    def _adapt(self, seconds: float) -> None:
        """Choose the next portion by the seconds of the last one."""
        if not self._by_sendfile:
            if seconds < _FAST_CHUNK:
                self._chunk = min(2 * self._chunk, _MAX_CHUNK)
            elif seconds > _SLOW_CHUNK:
                self._chunk = max(self._chunk // 2, _MIN_CHUNK)
            return
        if seconds < _FAST:
            self._portion = min(2 * self._portion, _MAX_PORTION)
        elif seconds > _SLOW:
            self._portion = max(self._portion // 2, _MIN_PORTION)
