"""Many readers at once that take bytes and do nothing with them: ``URL COUNT BYTES LENGTH``.

COUNT connections are made first; then each asks for BYTES bytes of the file at URL, which has LENGTH, in
ranges. Prints the seconds from the first request until the last byte, as JSON.
"""

import asyncio
import json
import resource
import sys
import time
from urllib.parse import urlsplit

url, *numbers = sys.argv[1:]
count, wanted, length = map(int, numbers)
address = urlsplit(url)
buffer = memoryview(bytearray(1 << 20))


class Reader(asyncio.BufferedProtocol):
    """A connection that requests one range after the other."""

    def __init__(self) -> None:
        self.left = wanted
        self.body = 0
        self.head = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; ``ask`` sends the requests."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self) -> None:
        """Send the next request."""
        self.body = min(self.left, length)
        self.head = b""
        words = (f"GET {address.path} HTTP/1.1", f"Host: {address.netloc}", f"Range: bytes=0-{self.body - 1}")
        self.transport.write("\r\n".join((*words, "", "")).encode())

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Return the buffer for the next bytes, always the same one."""
        return buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Count the bytes, and send the next request at the end of an answer."""
        if not self.head.endswith(b"\r\n\r\n"):
            self.head += bytes(buffer[:nbytes])
            before, end, rest = self.head.partition(b"\r\n\r\n")
            if not end:
                return
            if not before.startswith(b"HTTP/1.1 206"):
                self.fail(before.splitlines()[0].decode())
                return
            self.head, nbytes = before + end, len(rest)
        self.body -= nbytes
        self.left -= nbytes
        if self.body == 0 and self.left:
            self.ask()
        elif self.left == 0 and not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        """Fail, unless all bytes have come."""
        self.fail(f"cut off: {error}")

    def fail(self, why: str) -> None:
        """Make the wait for this reader raise an error."""
        if not self.done.done():
            self.done.set_exception(ConnectionError(why))


async def main() -> None:
    """Connect, read, and print the seconds."""
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(Reader, address.hostname, address.port) for _ in range(count)]
    started = time.monotonic()
    for _, reader in made:
        reader.ask()
    await asyncio.gather(*(reader.done for _, reader in made))
    print(json.dumps({"seconds": time.monotonic() - started}))
    for transport, _ in made:
        transport.abort()


_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
asyncio.run(main())
