"""A program that writes a version: how long after its last byte a client behind one middle has it, verified.

Writer, origin, middle and a client that follows are processes of their own, new in each run, which have a
small version before. The writer writes random bytes, which are in memory before, into ``open_broadcast``, as
if 200 MB of them were made a second. Its end is the end of the ``with`` block's body, with all bytes written
and the version still to be completed; the client's is the line that it prints once the file has its name.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from harness import Aim, Case, Comparison, Run, Settings, Side, interleave
from nodes import announced, follow_words, followed, middle_words
from places import Payload, Place
from processes import Running, program_words, running, taken_by
from report import format_size

RATE = 200_000_000
"""Bytes a second that are made."""
KEPT_UP = 0.99
"""The part of that rate at which they must have been written, or the figure says little."""
COPIES = 4
"""How often the payload is there: the writer's own, and one at each node."""
QUICK_RUNS = 2
PATIENCE = 300.0


def compare(settings: Settings) -> Iterator[Comparison]:
    """Run the case's comparisons, and yield each as it is ready."""
    place, size = settings.places.roomy(COPIES * settings.size), settings.size
    place.touch(COPIES * size)
    payload = place.payload(size)
    runs = settings.runs if settings.full else min(settings.runs, QUICK_RUNS)
    results = interleave([Side("ours", partial(streamed, place, payload))], runs, warm_ups=0)
    aims = [
        Aim("seconds after the writer's end", results[0].median(), most=1),
        Aim("written, MB/s", results[0].median("written MB/s"), least=KEPT_UP * RATE / 1e6),
    ]
    notes = [
        "seconds: from the writer's end until the client behind one middle says that it has a verified file.",
        "complete: from that end too, until the version was complete at the origin. origin: with the writer.",
    ]
    title = f"A writer of {RATE / 1e6:g} MB/s into open_broadcast, {format_size(size)}"
    yield Comparison(title, results, aims=aims, notes=notes)


def streamed(place: Place, payload: Payload) -> Run:
    """Let the writer write a version, and measure until the client has it."""
    with ExitStack() as stack:
        folder = stack.enter_context(place.folder("stream"))
        writer, middle, client = started(stack, folder, payload)
        with taken_by(writer) as at_origin, taken_by(middle) as at_middle, taken_by(client) as at_client:
            writer.tell("go")
            client.wait_for(partial(announced, client, "v2"), "having the version", PATIENCE)
            had = time.monotonic()
            writer.wait_for_output("written", PATIENCE)
        printed = json.loads(writer.output)
        payload.check(followed(folder / "outputs", "v2"))
    detail = {
        "complete": printed["complete"] - printed["written"],
        "written MB/s": payload.size / (printed["written"] - printed["began"]) / 1e6,
        "origin CPU s": at_origin[0].cpu_seconds,
        "middle CPU s": at_middle[0].cpu_seconds,
        "client CPU s": at_client[0].cpu_seconds,
        "middle MB": at_middle[0].peak_memory / 1e6,
        "client MB": at_client[0].peak_memory / 1e6,
    }
    taken = at_origin[0] + at_middle[0] + at_client[0]
    return Run(had - printed["written"], taken.cpu_seconds, detail=detail)


def started(stack: ExitStack, folder: Path, payload: Payload) -> tuple[Running, Running, Running]:
    """Start the writer with its origin, the middle, and the client, which has an earlier version."""
    first = folder / "first.bin"
    first.write_bytes(b"a version before the one that is measured")
    words = program_words("writer", str(folder / "origin"), str(first), str(payload.path), str(RATE))
    writer = stack.enter_context(running(words, told=True))
    middle = stack.enter_context(running(middle_words(writer.url(), folder / "middle")))
    client = stack.enter_context(running(follow_words([middle.url()], folder / "outputs")))
    client.wait_for(partial(announced, client, "v1"), "having the first version")
    return writer, middle, client


CASE = Case("stream", "a writer of 200 MB/s into open_broadcast, to a client behind one middle", compare)
