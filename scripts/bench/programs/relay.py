"""A link of a given rate before a server, which can stop for good: ``HOST:PORT RATE [BYTES]``.

Passes on what a server sends at RATE bytes a second, over all connections; after BYTES it passes on nothing
more, takes new connections, and says nothing on any: as a machine that hangs.
"""

import asyncio
import contextlib
import sys
import time

server, rate, *stop = sys.argv[1:]
host, port = server.rsplit(":", 1)
PORTION = 64 << 10
free_at = time.monotonic()
left = int(stop[0]) if stop else None


async def turn(size: int) -> None:
    """Wait until the link is free for so many bytes."""
    global free_at
    free_at = max(free_at, time.monotonic() - 0.05) + size / float(rate)
    await asyncio.sleep(max(0.0, free_at - time.monotonic()))


async def upwards(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Pass requests on at once."""
    while chunk := await source.read(PORTION):
        target.write(chunk)
        await target.drain()


async def downwards(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Pass answers on at the link's rate."""
    global left
    while chunk := await source.read(PORTION):
        await turn(len(chunk))
        if left is not None:
            if left <= 0:
                await asyncio.Event().wait()
            left -= len(chunk)
        target.write(chunk)
        await target.drain()


async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Relay a connection."""
    if left is not None and left <= 0:
        await asyncio.Event().wait()
    there, back = await asyncio.open_connection(host, int(port))
    try:
        ways = [asyncio.ensure_future(upwards(reader, back)), asyncio.ensure_future(downwards(there, writer))]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for one in ways:
            one.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
    finally:
        for one in (writer, back):
            with contextlib.suppress(ConnectionError):
                one.close()


async def main() -> None:
    """Listen for ever."""
    door = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(f"Listening on http://127.0.0.1:{door.sockets[0].getsockname()[1]}", file=sys.stderr, flush=True)
    await door.serve_forever()


asyncio.run(main())
