"""Latency from ``broadcast()`` of a small payload to its verified file at a client behind two middles."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import random

import peers
from harness import MIB, Aim, Case, Comparison, Run, Settings, Side, Skipped, expect, interleave
from places import Place, digest
from processes import Running, client_words, program_words, run_command, running, shardcast_words

SIZE = MIB
CHECK_INTERVAL = 0.1
"""Seconds between two looks of our middles at their upstream; those of 0.1.0 take whole seconds only."""
CLIENT_INTERVAL = 0.05
"""Seconds between two looks of a client that looks."""
TIMES = 2
"""Broadcasts for each run asked for: they are quick, and looking makes them differ."""
PATIENCE = 60.0
FOLLOW = "--follow"


@dataclass(frozen=True, slots=True)
class Network:
    """An origin, two middles in a row, and a client that fetches every version as it comes.

    The origin broadcasts each path that it reads, and prints the version and the time of its start; the
    client prints each version once it is verified, in ``outputs/download_<version>.bin``.
    """

    origin: Running
    client: Running
    outputs: Path


def compare(settings: Settings) -> Iterator[Comparison]:
    """Run the case's comparisons, and yield each as it is ready."""
    place = settings.places.memory
    with ExitStack() as stack:
        sides = [
            once(
                f"ours, looking each {CHECK_INTERVAL:g} s", partial(ours, stack, place, follow=False), place
            ),
            once("ours, following", partial(ours, stack, place, follow=True), place),
            once("shardcast 0.1.0, looking each 1 s", partial(old, stack, place), place),
        ]
        results = interleave(sides, TIMES * settings.runs)
    notes = ["from the call of broadcast() to the verified file at a client behind two middles."]
    aims = [Aim("a client that follows, s", results[1].median(), most=0.1)]
    title = "Latency of 1 MiB through two middles"
    yield Comparison(title, results, sides[0].name, aims=aims, notes=notes)


def once(name: str, start: Callable[[], Network], place: Place) -> Side:
    """Return a side whose network is started at its first turn."""
    started: list[Network] = []

    def measure() -> Run:
        if not started:
            started.append(start())
        return one_broadcast(started[0], place)

    return Side(name, measure)


def one_broadcast(network: Network, place: Place) -> Run:
    """Broadcast a small file through a network, and measure."""
    with place.folder("payload") as folder:
        payload = folder / "payload.bin"
        payload.write_bytes(os.urandom(SIZE))
        time.sleep(random())  # or it would come just after they looked
        before = network.origin.output.count("\n")
        network.origin.tell(str(payload))
        wait(network.origin, lambda: network.origin.output.count("\n") > before, "a broadcast")
        version, started, _ = network.origin.output.splitlines()[-1].split()
        wait(network.client, lambda: named(version, network.client.output), version)
        seconds = time.monotonic() - float(started)
        output = network.outputs / f"download_{version}.bin"
        expect(digest(output) == digest(payload), f"{output.name} has not the payload's digest")
    return Run(seconds)


def wait(process: Running, ready: Callable[[], bool], what: str) -> None:
    """Wait until ``ready()``, to a millisecond."""
    deadline = time.monotonic() + PATIENCE
    while not ready():
        expect(process.process.poll() is None, f"it ended before {what}: {process.errors[-500:]}")
        expect(time.monotonic() < deadline, f"no {what} within {PATIENCE:g} s")
        time.sleep(0.001)


def named(version: str, output: str) -> bool:
    """Return whether a client has printed a version, bare, in JSON or in a path."""
    return any(word in output for word in (f"{version}\n", f'"{version}"', f"_{version}.bin"))


# ── Networks ──────────────────────────────────────────────────────────────────────────────────────


def ours(stack: ExitStack, place: Place, follow: bool) -> Network:
    """Start a network of this shardcast."""
    if follow and FOLLOW not in run_command(client_words("--help")).output:
        raise Skipped(f"this shardcast's client has no {FOLLOW}")
    root = stack.enter_context(place.folder("network"))
    outputs = root / "outputs"
    origin = stack.enter_context(
        running(program_words("node", "ours", "origin", str(root / "origin")), told=True)
    )
    url = origin.url()
    for name in ("middle-1", "middle-2"):
        words = ["--upstream", url, "--data-dir", str(root / name), "--host", "127.0.0.1", "--port", "0"]
        interval = [] if follow else ["--check-interval", str(CHECK_INTERVAL)]
        url = stack.enter_context(running(shardcast_words("middle", *words, *interval))).url()
    if follow:
        command = client_words("--servers", url, FOLLOW, "--output-dir", str(outputs), "--quiet")
    else:
        command = program_words("node", "ours", "follow", url, str(outputs), str(CLIENT_INTERVAL))
    return Network(origin, stack.enter_context(running(command)), outputs)


def old(stack: ExitStack, place: Place) -> Network:
    """Start a network of shardcast 0.1.0."""
    shardcast = peers.OldShardcast("0.1.0")

    def start(*words: str) -> Running:
        home = stack.enter_context(place.folder("old"))
        return stack.enter_context(running(shardcast.words(home, *words), cwd=home, told=True))

    root = stack.enter_context(place.folder("network"))
    outputs = root / "outputs"
    origin = start("origin", str(root / "origin"))
    first = start("middle", str(root / "middle-1"), "1", origin.url())
    second = start("middle", str(root / "middle-2"), "1", first.url())
    return Network(origin, start("follow", second.url(), str(outputs), str(CLIENT_INTERVAL)), outputs)


CASE = Case("latency", "from broadcast() of 1 MiB to a verified file behind two middles", compare)
