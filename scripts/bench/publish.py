"""Publishing a payload: ours, the older shardcasts, and the floors."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import peers
from harness import Case, Comparison, Failed, Run, Settings, Side, Skipped, interleave
from places import Payload, Place
from processes import program_words, run_command, shardcast_words
from report import format_size

from shardcast.constants import SHARD_SIZE

LINK = "--link"


def compare(settings: Settings) -> Iterator[Comparison]:
    yield on(settings.places.memory, settings)
    if settings.full:
        yield on(settings.places.disk, settings)


def on(place: Place, settings: Settings) -> Comparison:
    """The comparison with everything on one medium."""
    place.need(2 * settings.size)
    place.touch(2 * settings.size)
    payload = place.payload(settings.size)
    sides = [
        Side("ours", lambda: broadcast(place, payload, ours)),
        Side("ours, process", lambda: command(place, payload)),
        Side("ours, linked, process", lambda: command(place, payload, LINK)),
        Side("shardcast 0.1.0", lambda: broadcast(place, payload, old("0.1.0"))),
        Side("shardcast 0.3.2", lambda: broadcast(place, payload, old("0.3.2"))),
        Side("floor, copy", lambda: floor(place, payload, copy=True)),
        Side("floor, no copy", lambda: floor(place, payload, copy=False)),
    ]
    notes = [
        "seconds: of the call of broadcast(); process: the whole command `shardcast broadcast`; the floors by their own clock."
    ]
    title = f"Publish, {place.name}, {format_size(settings.size)}"
    return Comparison(title, interleave(sides, settings.runs), "ours", settings.size, notes=notes)
