"""Many clients in one process: ``SERVERS COUNT FOLDER [--again]``.

Says that it is ready, and begins at a line on stdin: every client downloads the latest version into a file
of its own, verified. Prints each one's seconds as JSON. With --again each removes its file and begins anew,
until stdin ends; then it prints how many downloads were made.
"""

import asyncio
import json
import resource
import sys
import time
from pathlib import Path

import uvloop

from shardcast import Client, VersionNotOffered

servers, number, folder, *more = sys.argv[1:]
count, again = int(number), "--again" in more


async def download(index: int) -> float:
    """Download the version, and return the seconds."""
    started = time.monotonic()
    async with Client(servers.split(","), folder) as client:
        await client.download("latest", Path(folder) / f"{index}.bin")
    return time.monotonic() - started


async def keep_on(index: int) -> None:
    """Download again and again."""
    global made
    while True:
        try:
            await download(index)
        except VersionNotOffered:
            await asyncio.sleep(0.05)
            continue
        made += 1
        (Path(folder) / f"{index}.bin").unlink()


async def until_told() -> None:
    """Download until stdin ends."""
    readers = [asyncio.ensure_future(keep_on(index)) for index in range(count)]
    end = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await asyncio.wait([end, *readers], return_when=asyncio.FIRST_COMPLETED)
    for one in readers:
        if one.done():
            one.result()
        one.cancel()
    await asyncio.gather(*readers, return_exceptions=True)


async def once() -> list[float]:
    """Download once in each client, and return the seconds."""
    return list(await asyncio.gather(*(download(index) for index in range(count))))


_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
made = 0
print("ready", flush=True)
sys.stdin.readline()
if again:
    uvloop.run(until_told())
    print(json.dumps({"made": made}))
else:
    print(json.dumps({"seconds": uvloop.run(once())}))
