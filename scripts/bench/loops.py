"""Comparison of event loops: asyncio's own, which has sendfile, and uvloop, which has none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from growth import readers
from harness import Case, Comparison, Run, Settings, Side, interleave
from loopback import Served, serving
from nodes import client_options, linked_copy, origin_options, own_seconds
from processes import program_words, run_command, running
from report import format_size

LOOPS = ("asyncio", "uvloop")
READERS = 4


def compare(settings: Settings) -> Iterator[Comparison]:
    """Run the case's comparisons, and yield each as it is ready."""
    place = settings.places.memory
    place.need(3 * settings.size)
    place.touch(3 * settings.size)
    with serving(place, settings.size) as served:
        yield origins(served, settings)
        yield clients(served, settings)


def origins(served: Served, settings: Settings) -> Comparison:
    """Compare the origin on either loop, read by connections that drop the bytes."""
    shard = served.data_dir / "v1" / "shard_001.bin"
    with ExitStack() as stack:
        sides = []
        for kind in LOOPS:
            copy = linked_copy(served.data_dir, stack.enter_context(served.place.folder("copy")) / kind)
            origin = stack.enter_context(running(program_words("on_loop", kind, *origin_options(copy))))
            url = f"{origin.url()}/v1/{shard.name}"
            length = shard.stat().st_size
            sides.append(
                Side(kind, partial(readers, origin, url, count=READERS, size=settings.size, length=length))
            )
        results = interleave(sides, settings.runs)
    notes = ["CPU and memory are the origin's alone."]
    title = f"Origin on an event loop, {READERS} readers, {format_size(settings.size)}"
    return Comparison(title, results, LOOPS[0], settings.size, notes=notes)


def clients(served: Served, settings: Settings) -> Comparison:
    """Compare the client on either loop, at our origin as it is."""
    results = interleave([Side(kind, partial(download, served, kind)) for kind in LOOPS], settings.runs)
    notes = ["seconds: after start-up, as the client says. CPU and memory are the client's alone."]
    title = f"Client on an event loop, {format_size(settings.size)}"
    return Comparison(title, results, "uvloop", settings.size, notes=notes)


def download(served: Served, kind: str) -> Run:
    """Run the client on a loop."""
    with served.place.folder("output") as folder:
        output = folder / "output.bin"
        words = program_words("on_loop", kind, "client", *client_options([served.origin_url], output))
        ended = run_command(words)
        served.payload.check(output)
    return Run(own_seconds(ended), ended.usage.cpu_seconds, ended.usage.peak_memory)


CASE = Case("loops", "our origin and our client on asyncio's event loop and on uvloop", compare, quick=False)
