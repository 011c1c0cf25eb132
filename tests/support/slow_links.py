"""A slow link to a server: a relay of bytes that returns only so many a second."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

_CHUNK = 16 * 1024
_SOCKET_BUFFER = 64 * 1024
"""A small one, so that the server sends little ahead of what comes out."""


@contextlib.contextmanager
def slow_link(port: int, rate: float) -> Iterator[str]:
    """Yield the address of a relay to a port of 127.0.0.1 that returns ``rate`` bytes a second in all."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    tasks: set[asyncio.Task[None]] = set()
    free_at = 0.0

    async def pour(source: asyncio.StreamReader, sink: asyncio.StreamWriter, slowly: bool) -> None:
        nonlocal free_at
        while chunk := await source.read(_CHUNK):
            if slowly:
                free_at = max(free_at, loop.time()) + len(chunk) / rate
                await asyncio.sleep(free_at - loop.time())
            sink.write(chunk)
            await sink.drain()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        plug = socket.socket()
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER)
        plug.setblocking(False)
        try:
            await loop.sock_connect(plug, ("127.0.0.1", port))
            answers, server = await asyncio.open_connection(sock=plug, limit=_CHUNK)
            both = [
                asyncio.ensure_future(pour(reader, server, False)),
                asyncio.ensure_future(pour(answers, writer, True)),
            ]
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                server.close()  # before anything is awaited, where ``end`` may cancel this again
                for direction in both:
                    direction.cancel()
                await asyncio.gather(*both, return_exceptions=True)
        except asyncio.CancelledError:
            pass  # by ``end``; asyncio's streams report a handler that was cancelled
        except OSError:
            plug.close()
        finally:
            writer.close()
            tasks.discard(task)

    async def start() -> asyncio.Server:
        return await asyncio.start_server(connected, "127.0.0.1", 0, limit=_CHUNK)

    async def end() -> None:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
