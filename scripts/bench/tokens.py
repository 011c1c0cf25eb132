"""CPU that the check of a token costs a server, beside the CPU of sending a shard."""

from __future__ import annotations

import http.client
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from urllib.parse import urlsplit

from harness import Aim, Case, Comparison, Failed, Result, Run, Settings, Side, interleave
from nodes import linked_copy, origin_words, published
from processes import Running, run_command, running, shardcast_words

SHARD = 50_000_000
SHARDS, HEADS = 40, 4000
"""Requests of a run: enough for a process's CPU, which the system counts in hundredths of a second."""
PATH = "/v1/shard_001.bin"


def compare(settings: Settings) -> Iterator[Comparison]:
    """Run the case's comparisons, and yield each as it is ready."""
    place = settings.places.memory
    with ExitStack() as stack:
        data_dir = stack.enter_context(published(place, place.payload(SHARD)))
        folder = stack.enter_context(place.folder("tokens"))
        made = run_command(
            shardcast_words("token", "new", "--scope", "read", "--append", str(folder / "file"))
        )
        headers = {"Authorization": f"Bearer {made.output.strip()}"}
        asking = [*origin_words(linked_copy(data_dir, folder / "copy")), "--tokens", str(folder / "file")]
        plain = stack.enter_context(running(origin_words(data_dir)))
        guarded = stack.enter_context(running(asking))
        sides = [
            Side("heads of a shard, no tokens", lambda: requests(plain, "HEAD", HEADS, {})),
            Side("heads of a shard, a token each", lambda: requests(guarded, "HEAD", HEADS, headers)),
            Side("a shard of 50 MB, no tokens", lambda: requests(plain, "GET", SHARDS, {})),
            Side("a shard of 50 MB, a token each", lambda: requests(guarded, "GET", SHARDS, headers)),
        ]
        results = interleave(sides, settings.runs)
    aims = [Aim("the check over the CPU of sending a shard", share(results), most=0.02)]
    notes = ["ms: of the server's CPU, a request. The check is the difference of the heads, turn by turn."]
    yield Comparison("The check of a token", results, aims=aims, notes=notes, plot="")


def requests(server: Running, method: str, count: int, headers: dict[str, str]) -> Run:
    """Send requests over one connection, and return the server's CPU for them all and for each."""
    connection = http.client.HTTPConnection(urlsplit(server.url()).netloc, timeout=60)
    before, buffer = server.usage(), bytearray(1 << 20)
    try:
        for _ in range(count):
            connection.request(method, PATH, headers=headers)
            answer = connection.getresponse()
            if answer.status != 200:
                raise Failed(f"{method} {PATH} was answered with {answer.status}")
            while answer.readinto(buffer):
                pass
    finally:
        connection.close()
    used = server.usage().since(before)
    return Run(used.cpu_seconds, used.cpu_seconds, used.peak_memory, {"ms": 1000 * used.cpu_seconds / count})


def share(results: Sequence[Result]) -> float | None:
    """Return the median of what the check costs, as a share of sending a shard."""
    plain, guarded, shard, _ = (result.values("ms") for result in results)
    if not plain or not shard or len(plain) != len(guarded):
        return None
    check = statistics.median(b - a for a, b in zip(plain, guarded, strict=True))
    return check / statistics.median(shard)


CASE = Case("tokens", "the check of a token, beside the CPU of sending a shard", compare, quick=False)
