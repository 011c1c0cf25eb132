"""TLS beside plain HTTP: a payload to a verified file, and a thousand idle followers of one origin.

The certificate is one that ``openssl`` makes, signed by itself, and the CA that the readers trust.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from followers import COUNT, follow, follower_words
from harness import Aim, Case, Comparison, Run, Settings, Side, interleave, ratio
from loopback import Served, by_own_clock, timed
from nodes import download_words, origin_words, published
from places import Place
from processes import run_command, running
from report import format_size

FEW = 20
"""Followers before the first look at the origin's memory: the first ones load code."""
SMALL = 1 << 20
"""Bytes of the version that idle followers are told of."""


def compare(settings: Settings) -> Iterator[Comparison]:
    """Run the case's comparisons, and yield each as it is ready."""
    yield downloads(settings.places.memory, settings)
    yield idle(settings.places.memory, settings)


def downloads(place: Place, settings: Settings) -> Comparison:
    """Compare downloads in turn, of the same data directory's copies."""
    place.need(4 * settings.size)
    place.touch(3 * settings.size)
    with contextlib.ExitStack() as stack:
        sides = [
            side(name, stack.enter_context(serving(place, settings.size, secure=secure)))
            for name, secure in (("plain", False), ("TLS", True))
        ]
        results = interleave(sides, settings.runs)
    aims = [
        Aim("CPU of both ends, × plain", ratio(results, "TLS", "plain", "cpu_seconds"), most=1.45),
        Aim("rate, × plain", ratio(results, "plain", "TLS"), least=0.6),
    ]
    title = f"TLS, loopback, {place.name}, {format_size(settings.size)}"
    return Comparison(title, results, "plain", settings.size, aims=aims)


def idle(place: Place, settings: Settings) -> Comparison:
    """Compare what followers cost an origin in memory."""
    sides = [
        Side(name, partial(followers_of, place, secure=secure))
        for name, secure in (("plain", False), ("TLS", True))
    ]
    results = interleave(sides, settings.runs if settings.full else 1, warm_ups=0)
    by_name = {result.name: result for result in results}
    aims = [Aim("origin's memory for a TLS follower, KB", by_name["TLS"].median("KB each"), most=100)]
    notes = [
        "seconds: until all of them follow. KB each: what the origin's resident memory grew by; what the "
        "kernel keeps for its sockets is not in it."
    ]
    return Comparison(f"{COUNT} idle followers over TLS", results, plot="", aims=aims, notes=notes)


@contextlib.contextmanager
def serving(place: Place, size: int, *, secure: bool) -> Iterator[tuple[Served, Path | None]]:
    """Publish a payload, and run an origin before it; yield them, and the CA of its certificate."""
    payload = place.payload(size)
    with contextlib.ExitStack() as stack:
        data_dir = stack.enter_context(published(place, payload))
        pem = certificate(stack.enter_context(place.folder("tls"))) if secure else None
        words = [*origin_words(data_dir), *(["--certificate", str(pem)] if pem else [])]
        origin = stack.enter_context(running(words))
        yield Served(payload, data_dir, place, origin, origin.url()), pem


def side(name: str, serving: tuple[Served, Path | None]) -> Side:
    """Return the side of our client at an origin."""
    served, authority = serving

    def words(output: Path) -> list[str]:
        more = ["--ca", str(authority)] if authority else []
        return [*download_words([served.origin_url], output), *more]

    return Side(name, lambda: timed(served, served.origin, words, by_own_clock))


def followers_of(place: Place, *, secure: bool) -> Run:
    """Run an origin and its followers, and measure what these cost."""
    with contextlib.ExitStack() as stack:
        served, authority = stack.enter_context(serving(place, SMALL, secure=secure))
        more = [str(authority)] if authority else []
        few, crowd = (
            stack.enter_context(running([*follower_words(served.origin_url, count), *more], told=True))
            for count in (FEW, COUNT)
        )
        for process in (few, crowd):
            process.wait_for_output("ready")
        follow(few)
        before = served.origin.memory()
        seconds = follow(crowd)
        after = served.origin.memory()
    return Run(seconds, detail={"KB each": (after.resident - before.resident) / COUNT / 1e3})


def certificate(folder: Path) -> Path:
    """Make a certificate for 127.0.0.1, signed by itself, and return the file with it and its key."""
    key, pem = folder / "key.pem", folder / "certificate.pem"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=bench", "-addext", "subjectAltName=IP:127.0.0.1"]
    run_command(["openssl", "req", "-x509", *kind, *names, "-keyout", str(key), "-out", str(pem)])
    pem.write_text(pem.read_text() + key.read_text())
    return pem


CASE = Case("tls", "plain HTTP and TLS: a download over loopback, and idle followers", compare, quick=False)
