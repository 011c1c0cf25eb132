"""Limits of bytes a second: how well they hold, how equal the shares are, and what they cost."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from harness import Aim, Case, Comparison, Failed, Result, Run, Settings, Side, interleave
from nodes import download_words, linked_copy, middle_words, origin_words, own_seconds, published
from places import Payload, Place
from processes import Running, program_words, run_command, running, shardcast_words
from tokens import requests

RATE = 20_000_000
"""Bytes a second of the limit."""
WINDOW, SECONDS = 10.0, 15.0
"""Seconds over which a limit must hold, and for which readers read."""
SIZE = 250_000_000
"""Bytes of the payload: a client takes longer than a window."""
PATH = "/v1/shard_001.bin"
NO_LIMIT = 10**12
"""Bytes a second of a limit that no reader reaches."""
ONE, MANY = 1, 8


def compare(settings: Settings) -> Iterator[Comparison]:
    """Run the case's comparisons, and yield each as it is ready."""
    place = settings.places.memory
    place.need(4 * SIZE)
    payload = place.payload(SIZE)
    with ExitStack() as stack:
        data_dir = stack.enter_context(published(place, payload))
        folder = stack.enter_context(place.folder("limits"))

        def copy(name: str) -> Path:
            return linked_copy(data_dir, folder / name)

        plain = stack.enter_context(running(origin_words(data_dir)))
        others = [stack.enter_context(running(origin_words(copy(f"other{n}")))) for n in range(MANY - 1)]
        limit = ["--upload-limit", str(RATE)]
        middle = [*middle_words(plain.url(), folder / "middle"), *limit]
        servers = {
            "origin": (stack.enter_context(running([*origin_words(copy("origin")), *limit])), PATH),
            "middle": (stack.enter_context(running(middle)), PATH),
            "archive": archive(stack, folder, payload, limit),
        }
        for server, path in servers.values():
            wait_for(server, path)
        sides = [
            Side(
                f"{role}, {count} reader{'s' * (count > 1)}", lambda s=server, p=path, c=count: read(s, p, c)
            )
            for role, (server, path) in servers.items()
            for count in (ONE, MANY)
        ]
        urls = [server.url() for server in (plain, *others)]
        sides += [
            Side("client, 1 server", lambda: download(place, payload, urls[:1])),
            Side(f"client, {MANY} servers", lambda: download(place, payload, urls)),
        ]
        results = interleave(sides, settings.runs)
        aims = [Aim("the farthest from the limit, of it", farthest(results), most=0.03)]
        notes = [
            f"The limit is {RATE / 1e6:g} MB/s. slowest, fastest: MB/s of all readers in any {WINDOW:g} s of "
            f"{SECONDS:g} s; of a client over its whole download. unequal: bytes of the reader with most "
            "over those of the one with least."
        ]
        yield Comparison("How limits hold", results, aims=aims, notes=notes, plot="")

        loose = [*origin_words(copy("loose")), "--upload-limit", str(NO_LIMIT)]
        limited = stack.enter_context(running(loose))
        sides = [
            Side("no limit", lambda: requests(plain, "GET", 40, {})),
            Side("a limit that no reader reaches", lambda: requests(limited, "GET", 40, {})),
        ]
        results = interleave(sides, settings.runs)
        note = "ms: of the server's CPU, for a shard of 50 MB."
        yield Comparison("What a limit costs", results, against="no limit", notes=[note], plot="")


def archive(stack: ExitStack, folder: Path, payload: Payload, limit: Sequence[str]) -> tuple[Running, str]:
    """Start an archive with the payload as a blob, and return it and the path of the blob."""
    directory = folder / "archive"
    directory.mkdir()
    put = run_command(shardcast_words("store", "put", "-d", str(directory), str(payload.path)))
    options = ["--host", "127.0.0.1", "--port", "0", *limit]
    words = shardcast_words("archive", "serve", str(directory), *options)
    return stack.enter_context(running(words)), "/" + put.output.split()[0]


def wait_for(server: Running, path: str) -> None:
    """Wait until a server has a file.

    Raises:
        Failed: it has none after a minute.
    """
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection(urlsplit(server.url()).netloc, timeout=10)
        connection.request("HEAD", path)
        status = connection.getresponse().status
        connection.close()
        if status == 200:
            return
        time.sleep(0.1)
    raise Failed(f"{server.url()} has no {path}")


def read(server: Running, path: str, count: int) -> Run:
    """Let readers read for a while."""
    before = server.usage()
    words = program_words("limited_readers", server.url() + path, str(count), str(SECONDS), str(WINDOW))
    found = json.loads(run_command(words).output)
    detail = {"slowest": found["slowest"] / 1e6, "fastest": found["fastest"] / 1e6}
    used = server.usage().since(before)
    return Run(SECONDS, used.cpu_seconds, used.peak_memory, detail | {"unequal": found["unequal"]})


def download(place: Place, payload: Payload, servers: Sequence[str]) -> Run:
    """Download the payload under the limit."""
    with place.folder("output") as folder:
        output = folder / "output.bin"
        ended = run_command([*download_words(servers, output), "--download-limit", str(RATE)])
        payload.check(output)
    seconds, usage = own_seconds(ended), ended.usage
    rate = payload.size / seconds / 1e6
    detail = {"slowest": rate, "fastest": rate}
    return Run(seconds, usage.cpu_seconds, usage.peak_memory, detail)


def farthest(results: Sequence[Result]) -> float | None:
    """Return the greatest distance of a window from the limit, as a share of it."""
    rates = [rate for result in results for name in ("slowest", "fastest") for rate in result.values(name)]
    return max((abs(rate * 1e6 / RATE - 1) for rate in rates), default=None)


CASE = Case("limits", "limits of bytes a second: how they hold, and what they cost", compare, quick=False)
