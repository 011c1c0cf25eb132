"""Growth of memory and CPU with the payload, with connected readers, and with clients at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import peers
from harness import GIB, Aim, Case, Comparison, Result, Run, Settings, Side, Skipped, expect, interleave
from nodes import download_words, origin_words, own_seconds, publish, published
from places import Payload, Place, digest
from processes import Running, program_words, run_command, running, taken_by
from report import format_size

from shardcast.constants import SHARD_SIZE

PARTS = (1 / 16, 1 / 4, 1, 4, 8)
"""Payloads, as parts of the size that was asked for."""
READERS = (1, 10, 100, 1000)
CLIENTS = 50
"""In each of two processes."""


def compare(settings: Settings) -> Iterator[Comparison]:
    """Run the case's comparisons, and yield each as it is ready."""
    yield with_the_payload(settings)
    yield with_readers(settings)
    yield with_clients(settings)


# ── With the payload ──────────────────────────────────────────────────────────────────────────────


def with_the_payload(settings: Settings) -> Comparison:
    """Compare payloads of several sizes, each published and downloaded by a client."""
    results: list[Result] = []
    for size in (int(settings.size * part) for part in PARTS):
        try:
            place = settings.places.roomy(2 * size)
        except Skipped as reason:
            results.append(Result(format_size(size), skipped=str(reason)))
            continue
        with place.folder("growth") as folder:
            results += published_and_read(place, folder, size, settings.runs if size <= GIB else 1)
    base = next(result for result in results if result.name == format_size(settings.size))
    aims = []
    for name in ("client", "origin", "publish"):
        peak, at_base = largest(results, f"{name} MB"), base.median(f"{name} MB")
        above = None if peak is None or at_base is None else peak - at_base
        aims.append(Aim(f"{name}: memory at the most, MB", peak, most=120))
        aims.append(Aim(f"{name}: the same above that at {base.name}, MB", above, most=20))
    notes = ["10 connections; publish: shardcast broadcast into a data directory. CPU of client and origin."]
    return Comparison("Growth with the payload", results, plot="client MB", aims=aims, notes=notes)


def largest(results: list[Result], name: str) -> float | None:
    """Return the largest figure of a name in all runs; None where there is none."""
    return max((value for result in results for value in result.values(name)), default=None)


def published_and_read(place: Place, folder: Path, size: int, runs: int) -> list[Result]:
    """Measure publishing and one client for a payload of ``size`` bytes."""
    payload, data_dir, output = place.payload(size), folder / "data", folder / "output.bin"
    published = publish(payload, data_dir)
    place.drop_payload(size)  # its room is needed

    def measure() -> Run:
        # An origin that is new: its memory shall not be what an earlier run left.
        with running(origin_words(data_dir)) as origin:
            words = download_words([origin.url()], output)
            with taken_by(origin) as taken:
                ended = run_command(words)
        payload.check(output)
        output.unlink()
        both = ended.usage + taken[0]
        detail = {
            "CPU s/GiB": both.cpu_seconds / size * GIB,
            "client MB": ended.usage.peak_memory / 1e6,
            "origin MB": taken[0].peak_memory / 1e6,
            "publish MB": published.usage.peak_memory / 1e6,
            "publish CPU s/GiB": published.usage.cpu_seconds / size * GIB,
        }
        return Run(own_seconds(ended), both.cpu_seconds, both.peak_memory, detail)

    return interleave([Side(format_size(size), measure)], runs, warm_ups=0)


# ── With readers ──────────────────────────────────────────────────────────────────────────────────


def with_readers(settings: Settings) -> Comparison:
    """Compare 1 to 1000 readers at once of one server, which read the same bytes together."""
    place, size = settings.places.memory, settings.size
    with ExitStack() as stack:
        payload = place.payload(SHARD_SIZE)
        data_dir = stack.enter_context(published(place, payload))
        shard = "v1/shard_001.bin"
        origin = stack.enter_context(running(origin_words(data_dir)))
        servers: dict[str, tuple[Running, str]] = {"ours": (origin, f"{origin.url()}/{shard}")}
        results: list[Result] = []
        try:
            web, url = stack.enter_context(peers.nginx(data_dir, stack.enter_context(place.folder("nginx"))))
            servers["nginx"] = web, f"{url}/{shard}"
        except Skipped as reason:
            results.append(Result("nginx", skipped=str(reason)))
        for count in READERS:
            sides = [
                Side(
                    f"{name}, {count}",
                    partial(readers, server, url, count=count, size=size, length=payload.size),
                )
                for name, (server, url) in servers.items()
            ]
            results += interleave(sides, settings.runs)
    notes = ["CPU and memory are the server's alone. The readers do nothing with what they get."]
    title = f"Growth with connected readers, {format_size(size)} together"
    return Comparison(title, results, payload=size, plot="peak_memory", notes=notes)


def readers(server: Running, url: str, *, count: int, size: int, length: int) -> Run:
    """Run ``count`` connections that together read ``size`` bytes of a file of ``length`` bytes."""
    with taken_by(server) as taken:
        ended = run_command(program_words("readers", url, str(count), str(size // count), str(length)))
    return Run(own_seconds(ended), taken[0].cpu_seconds, taken[0].peak_memory)


# ── With clients ──────────────────────────────────────────────────────────────────────────────────


def with_clients(settings: Settings) -> Comparison:
    """Compare a hundred clients in two processes at one server, all at once."""
    size = settings.size // 16
    place = settings.places.roomy(2 * CLIENTS * size)
    payload = place.payload(size)
    with published(place, payload) as data_dir, running(origin_words(data_dir)) as origin:
        name = f"{2 * CLIENTS} clients, {format_size(size)} each"
        results = interleave([Side(name, lambda: crowd(place, payload, origin))], min(settings.runs, 3))
    aims = [
        Aim("slowest client's time, × the fastest's", results[0].median("slowest/fastest"), most=2),
        Aim("server's memory, MB", largest(results, "server MB"), most=200),
        Aim("a client process's memory, MB", largest(results, "clients MB"), most=200),
    ]
    title = "A hundred clients in two processes at one server"
    notes = [
        f"every client verifies into a file of its own, on {place.name}. clients MB: the larger process."
    ]
    return Comparison(title, results, payload=2 * CLIENTS * size, plot="", aims=aims, notes=notes)


def crowd(place: Place, payload: Payload, origin: Running) -> Run:
    """Run the clients of both processes, and measure server and clients."""
    with place.folder("crowd") as folder, ExitStack() as stack:
        processes = []
        for name in ("a", "b"):
            (folder / name).mkdir()
            words = program_words("crowd", origin.url(), str(CLIENTS), str(folder / name))
            process = stack.enter_context(running(words, told=True))
            process.wait_for_output("ready")
            processes.append(process)
        with taken_by(origin) as taken:
            for process in processes:
                process.tell("go")
            ended = [process.wait() for process in processes]
        for process in ended:
            expect(process.code == 0, f"clients ended with {process.code}: {process.errors[-500:]}")
        seconds = [
            value for process in ended for value in json.loads(process.output.splitlines()[-1])["seconds"]
        ]
        outputs = sorted(folder.glob("*/*.bin"))
        expect(len(outputs) == 2 * CLIENTS, f"{len(outputs)} of {2 * CLIENTS} clients finished")
        wrong = [output for output in outputs if digest(output) != payload.blake3]
        expect(not wrong, f"{len(wrong)} clients have not the payload's digest")
    usage = sum((process.usage for process in ended), taken[0])
    detail = {
        "slowest/fastest": max(seconds) / min(seconds),
        "server MB": taken[0].peak_memory / 1e6,
        "clients MB": max(process.usage.peak_memory for process in ended) / 1e6,
    }
    return Run(max(seconds), usage.cpu_seconds, usage.peak_memory, detail)


CASE = Case(
    "growth", "memory and CPU by payload, connected readers, and clients at once", compare, quick=False
)
