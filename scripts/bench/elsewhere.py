"""Publishing at an origin elsewhere, beside publishing through the origin of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from harness import Aim, Case, Comparison, Run, Settings, Side, expect, interleave, ratio
from nodes import origin_words
from places import Payload
from processes import Running, run_command, running, shardcast_words, taken_by
from report import format_size

HERE, STORED, LIVE = "broadcast, here", "broadcast --to", "broadcast --to --live"


def compare(settings: Settings) -> Iterator[Comparison]:
    """Run the case's comparisons, and yield each as it is ready."""
    place = settings.places.memory
    place.need(4 * settings.size)
    place.touch(4 * settings.size)
    payload = place.payload(settings.size)
    with ExitStack() as stack:
        data_dir = stack.enter_context(place.folder("elsewhere")) / "data"
        words = [*origin_words(data_dir), "--publish", "--keep", "1"]
        origin = stack.enter_context(running(words))
        to = ["--to", origin.url()]
        sides = [
            Side(HERE, lambda: broadcast(origin, data_dir, payload, ["--data-dir", str(data_dir)])),
            Side(STORED, lambda: broadcast(origin, data_dir, payload, to)),
            Side(LIVE, lambda: broadcast(origin, data_dir, payload, [*to, "--live"])),
        ]
        results = interleave(sides, settings.runs)
    aims = [Aim("time of --to, × the time here", ratio(results, STORED, HERE), most=3.0)]
    notes = ["Seconds of the whole command, over loopback; CPU of the command and of the origin."]
    title = f"Publish elsewhere, {place.name}, {format_size(settings.size)}"
    yield Comparison(title, results, HERE, settings.size, aims=aims, notes=notes, plot="")


def broadcast(origin: Running, data_dir: Path, payload: Payload, options: list[str]) -> Run:
    """Publish once, and check the digest of what was published."""
    with taken_by(origin) as taken:
        command = run_command(shardcast_words("broadcast", str(payload.path), "--quiet", *options))
    version = command.output.strip()
    listed = (data_dir / "distribution.txt").read_text()
    expect(f"{version}: {payload.sha256}|" in listed, f"{version} is not the payload")
    usage = command.usage + taken[0]
    detail = {"origin CPU": taken[0].cpu_seconds, "command MB": command.usage.peak_memory / 1e6}
    return Run(command.seconds, usage.cpu_seconds, usage.peak_memory, detail)


CASE = Case("elsewhere", "publishing at an origin over TCP, beside publishing here", compare, quick=False)
