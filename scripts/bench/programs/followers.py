"""Many idle followers of a node's feed, in one process, as cheap as can be: ``URL COUNT [CA]``.

Says that it is ``ready``. At a line on stdin it makes COUNT connections, and says ``following`` once each
has been told all that there is. Then, for each version that becomes complete, it prints when the first and
the last of them had been told, as JSON. It fails when one of them is sent away.
"""

from __future__ import annotations

import asyncio
import json
import resource
import ssl
import sys
import time
from urllib.parse import urlsplit

MOST_CONNECTING = 100
KNOWN = b'{"seq":'
COMPLETE = b'"event":"complete"'


class Follower(asyncio.Protocol):
    """A connection to the feed."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._rest = b""
        self._begun = False
        self.told_all = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the feed."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(f"GET /feed HTTP/1.1\r\nHost: {self._crowd.server}\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        """Read the lines that came."""
        # Lines end as chunks do; the lengths of chunks between them are passed over.
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not self._begun and lines:
            self._begun = True
            if not lines[0].startswith(b"HTTP/1.1 200"):
                self._crowd.fail(f"it was answered {lines[0].decode(errors='replace')!r}")
        for line in lines:
            if not line.startswith(KNOWN):
                continue
            if COMPLETE in line:
                if self.told_all.done():
                    self._crowd.told(json.loads(line)["version"])
            elif b"event" not in line and not self.told_all.done():
                self.told_all.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        """Fail: a node must not drop a follower."""
        self._crowd.fail(f"a follower was sent away: {error}")


class Crowd:
    """All followers."""

    def __init__(self, url: str, count: int, authority: str | None) -> None:
        self._tls = ssl.create_default_context(cafile=authority) if authority else None
        self.server = urlsplit(url).netloc
        self._count = count
        self._followers: list[Follower] = []
        self._told: dict[str, list[float]] = {}
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def connect(self) -> None:
        """Make the connections, and wait until each knows the present versions."""
        loop, room = asyncio.get_running_loop(), asyncio.Semaphore(MOST_CONNECTING)
        host, _, port = self.server.rpartition(":")

        async def connect() -> None:
            async with room:
                _, follower = await loop.create_connection(
                    lambda: Follower(self), host, int(port), ssl=self._tls
                )
                self._followers.append(follower)
                await follower.told_all

        await asyncio.gather(*(connect() for _ in range(self._count)))

    def told(self, version: str) -> None:
        """Count a follower that knows that a version is complete."""
        times = self._told.setdefault(version, [])
        times.append(time.monotonic())
        if len(times) == self._count:
            print(json.dumps({"version": version, "first": times[0], "last": times[-1]}), flush=True)

    def fail(self, why: str) -> None:
        """Make ``forever`` raise an error."""
        if not self._failed.done():
            self._failed.set_exception(ConnectionError(why))

    async def forever(self) -> None:
        """Wait for ever, or raise what failed."""
        await self._failed


async def main(url: str, count: str, authority: str | None = None) -> None:
    """Connect at a line on stdin, and follow."""
    crowd = Crowd(url, int(count), authority)
    print("ready", flush=True)
    sys.stdin.readline()
    failing = asyncio.ensure_future(crowd.forever())
    connecting = asyncio.ensure_future(crowd.connect())
    await asyncio.wait([failing, connecting], return_when=asyncio.FIRST_COMPLETED)
    if not failing.done():
        await connecting
        print("following", flush=True)
    await failing


_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
asyncio.run(main(*sys.argv[1:]))
