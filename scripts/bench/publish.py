"""Publishing a payload: ours, the older shardcasts, and the floors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import peers
from harness import Aim, Case, Comparison, Result, Run, Settings, Side, Skipped, expect, interleave, ratio
from places import Payload, Place, digest
from processes import Ended, program_words, run_command, running, shardcast_words, taken_by
from report import format_size

from shardcast.constants import SHARD_SIZE

LINK = "--link"
PATIENCE = 600.0
"""Seconds that publishing may take."""


def compare(settings: Settings) -> Iterator[Comparison]:
    """Run the case's comparisons, and yield each as it is ready."""
    yield on(settings.places.memory, settings)
    if settings.full:
        yield on(settings.places.disk, settings)


def on(place: Place, settings: Settings) -> Comparison:
    """Compare with everything on one medium."""
    place.need(2 * settings.size)
    place.touch(2 * settings.size)
    payload = place.payload(settings.size)
    sides = [
        Side("ours, copy", lambda: library(place, payload, "ours")),
        Side("ours, link", lambda: library(place, payload, "ours", LINK)),
        Side("shardcast 0.1.0", lambda: library(place, payload, "0.1.0")),
        Side("shardcast 0.3.2", lambda: library(place, payload, "0.3.2")),
        Side("floor, copy", lambda: floor(place, payload, copy=True)),
        Side("floor, no copy", lambda: floor(place, payload, copy=False)),
    ]
    if settings.full:
        sides.append(Side("ours, shardcast broadcast", lambda: command(place, payload)))
    results = interleave(sides, settings.runs)
    notes = [
        "seconds: of OriginServer.broadcast(); shardcast broadcast: the whole command; the floors: by their "
        "own clock."
    ]
    if not place.in_memory:
        notes.append(
            "All timed until fsync has returned: ours and the floors do it, the others' is sync FILE…."
        )
    title = f"Publish, {place.name}, {format_size(settings.size)}"
    return Comparison(title, results, "ours, copy", settings.size, aims=list(aims(results)), notes=notes)


def aims(results: list[Result]) -> Iterator[Aim]:
    """Yield the aims of ours."""
    yield Aim("time by copy, × its floor", ratio(results, "ours, copy", "floor, copy"), most=1.2)
    yield Aim("time by link, × its floor", ratio(results, "ours, link", "floor, no copy"), most=1.2)


def library(place: Place, payload: Payload, version: str, *options: str) -> Run:
    """Measure ``OriginServer.broadcast``, which has the same name in all versions."""
    if LINK in options and LINK not in run_command(shardcast_words("broadcast", "--help")).output:
        raise Skipped(f"this shardcast has no {LINK}")
    with place.folder("data") as data_dir, place.folder("old") as home:
        words = program_words("node", "ours", "origin", str(data_dir), *options)
        if version != "ours":
            words = peers.OldShardcast(version).words(home, "origin", str(data_dir))
        place.settle()
        with running(words, cwd=home, told=True) as origin:
            origin.url()
            with taken_by(origin) as taken:
                origin.tell(str(payload.path))
                origin.wait_for(lambda: origin.output.endswith("\n"), "publishing", PATIENCE)
            seconds = float(origin.output.split()[-1])
            if version != "ours" and not place.in_memory:
                seconds += run_command(["sync", *map(str, data_dir.glob("v1/*"))]).seconds
        check(data_dir, payload, copied=not options)
        return Run(seconds, taken[0].cpu_seconds, taken[0].peak_memory)


def command(place: Place, payload: Payload) -> Run:
    """Measure ``shardcast broadcast`` where no origin runs."""
    with place.folder("data") as data_dir:
        place.settle()
        words = ["broadcast", str(payload.path), "--data-dir", str(data_dir), "--quiet"]
        ended = run_command(shardcast_words(*words))
        check(data_dir, payload)
        return figures(ended, ended.seconds)


def floor(place: Place, payload: Payload, copy: bool) -> Run:
    """Measure bare threads that compute the same digests."""
    with place.folder("floor") as folder:
        place.settle()
        target = str(folder) if copy else "-"
        ended = run_command(program_words("floor_publish", str(payload.path), target, str(SHARD_SIZE)))
        printed = json.loads(ended.output)
        expect(printed["sha256"] == payload.sha256, "the floor computed another digest")
        return figures(ended, printed["seconds"])


def figures(ended: Ended, seconds: float) -> Run:
    """Return the figures of a process that printed its own seconds."""
    return Run(seconds, ended.usage.cpu_seconds, ended.usage.peak_memory)


def check(data_dir: Path, payload: Payload, copied: bool = True) -> None:
    """Check that the published version is the payload.

    Raises:
        Failed: it is not.
    """
    listed = (data_dir / "distribution.txt").read_text()
    expect(payload.sha256 in listed or payload.blake3 in listed, f"the list is wrong: {listed}")
    if not copied:
        return
    shards = sorted((data_dir / "v1").glob("shard_*.bin"), key=lambda shard: (len(shard.name), shard.name))
    expect(digest(*shards) == payload.blake3, "the shards are not the payload")


CASE = Case("publish", "publishing by copy and by link, in memory; with --full on disk too", compare)
