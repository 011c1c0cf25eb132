"""Ways of carrying pieces: Range requests, two-way streams, and requests for what a server hands out.

What asking for a piece and giving it costs both ends *beside its bytes*: the CPU of a run that takes piece by
piece, less that of a run that takes the same bytes by requests for a whole shard, by the same calls. Every
piece is verified by BLAKE3 and written in both.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from harness import GIB, Aim, Case, Comparison, Result, Run, Settings, Side, Skipped, interleave
from namespaces import Network, network
from nodes import linked_copy, origin_words, published
from places import Place
from processes import Running, Usage, program_words, run_command, running

SHARD = 50_000_000
PIECE = 256 << 10
PIECES, HEADS, BATCHES = 3800, 4000, 20_000
"""Units of a run: enough for a process's CPU, which the system counts in hundredths of a second."""
CONNECTIONS = 8
WHOLE, ONE, NONE = 190, 1, 0
"""Pieces of a request: all of the shard, one, none."""
TAKER, GIVERS, RATE, SLOW_PIECES = "taker", [f"giver{number}" for number in range(10)], 200.0, 512
"""Hosts, the rate of each link in Mbit/s, and the pieces of a run."""
WHOLE_DIGEST, MOST = 0.7, 2.5
"""CPU seconds a GiB: of a payload's SHA-256; that a client may take in all."""
MOST_TAKER = MOST - WHOLE_DIGEST
BARE, OURS, NEXT = "bare stream", "our stream", "next pieces"
STREAMS = (BARE, OURS)
CHEAPEST = "requests, asyncio"
"""Carrier of the same bytes in large requests that takes the least CPU."""
BYTES, EACH, HAVES = "the bytes", "piece by piece", "haves"
SLOW_TITLE = "Receiving over slow links"


@dataclass(frozen=True, slots=True)
class Scene:
    """What all runs take: a shard in a data directory, and a folder for what they write."""

    data_dir: Path
    folder: Path

    @property
    def shard(self) -> Path:
        """Return the path of the shard."""
        return self.data_dir / "v1" / "shard_001.bin"

    @property
    def words(self) -> list[str]:
        """Return the last words of a taker's command: the manifest, and the file that it writes."""
        return [str(self.data_dir / "v1" / "manifest.jsonl"), str(self.folder / "output")]


@dataclass(frozen=True, slots=True)
class Carrier:
    """A way of carrying pieces.

    Attributes:
        givers: processes that give.
        words: returns the command of a taker of so many units, by requests for so many pieces.
    """

    givers: Sequence[Running]
    words: Callable[[int, int], list[str]]

    def take(self, count: int, pieces: int) -> Run:
        """Run a taker, and return the CPU of both ends."""
        before = [giver.usage() for giver in self.givers]
        taken = json.loads(run_command(self.words(count, pieces)).output)["cpu"]
        given = [giver.usage().since(earlier) for giver, earlier in zip(self.givers, before, strict=True)]
        both = taken + sum(given, Usage()).cpu_seconds
        detail = {"ms": 1000 * both / count, "taker ms": 1000 * taken / count}
        if pieces:
            detail["taker s/GiB"] = taken * GIB / (count * PIECE)
        return Run(both, both, detail=detail)


def compare(settings: Settings) -> Iterator[Comparison]:
    """Run the case's comparisons, and yield each as it is ready."""
    with prepared(settings.places.memory) as scene:
        with ExitStack() as stack:
            yield asking(carriers(scene, stack), settings)
        try:
            with network(dict.fromkeys((TAKER, *GIVERS), RATE)) as made:
                yield slow_links(scene, made, settings)
        except Skipped as reason:
            yield Comparison(SLOW_TITLE, [Result("all carriers", skipped=str(reason))], plot="")


@contextmanager
def prepared(place: Place) -> Iterator[Scene]:
    """Yield a scene in a place."""
    place.need(4 * SHARD)
    with published(place, place.payload(SHARD)) as data_dir, place.folder("carriers") as folder:
        yield Scene(data_dir, folder)


# Asking and giving, on loopback


def asking(found: Mapping[str, Carrier], settings: Settings) -> Comparison:
    """Compare what asking for a piece costs beside its bytes, and what telling of pieces costs."""
    sides = [
        Side(f"{name}: {what}", partial(carrier.take, count, pieces))
        for name, carrier in found.items()
        for what, count, pieces in (
            (BYTES, PIECES, WHOLE),
            (EACH, PIECES, ONE),
            (HAVES, BATCHES if name in STREAMS else HEADS, NONE),
        )
        if (name, what) not in ((OURS, BYTES), (NEXT, HAVES))  # requests for next pieces tell of others
    ]
    results = interleave(sides, settings.runs)
    aims = []
    for name in found:
        aims.append(Aim(f"{name}: a piece beside its bytes, ms", beside(results, name), most=0.35))
        for haves in (result for result in results if result.name == f"{name}: {HAVES}"):
            aims.append(Aim(f"{name}: a batch of haves, ms", haves.median("ms"), most=0.1))
    notes = [
        f"ms: CPU of both ends for a piece of 256 KiB, or for a batch. {CONNECTIONS} connections, one request"
        f" out on each. {BYTES}: by requests for a whole shard; {EACH}: by a request each, whose cost beside "
        "its bytes is the difference, turn by turn. Every piece is verified by BLAKE3 and written.",
        f"{OURS}, whose requests are for a piece each: beside the bytes by {CHEAPEST}, the cheapest way.",
        f"{HAVES}: on a stream a frame with five ranges of pieces, each sent alone; by requests that of "
        "HEAD, the least that can carry one.",
        f"{NEXT}: those that an origin chooses to hand out (`POST /v1/next`), by the calls of a node.",
    ]
    return Comparison("Asking and giving, loopback", results, aims=aims, notes=notes, plot="")


def carriers(scene: Scene, stack: ExitStack) -> dict[str, Carrier]:
    """Start the givers of this machine, and return the carriers by name."""
    copy = linked_copy(scene.data_dir, scene.folder / "copy")
    origin = stack.enter_context(running(origin_words(copy)))
    giver = stack.enter_context(running(program_words("carrier_stream", "give", str(scene.shard))))
    give = program_words("carrier_swarm", "give", str(scene.shard), "127.0.0.1")
    node = stack.enter_context(running(give))
    return {
        f"requests, {how}": Carrier([origin], partial(request_words, scene, how, [shard_url(origin)]))
        for how in ("asyncio", "threads")
    } | {
        BARE: Carrier([giver], partial(stream_words, scene, [port_of(giver)])),
        OURS: Carrier([node], partial(swarm_words, scene, [f"127.0.0.1:{port_of(node)}"])),
        NEXT: Carrier([origin], partial(next_words, scene, origin.url())),
    }


def beside(results: Sequence[Result], name: str) -> float | None:
    """Return the median of what asking for a piece costs beside its bytes, in ms."""
    by_name = {result.name: result.values("ms") for result in results}
    whole = by_name[f"{CHEAPEST if name == OURS else name}: {BYTES}"]
    pairs = zip(by_name[f"{name}: {EACH}"], whole, strict=False)
    found = [each - whole for each, whole in pairs]
    return statistics.median(found) if found else None


# Receiving over slow links


def slow_links(scene: Scene, made: Network, settings: Settings) -> Comparison:
    """Compare what a client pays that receives from many neighbours over a slow link."""
    with ExitStack() as stack:
        origins, ends, nodes = [], [], []
        for name in GIVERS:
            host = made.hosts[name]
            copy = linked_copy(scene.data_dir, scene.folder / name)
            origins.append(stack.enter_context(running(host.words(*origin_words(copy, host.address)))))
            give = program_words("carrier_stream", "give", str(scene.shard))
            ends.append(stack.enter_context(running(host.words(*give))))
            give = program_words("carrier_swarm", "give", str(scene.shard), host.address)
            nodes.append(stack.enter_context(running(host.words(*give))))
        urls = [shard_url(origin) for origin in origins]

        def places(givers: Sequence[Running]) -> list[str]:
            addresses = (made.hosts[name].address for name in GIVERS)
            return [f"{address}:{port_of(giver)}" for address, giver in zip(addresses, givers, strict=True)]

        ports = places(ends)

        def carrier(givers: Sequence[Running], words: Callable[[int, int], list[str]]) -> Carrier:
            return Carrier(givers, lambda count, pieces: made.hosts[TAKER].words(*words(count, pieces)))

        found = {
            f"requests, {how}": carrier(origins, partial(request_words, scene, how, urls))
            for how in ("asyncio", "threads")
        } | {
            f"{BARE}, woken for every segment": carrier(ends, partial(stream_words, scene, ports, wake=1)),
            BARE: carrier(ends, partial(stream_words, scene, ports)),
            OURS: carrier(nodes, partial(swarm_words, scene, places(nodes))),
        }
        sides = [Side(name, partial(carrier.take, SLOW_PIECES, ONE)) for name, carrier in found.items()]
        results = interleave(sides, settings.runs)
    aims = [
        Aim(f"{result.name}: a taker's CPU, s a GiB", result.median("taker s/GiB"), most=MOST_TAKER)
        for result in results
        if result.name in STREAMS
    ]
    notes = [
        f"{len(GIVERS)} hosts give pieces to one, all links at {RATE:g} Mbit/s, a connection and a request "
        "out each. taker s/GiB: with BLAKE3 and writing, without the whole payload's SHA-256, which takes "
        f"{WHOLE_DIGEST:g} s."
    ]
    return Comparison(SLOW_TITLE, results, aims=aims, notes=notes, plot="")


# Commands


def request_words(scene: Scene, how: str, urls: Sequence[str], count: int, pieces: int) -> list[str]:
    """Return the command of a taker by Range requests."""
    connections = max(CONNECTIONS, len(urls))
    numbers = [str(connections), str(count), str(pieces)]
    return program_words("carrier_requests", how, ",".join(urls), *numbers, *scene.words)


def stream_words(
    scene: Scene, ports: Sequence[str], count: int, pieces: int, *, wake: int = PIECE
) -> list[str]:
    """Return the command of a taker over bare streams."""
    numbers = [str(max(CONNECTIONS, len(ports))), str(count), str(pieces)]
    return program_words("carrier_stream", "take", ",".join(ports), *numbers, *scene.words, str(wake))


def swarm_words(scene: Scene, places: Sequence[str], count: int, pieces: int) -> list[str]:
    """Return the command of a taker over the streams of a swarm."""
    numbers = [str(max(CONNECTIONS, len(places))), str(count), str(pieces)]
    return program_words("carrier_swarm", "take", ",".join(places), *numbers, *scene.words)


def next_words(scene: Scene, url: str, count: int, pieces: int) -> list[str]:
    """Return the command of a taker of pieces that an origin hands out."""
    numbers = [str(CONNECTIONS), str(count), str(pieces)]
    return program_words("carrier_next", url, *numbers, *scene.words)


def shard_url(origin: Running) -> str:
    """Return the URL of an origin's shard."""
    return f"{origin.url()}/v1/shard_001.bin"


def port_of(giver: Running) -> str:
    """Return the port that a giver of streams has printed."""
    giver.wait_for(lambda: giver.output.endswith("\n"), "listening")
    return giver.output.strip()


CASE = Case(
    "carriers", "carrying pieces between neighbours: requests, and two-way streams", compare, quick=False
)
