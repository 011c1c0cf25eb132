"""Cost of one server of three that stops half-way for good."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from urllib.parse import urlsplit

from harness import Aim, Case, Comparison, Result, Run, Settings, Side, interleave
from nodes import download_words, linked_copy, origin_words, own_seconds, published
from places import Payload, Place
from processes import program_words, run_command, running
from report import format_size

RATE = 50_000_000
"""Bytes a second that each of the servers sends."""
SERVERS = 3


def compare(settings: Settings) -> Iterator[Comparison]:
    """Run the case's comparisons, and yield each as it is ready."""
    place, size = settings.places.memory, settings.size // 4
    place.need(3 * size)
    payload = place.payload(size)
    with ExitStack() as stack:
        data_dir = stack.enter_context(published(place, payload))
        origins = []
        for number in range(SERVERS):
            copy = linked_copy(data_dir, stack.enter_context(place.folder("copy")) / str(number))
            origins.append(stack.enter_context(running(origin_words(copy))).url())
        half = size // SERVERS // 2
        sides = [
            Side("none stalls", lambda: download(place, payload, origins)),
            Side("one stalls half-way", lambda: download(place, payload, origins, half)),
        ]
        results = interleave(sides, settings.runs)
    least = size / 2 / ((SERVERS - 1) * RATE) - size / 2 / (SERVERS * RATE)
    aims = [Aim("what the stall costs, s", extra(results), most=3)]
    notes = [
        f"three servers of {RATE / 1e6:g} MB/s each; one stays connected, but sends nothing after its half.",
        f"That the two others have to send its half too costs {least:.2f} s of it.",
    ]
    title = f"A server that stalls, {format_size(size)} from three"
    yield Comparison(title, results, "none stalls", size, aims=aims, notes=notes)


def extra(results: Sequence[Result]) -> float | None:
    """Return the median of the additional seconds, turn by turn."""
    without, stalled = (result.values("seconds") for result in results)
    if not without or len(without) != len(stalled):
        return None
    return statistics.median(b - a for a, b in zip(without, stalled, strict=True))


def download(place: Place, payload: Payload, origins: Sequence[str], half: int | None = None) -> Run:
    """Run a client below links to the servers, the last of which stops after ``half`` bytes."""
    with ExitStack() as stack:
        output = stack.enter_context(place.folder("output")) / "output.bin"
        servers = []
        for number, origin in enumerate(origins):
            stop = [str(half)] if half is not None and number == len(origins) - 1 else []
            words = program_words("relay", urlsplit(origin).netloc, str(RATE), *stop)
            servers.append(stack.enter_context(running(words)).url())
        ended = run_command(download_words(servers, output))
        payload.check(output)
    return Run(own_seconds(ended), ended.usage.cpu_seconds, ended.usage.peak_memory)


CASE = Case("stall", "one of three servers stops half-way for good", compare, quick=False)
