"""A thousand idle followers of one origin: what each costs, and how soon news reaches all of them.

The followers are bare connections to the feed, all in one process. The origin has published and told one
follower, and that process is ready, but has no connection, when the origin's memory is looked at first. It is
looked at again once each of them has been told what there is, and the origin's CPU is taken while nothing
happens, for two heartbeats. Then tiny payloads are broadcast, one after the other.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from harness import Aim, Case, Comparison, Run, Settings, Side, interleave
from places import Place
from processes import Running, program_words, running, taken_by

from shardcast.constants import FEED_HEARTBEAT

COUNT = 1000
IDLE = 2 * FEED_HEARTBEAT
"""Seconds that the origin is watched while nothing happens."""
BROADCASTS = 5
"""In a run, the median of which counts."""
SIZE = 1000
QUICK_RUNS = 1
SETTLING = 0.5
"""Seconds between what is asked of the origin and a look at it."""


@dataclass(frozen=True, slots=True)
class Told:
    """Times of a broadcast, in seconds from the call of broadcast().

    Attributes:
        returned: until it returned.
        first: until the first follower knew that the version is complete.
        last: until the last one knew.
    """

    returned: float
    first: float
    last: float


def compare(settings: Settings) -> Iterator[Comparison]:
    """Run the case's comparisons, and yield each as it is ready."""
    place = settings.places.memory
    runs = settings.runs if settings.full else min(settings.runs, QUICK_RUNS)
    results = interleave([Side("ours", partial(followed, place))], runs, warm_ups=0)
    aims = [
        Aim("origin's memory for a follower, KB", results[0].median("KB each"), most=64),
        Aim("until the last one is told, s", results[0].median(), most=1),
    ]
    yield Comparison(f"{COUNT} idle followers of one origin", results, plot="", aims=aims, notes=notes())


def notes() -> list[str]:
    """Return what a reader must know to judge the figures."""
    return [
        "seconds: from the call of broadcast() of a kilobyte until the last follower has been told that the "
        f"version is complete; median of {BROADCASTS}.",
        "one: the same with a single follower. returned: until broadcast() returned. first: until the first "
        "was told.",
        "KB each: what the origin's resident memory grew by; PSS: with shared pages counted in part. What "
        "the kernel keeps for its sockets is in neither.",
        f"CPU s a minute: the origin's while nothing happens, taken over {IDLE:g} s.",
    ]


def followed(place: Place) -> Run:
    """Run an origin and its followers, and measure both."""
    with ExitStack() as stack:
        folder = stack.enter_context(place.folder("followers"))
        origin = stack.enter_context(running(origin_words(folder), told=True))
        one, crowd = (
            stack.enter_context(running(follower_words(origin.url(), count), told=True))
            for count in (1, COUNT)
        )
        return figures(origin, folder, one, crowd, count=COUNT)


def origin_words(folder: Path) -> list[str]:
    """Return the command of an origin that broadcasts each file that it reads on stdin."""
    return program_words("node", "ours", "origin", str(folder / "origin"))


def follower_words(url: str, count: int) -> list[str]:
    """Return the command of a process with so many followers."""
    return program_words("followers", url, str(count))


def figures(origin: Running, folder: Path, one: Running, crowd: Running, *, count: int) -> Run:
    """Measure an origin with ``count`` followers.

    Args:
        origin: the origin's process.
        folder: folder for payloads.
        one: process with a single follower.
        crowd: process with all the others.
        count: number of followers in ``crowd``.
    """
    for process in (one, crowd):
        process.wait_for_output("ready")
    follow(one)
    alone = [broadcast(origin, one, folder) for _ in range(BROADCASTS)]
    before = origin.memory()
    follow(crowd)
    after = origin.memory()
    with taken_by(origin) as idle:
        time.sleep(IDLE)
    times = [broadcast(origin, crowd, folder) for _ in range(BROADCASTS)]
    detail = {
        "KB each": (after.resident - before.resident) / count / 1e3,
        "PSS KB each": (after.proportional - before.proportional) / count / 1e3,
        "CPU s a minute": idle[0].cpu_seconds * 60 / IDLE,
        "one": statistics.median(each.last for each in alone),
        "returned": statistics.median(each.returned for each in times),
        "first": statistics.median(each.first for each in times),
    }
    return Run(statistics.median(each.last for each in times), detail=detail)


def follow(crowd: Running) -> float:
    """Let the followers connect, wait until each knows the present versions, and return the seconds."""
    started = time.monotonic()
    crowd.tell("follow")
    crowd.wait_for_output("following")
    seconds = time.monotonic() - started
    time.sleep(SETTLING)
    return seconds


def broadcast(origin: Running, crowd: Running, folder: Path) -> Told:
    """Broadcast a small file to followers, and return the times."""
    payload = folder / "payload.bin"
    payload.write_bytes(os.urandom(SIZE))
    before = origin.output.count("\n")
    origin.tell(str(payload))
    origin.wait_for(lambda: origin.output.count("\n") > before, "a broadcast")
    version, began, took = origin.output.splitlines()[-1].split()
    crowd.wait_for_output(f'"{version}"')
    printed = json.loads(crowd.output.splitlines()[-1])
    time.sleep(SETTLING)
    return Told(float(took), printed["first"] - float(began), printed["last"] - float(began))


CASE = Case("followers", "a thousand idle followers of one origin: memory, and news to all", compare)
