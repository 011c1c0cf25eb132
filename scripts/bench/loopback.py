"""A payload from one server to a verified file, over loopback: ours, its peers, and the floor."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import peers
from harness import GIB, Aim, Case, Comparison, Result, Run, Settings, Side, interleave, ratio
from nodes import download_words, origin_words, own_seconds, published
from places import Payload, Place
from processes import Ended, Running, program_words, run_command, running, taken_by
from report import format_size

FLOOR_THREADS = 3
"""Connections of the floor: 2 to 4 are alike."""
OUTPUT = "output.bin"
ARIA2 = ["-x10", "-s10", "--file-allocation=none", "--quiet", "--no-conf"]

Clock = Callable[[Ended, Path], tuple[float, float]]
"""From a command that ended and its output, the seconds after start-up, and those of the whole command."""


@dataclass(frozen=True, slots=True)
class Served:
    """The payload as every side finds it."""

    payload: Payload
    data_dir: Path
    place: Place
    origin: Running
    origin_url: str


def compare(settings: Settings) -> Iterator[Comparison]:
    """Run the case's comparisons, and yield each as it is ready."""
    yield on(settings.places.memory, settings)
    if settings.full:
        yield on(settings.places.disk, settings)


def on(place: Place, settings: Settings) -> Comparison:
    """Compare with everything on one medium."""
    place.need(5 * settings.size)
    place.touch(4 * settings.size)
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(serving(place, settings.size))
        web = Web(served, stack)
        sides = [
            ours(served),
            lazily("shardcast 0.1.0", lambda: old("0.1.0", served, stack)),
            lazily("shardcast 0.3.2", lambda: old("0.3.2", served, stack)),
            lazily("aria2c -x10, nginx", lambda: aria2(served, web, checked=False)),
            lazily("aria2c -x10, checked, nginx", lambda: aria2(served, web, checked=True)),
            lazily("curl, nginx", lambda: curl(served, web)),
            floor("floor, our origin", served, served.origin, served.origin_url),
            lazily("floor, nginx", lambda: floor("", served, web.process, web.shards)),
        ]
        results = interleave(sides, settings.runs)
    notes = [
        "seconds: after start-up; ours as the client says, the floor by its own clock, the others' process "
        "less a start that does nothing. process s: the whole command."
    ]
    if not place.in_memory:
        notes.append(
            "All timed until fsync has returned: ours and the floor do it, the others' is sync FILE."
        )
    title = f"Loopback, {place.name}, {format_size(settings.size)}"
    return Comparison(title, results, "ours", settings.size, aims=list(aims(results, place)), notes=notes)


def aims(results: list[Result], place: Place) -> Iterator[Aim]:
    """Yield the aims of ours."""
    if not place.in_memory:
        yield Aim(
            "rate, × aria2c with its check", ratio(results, "aria2c -x10, checked, nginx", "ours"), least=1.5
        )
        return
    yield Aim(
        "rate, × aria2c with its check", ratio(results, "aria2c -x10, checked, nginx", "ours"), least=1.9
    )
    yield Aim("rate, × aria2c without", ratio(results, "aria2c -x10, nginx", "ours"), least=1.0)
    yield Aim("rate, × shardcast 0.1.0", ratio(results, "shardcast 0.1.0", "ours"), least=4.0)
    yield Aim("time, × the floor", ratio(results, "ours", "floor, our origin"), most=1.2)
    at_server = ratio(results, "floor, our origin", "floor, nginx", "server CPU s/GiB")
    yield Aim("server CPU a GiB to the floor, × nginx", at_server, most=1.5)


def lazily(name: str, make: Callable[[], Side]) -> Side:
    """Return a side that is made at its first turn, so that a missing one skips only itself."""
    made: list[Side] = []

    def measure() -> Run:
        if not made:
            made.append(make())
        return made[0].measure()

    return Side(name, measure)


class Web:
    """nginx before the payload and the data directory, started at the first use."""

    def __init__(self, served: Served, stack: contextlib.ExitStack) -> None:
        self._served = served
        self._stack = stack
        self._running: tuple[Running, str] | None = None

    def _start(self) -> tuple[Running, str]:
        """Start nginx."""
        if self._running is None:
            place = self._served.place
            folder = self._stack.enter_context(place.folder("nginx"))
            self._running = self._stack.enter_context(peers.nginx(place.root, folder))
        return self._running

    @property
    def process(self) -> Running:
        """Process of nginx."""
        return self._start()[0]

    @property
    def payload(self) -> str:
        """URL of the payload's file."""
        return f"{self._start()[1]}/{self._served.payload.path.name}"

    @property
    def shards(self) -> str:
        """URL of the data directory."""
        return f"{self._start()[1]}/{self._served.data_dir.name}"


@contextlib.contextmanager
def serving(place: Place, size: int) -> Iterator[Served]:
    """Publish the payload, and run our origin before it."""
    payload = place.payload(size)
    with published(place, payload) as data_dir, running(origin_words(data_dir)) as origin:
        yield Served(payload, data_dir, place, origin, origin.url())


# ── Sides ─────────────────────────────────────────────────────────────────────────────────────────


def timed(served: Served, server: Running, words: Callable[[Path], Sequence[str]], clock: Clock) -> Run:
    """Run a command until its file is right, and measure it together with its server."""
    with served.place.folder("output") as folder:
        output = folder / OUTPUT
        served.place.settle()
        with taken_by(server) as taken:
            ended = run_command(words(output), cwd=folder)
            seconds, process = clock(ended, output)
        served.payload.check(output)
    [at_server] = taken
    both = ended.usage + at_server
    detail = {
        "process s": process,
        "server CPU s/GiB": at_server.cpu_seconds / served.payload.size * GIB,
        "server MB": at_server.peak_memory / 1e6,
        "client MB": ended.usage.peak_memory / 1e6,
    }
    return Run(seconds, both.cpu_seconds, both.peak_memory, detail)


def by_own_clock(ended: Ended, _output: Path) -> tuple[float, float]:
    """Return the seconds that the command printed itself."""
    return own_seconds(ended), ended.seconds


def after_start(place: Place, idle: Sequence[str], cwd: Path | None = None) -> Clock:
    """Return a clock: a process's time until its file is on disk, less that of a start that does nothing."""
    start = min(run_command(idle, cwd=cwd).seconds for _ in range(3))

    def clock(ended: Ended, output: Path) -> tuple[float, float]:
        sync = 0.0 if place.in_memory else run_command(["sync", str(output)]).seconds
        return ended.seconds + sync - start, ended.seconds + sync

    return clock


def ours(served: Served) -> Side:
    """Return the side of our client."""

    def words(output: Path) -> list[str]:
        return download_words([served.origin_url], output)

    return Side("ours", lambda: timed(served, served.origin, words, by_own_clock))


def floor(name: str, served: Served, server: Running, url: str) -> Side:
    """Return a side of bare threads."""
    more = [] if served.place.in_memory else ["--sync"]

    def words(output: Path) -> list[str]:
        return program_words("floor_receive", url, str(output), str(FLOOR_THREADS), *more)

    return Side(name, lambda: timed(served, server, words, by_own_clock))


def aria2(served: Served, web: Web, checked: bool) -> Side:
    """Return a side of aria2c, with a check of the digest or without."""
    program, process, url = peers.tool("aria2c"), web.process, web.payload
    clock = after_start(served.place, [program, "--version"])
    options = [*ARIA2, f"--checksum=sha-256={served.payload.sha256}"] if checked else ARIA2

    def words(output: Path) -> list[str]:
        return [program, *options, "--dir", str(output.parent), "--out", output.name, url]

    return Side("aria2c", lambda: timed(served, process, words, clock))


def curl(served: Served, web: Web) -> Side:
    """Return the side of curl."""
    program, process, url = peers.tool("curl"), web.process, web.payload
    clock = after_start(served.place, [program, "--version"])

    def words(output: Path) -> list[str]:
        return [program, "--silent", "--show-error", "--fail", "--output", str(output), url]

    return Side("curl", lambda: timed(served, process, words, clock))


def old(version: str, served: Served, stack: contextlib.ExitStack) -> Side:
    """Return a side of a published shardcast's client and origin, over the same shards."""
    shardcast = peers.OldShardcast(version)
    folders = [stack.enter_context(served.place.folder(name)) for name in ("old-data", "old-origin", "old")]
    data_dir, at_origin, home = folders
    peers.lay_out_old(version, served.data_dir, served.payload, data_dir)
    server = stack.enter_context(shardcast.origin(data_dir, at_origin))
    url = server.url()
    clock = after_start(served.place, shardcast.words(home, "client", "--help"), home)

    def words(output: Path) -> list[str]:
        options = ["--servers", url, "--version", "v1", "--output-dir", str(output.parent)]
        return shardcast.words(home, "client", *options, "--output-file", str(output))

    return Side(version, lambda: timed(served, server, words, clock))


CASE = Case(
    "loopback", "one server to a verified file over loopback, in memory; with --full on disk too", compare
)
