"""Blobs: our hash server beside hashserver 1.0.2, each in a process of its own, and our archive's pulls.

Both serve the same kind of directory, by prefix, under SHA-256, and meet the same client, which shares the
processor with them. hashserver runs as its command does, under uvicorn.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path

import store_servers
from harness import GIB, Aim, Case, Comparison, Result, Run, Settings, Side, interleave, ratio
from loopback import lazily
from places import Payload, Place
from report import format_size
from store_servers import Server

OURS, THEIRS, COPIED = "ours", "hashserver 1.0.2", ", copied"
KIB = 1 << 10
CONNECTIONS = 16
PULLED = 1280
ASKED, TIMES = 1000, 20
"""Blobs that are asked for at a time, and how often in a run; a pull is asked for as often."""


def both(
    stack: ExitStack,
    roots: Callable[[str], Path],
    measure: Callable[[Server], Run],
    check: Callable[[Server], object] = lambda _server: None,
    *,
    writable: bool = True,
    more: str = "",
) -> list[Side]:
    """Return the two sides, with ``more`` in their names.

    Each server starts at its first turn, over ``roots(name)``, and is checked.
    """

    def side(name: str, start: Callable[..., AbstractContextManager[Server]]) -> Side:
        def make() -> Side:
            server = stack.enter_context(start(roots(name), writable))
            check(server)
            return Side(name, lambda: measure(server))

        return lazily(name, make)

    return [side(OURS + more, store_servers.ours), side(THEIRS + more, store_servers.hashserver)]


def faster(what: str, results: Sequence[Result], least: float) -> Aim:
    """Return the aim to be faster than hashserver."""
    return Aim(f"{what}, × hashserver's rate", ratio(results, THEIRS, OURS), least=least)


# ── A large blob ──────────────────────────────────────────────────────────────────────────────────


def compare_large(settings: Settings) -> Iterator[Comparison]:
    """Run the case's comparisons, and yield each as it is ready."""
    place, size = settings.places.memory, settings.size
    place.need(3 * size)
    place.touch(3 * size)
    payload = place.payload(size)
    yield get_large(place, payload, settings.runs, first=False)
    yield get_large(place, payload, settings.runs, first=True)
    yield put_large(place, payload, settings.runs)


def get_large(place: Place, payload: Payload, runs: int, first: bool) -> Comparison:
    """Compare GETs of a blob whose file was verified before, or (``first``) changed since then."""

    def get(server: Server, how: str) -> Run:
        if first:
            os.utime(payload.path)
        return server.ask("get", payload.sha256, str(payload.size), how)

    with ExitStack() as stack:

        def filled(_name: str) -> Path:
            root = stack.enter_context(place.folder("blobs"))
            store_servers.keep(payload, root)
            return root

        sides: list[Side] = []
        for how, more in (("discarded", ""), ("copied", COPIED)):
            check = partial(get, how="checked")
            sides += both(stack, filled, partial(get, how=how), check, more=more)
        results = interleave(sides, runs)
    which, least = ("the first", 1.5) if first else ("later ones", 2)
    copied = ratio(results, THEIRS + COPIED, OURS + COPIED)
    notes = [
        *([f"copied, ours is at {copied:.2f} × hashserver's rate."] if copied else []),
        "CPU and memory are the server's alone. The client has the system discard what comes; copied: it "
        "has it copied, as curl would, which takes more of the processor that it shares with the server.",
        *(["The file is one that was not verified: ours hashes it before it answers."] if first else []),
    ]
    title = f"GET of a blob of {format_size(payload.size)}, {which}"
    aims = [faster(which, results, least)]
    return Comparison(title, results, OURS, payload.size, aims=aims, notes=notes)


def put_large(place: Place, payload: Payload, runs: int) -> Comparison:
    """Compare PUTs of a blob."""

    def put(server: Server) -> Run:
        server.file(payload.sha256).unlink(missing_ok=True)  # its memory is touched, and used again at once
        run = server.ask("put", payload.sha256, str(payload.path))
        payload.check(server.file(payload.sha256))
        return run

    with ExitStack() as stack:
        results = interleave(both(stack, _new_folders(stack, place), put), runs)
    title = f"PUT of a blob of {format_size(payload.size)}"
    notes = ["CPU and memory are the server's alone."]
    return Comparison(title, results, OURS, payload.size, aims=[faster("PUT", results, 1.5)], notes=notes)


def _new_folders(stack: ExitStack, place: Place) -> Callable[[str], Path]:
    """Return a function that makes a new folder for each side."""
    return lambda _name: stack.enter_context(place.folder("blobs"))


# ── Many small ones ───────────────────────────────────────────────────────────────────────────────


def compare_small(settings: Settings) -> Iterator[Comparison]:
    """Run the case's comparisons, and yield each as it is ready."""
    place, count = settings.places.memory, scaled(10_000, settings)
    payload = place.payload(count * KIB)
    words = (str(CONNECTIONS), str(KIB), str(payload.path))

    def put(server: Server) -> Run:
        for file in server.root.glob("[0-9a-f][0-9a-f]/*"):
            file.unlink()
        return server.ask("many", *words, method="put")

    notes = [f"over {CONNECTIONS} connections. CPU and memory are the server's alone."]
    with ExitStack() as stack:
        results = interleave(both(stack, _new_folders(stack, place), put), settings.runs)
        aims = [faster("PUT", results, 2)]
        yield Comparison(f"PUT of {count} blobs of 1 KiB", results, OURS, aims=aims, notes=notes)
    with ExitStack() as stack:
        root = stack.enter_context(place.folder("blobs"))
        store_servers.keep_all(payload, KIB, root)
        sides = both(stack, lambda _name: root, lambda server: server.ask("many", *words, method="get"))
        results = interleave(sides, settings.runs)
        aims = [faster("GET", results, 2)]
        yield Comparison(f"GET of {count} blobs of 1 KiB", results, OURS, aims=aims, notes=notes)


# ── Which are there ───────────────────────────────────────────────────────────────────────────────


def compare_has(settings: Settings) -> Iterator[Comparison]:
    """Run the case's comparisons, and yield each as it is ready."""
    count = scaled(1_000_000, settings)
    place = store_servers.with_names(settings.places, count)
    with ExitStack() as stack:
        root = stack.enter_context(place.folder("names"))
        store_servers.keep_names(count, root)
        words = (str(count), str(ASKED), str(TIMES))
        sides = both(stack, lambda _name: root, lambda server: server.ask("has", *words), writable=False)
        results = interleave(sides, settings.runs)
    memory = [run.peak_memory / 1e6 for run in results[0].figures if run.peak_memory]
    aims = [
        faster("/has", results, 3),
        Aim("our server's memory, MB", max(memory, default=None), most=100),
    ]
    notes = [
        f"seconds: for one /has of {ASKED}, half of which are there, the mean of {TIMES}, each of others. "
        "CPU: of the server, for all of them."
    ]
    title = f"/has of {ASKED} blobs among {count}, {place.name}"
    yield Comparison(title, results, OURS, aims=aims, notes=notes)


# ── A pull ────────────────────────────────────────────────────────────────────────────────────────


def compare_pull(settings: Settings) -> Iterator[Comparison]:
    """Run the case's comparisons, and yield each as it is ready."""
    place = settings.places.memory
    payload = place.payload(PULLED * KIB)
    with ExitStack() as stack:
        root = stack.enter_context(place.folder("blobs"))
        store_servers.keep_all(payload, KIB, root)
        server = stack.enter_context(store_servers.archive(root))
        length, path = str(KIB), str(payload.path)
        sides = [
            Side("one pull", lambda: server.ask("pull", length, path, str(TIMES))),
            Side(
                f"GETs, {CONNECTIONS} connections",
                lambda: server.ask("many", str(CONNECTIONS), length, path, method="get"),
            ),
            Side("GETs, one connection", lambda: server.ask("many", "1", length, path, method="get")),
        ]
        results = interleave(sides, settings.runs)
    aims = [
        Aim(f"a pull's blobs a second, × those of {name}", ratio(results, name, sides[0].name), least=10)
        for name in (side.name for side in sides[1:])
    ]
    notes = [f"seconds: of a pull, the mean of {TIMES}; CPU is for all of them, and the archive's alone."]
    title = f"{PULLED} blobs of 1 KiB from an archive"
    yield Comparison(title, results, sides[0].name, aims=aims, notes=notes)


def scaled(count: int, settings: Settings) -> int:
    """Return ``count`` with the usual payload, and less with a smaller one."""
    return max(10 * CONNECTIONS, count * min(settings.size, GIB) // GIB)


CASES = (
    Case("blobs-large", "GET and PUT of a large blob, beside hashserver", compare_large, quick=False),
    Case("blobs-small", "10 000 blobs of 1 KiB, beside hashserver", compare_small, quick=False),
    Case("blobs-has", "/has among a million blobs, beside hashserver", compare_has, quick=False),
    Case("blobs-pull", "a pull from an archive, beside single GETs", compare_pull, quick=False),
)
