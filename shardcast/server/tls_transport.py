"""A TLS connection on its own socket: OpenSSL reads and writes the socket, with no buffer in between.

asyncio's TLS passes each byte through three buffers of its own, at a third of OpenSSL's time for the
encryption.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, cast

from shardcast.server.cached_reads import CachedReader
from shardcast.server.orderly_close import OrderlyClose

_RECORD = 16 << 10
"""Bytes of the largest TLS record, the result of one read."""
_RECORDS = 16
"""Records read before other connections have their turn."""
_WRITE_SIZE = 64 << 10
"""Bytes encrypted by one call. OpenSSL does not tell its progress when the socket is full."""
_TURN = 1 << 20
"""Bytes of a file sent before other connections have their turn."""
_HIGH, _LOW = 64 << 10, 16 << 10
"""Unsent bytes from which on the writer waits, and at which it goes on."""
_RETRY_SECONDS = 0.05
"""Seconds until a read is repeated that could not send TLS's own messages to the other end."""


class TlsTransport(asyncio.Transport):
    """The transport of a connection after its handshake, and the one owner of its socket."""

    def __init__(
        self,
        sock: ssl.SSLSocket,
        protocol: asyncio.BaseProtocol,
        lost: Callable[[Exception | None], None],
        *,
        names: Mapping[str, Any],
    ) -> None:
        """Own a non-blocking socket from now on.

        Args:
            sock: the socket.
            protocol: gets the events of the connection.
            lost: called once the connection has ended and the socket is closed.
            names: the addresses of both ends, as ``get_extra_info`` names them.
        """
        tls = {"sslcontext": sock.context, "ssl_object": sock, "peercert": sock.getpeercert()}
        super().__init__({"socket": sock, **names, **tls})
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._descriptor = sock.fileno()
        self._lost = lost
        self._closing = self._ended = self._in_order = False
        self._reading = True
        self._unsent: deque[bytes] = deque()
        self._unsent_bytes = 0
        self._interrupted = False  # OpenSSL waits to be called with the same bytes again
        self._sending_file = False
        self._writable: asyncio.Future[None] | None = None  # what a file waits for
        self._high, self._low = _HIGH, _LOW
        self._protocol_paused = False
        self.set_protocol(protocol)
        protocol.connection_made(self)
        if not self._closing and self._reading:
            self._loop.add_reader(self._descriptor, self._read)
            self._loop.call_soon(self._read)  # the handshake may have read the first request too

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Pass events to another protocol from now on."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol for the events."""
        return self._protocol

    # In

    def is_reading(self) -> bool:
        """Return whether bytes are being received."""
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        """Receive no more bytes for now."""
        if self.is_reading():
            self._reading = False
            self._loop.remove_reader(self._descriptor)

    def resume_reading(self) -> None:
        """Receive bytes again."""
        if not self._reading and not self._closing:
            self._reading = True
            self._loop.add_reader(self._descriptor, self._read)
            self._loop.call_soon(self._read)  # OpenSSL may hold the rest of a record

    def _read(self) -> None:
        """Pass received bytes to the protocol."""
        try:
            for _ in range(_RECORDS):
                if not self.is_reading():
                    return
                if not self._read_record():
                    self._protocol.eof_received()  # type: ignore[attr-defined]  # of both kinds of protocol
                    self.close()
                    return
            if self._sock.pending():
                self._loop.call_soon(self._read)
        except ssl.SSLWantReadError:
            return
        except ssl.SSLWantWriteError:
            self._loop.call_later(_RETRY_SECONDS, self._read)
        except OSError as error:
            self._end(error)
        except BaseException:
            self.abort()  # the protocol failed; the loop logs why
            raise

    def _read_record(self) -> int:
        """Pass a record's bytes to the protocol, and return their number; 0 at the end of the connection."""
        protocol = self._protocol
        if isinstance(protocol, asyncio.BufferedProtocol):
            count = self._sock.recv_into(protocol.get_buffer(_RECORD))
            if count:
                protocol.buffer_updated(count)
            return count
        data = self._sock.recv(_RECORD)
        if data:
            cast(asyncio.Protocol, protocol).data_received(data)
        return len(data)

    # Out

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes, at once as far as the socket takes them.

        Raises:
            RuntimeError: a file is being sent.
        """
        if self._sending_file:
            raise RuntimeError("a file is being sent")
        if self._closing or not data:
            return
        view = memoryview(data)
        parts = [view[start : start + _WRITE_SIZE] for start in range(0, len(view), _WRITE_SIZE)]
        if not self._unsent:
            while parts and self._encrypt(parts[0]):
                del parts[0]
            if not parts or self._closing:
                return
            self._loop.add_writer(self._descriptor, self._flush)
        self._unsent.extend(bytes(part) for part in parts)
        self._unsent_bytes += sum(map(len, parts))
        self._pause_writer()

    def _pause_writer(self) -> None:
        """Tell the protocol to wait where too much is unsent."""
        if self._unsent_bytes > self._high and not self._protocol_paused:
            self._protocol_paused = True
            self._protocol.pause_writing()

    def _encrypt(self, data: bytes | memoryview) -> bool:
        """Hand bytes to OpenSSL, and return whether all were sent; otherwise hand over the same again."""
        try:
            self._sock.send(data)
        except ssl.SSLWantWriteError:
            self._interrupted = True
            return False
        except OSError as error:
            self._end(error)
            return False
        self._interrupted = False
        return True

    def _flush(self) -> None:
        """Send waiting bytes, as far as the socket takes them."""
        while self._unsent and self._encrypt(self._unsent[0]):
            self._unsent_bytes -= len(self._unsent.popleft())
        if self._ended:
            return
        if self._protocol_paused and self._unsent_bytes <= self._low:
            self._protocol_paused = False
            self._protocol.resume_writing()
        if not self._unsent:
            self._loop.remove_writer(self._descriptor)
            self._wake()
            if self._closing:
                self._loop.call_soon(self._shut)

    async def send_file(self, reader: CachedReader, offset: int, count: int) -> None:
        """Send ``count`` bytes of a file from ``offset`` on; one call at a time.

        A cancelled call leaves a connection fit only to be aborted.

        Raises:
            ConnectionResetError: the connection has ended.
            OSError: the file can't be read, or ends too early.
        """
        while self._unsent:
            await self._wait()
        self._sending_file, turn = True, _TURN
        try:
            while count:
                data = await reader.read(offset, min(count, reader.max_bytes))
                while not self._closing and not self._encrypt(data):
                    if not self._closing:
                        self._loop.add_writer(self._descriptor, self._has_room)
                        await self._wait()
                if self._closing:
                    raise ConnectionResetError("the reader went away")
                offset, count, turn = offset + len(data), count - len(data), turn - len(data)
                if turn <= 0:
                    turn = _TURN
                    await asyncio.sleep(0)
        finally:
            self._sending_file = False
            if not self._ended:
                self._loop.remove_writer(self._descriptor)

    async def _wait(self) -> None:
        """Wait until the socket has room, or the connection ends.

        Raises:
            ConnectionResetError: the connection had ended before.
        """
        if self._ended:
            raise ConnectionResetError("the reader went away")
        self._writable = self._loop.create_future()
        try:
            await self._writable
        finally:
            self._writable = None

    def _has_room(self) -> None:
        """Let a file be sent on; the loop minds the socket again once that is full."""
        self._loop.remove_writer(self._descriptor)
        self._wake()

    def _wake(self) -> None:
        """End the wait of a file."""
        if self._writable and not self._writable.done():
            self._writable.set_result(None)

    def get_write_buffer_size(self) -> int:
        """Return the number of unsent bytes."""
        return self._unsent_bytes

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the numbers of unsent bytes at which the writer goes on, and at which it waits."""
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Choose the numbers of unsent bytes at which the writer waits, and at which it goes on."""
        if high is None:
            high = _HIGH if low is None else 4 * low
        self._high, self._low = high, high // 4 if low is None else low
        self._pause_writer()

    def can_write_eof(self) -> bool:
        """Return False: TLS ends both ways at once."""
        return False

    # The end

    def is_closing(self) -> bool:
        """Return whether the connection has ended, or ends after the waiting bytes."""
        return self._closing

    def close(self) -> None:
        """Send the waiting bytes, and end."""
        if self._closing:
            return
        self._closing = True
        self._loop.remove_reader(self._descriptor)
        self._wake()
        if not self._unsent:
            self._loop.call_soon(self._shut)

    def abort(self) -> None:
        """End at once; waiting bytes are dropped."""
        self._end(None)

    def _shut(self) -> None:
        """Tell the other end, without waiting for an answer, and end."""
        if not self._ended and not self._interrupted:
            self._in_order = True
            try:
                self._sock.unwrap()
            except (OSError, ValueError):
                pass  # it is the usual end: the other end's word comes later, or never
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        """End the connection, once."""
        if self._ended:
            return
        self._closing = self._ended = True
        self._loop.remove_reader(self._descriptor)
        self._loop.remove_writer(self._descriptor)
        self._unsent.clear()
        self._unsent_bytes = 0
        self._wake()
        self._loop.call_soon(self._finish, error)

    def _finish(self, error: Exception | None) -> None:
        """Tell the protocol, and close the socket."""
        try:
            self._protocol.connection_lost(error)
        finally:
            if self._in_order:
                OrderlyClose(self._sock, lambda: self._lost(error))
            else:
                self._sock.close()
                self._lost(error)
