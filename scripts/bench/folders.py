"""Folders: published beside one file of their size, beside a tar, and again with little changed."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from folder_sources import MANY, SMALL, WIDE, beside, broadcast_words, made, rewrite
from harness import Aim, Case, Comparison, Run, Settings, Side, expect, interleave
from places import Place
from processes import Ended, run_command
from report import format_size


def compare(settings: Settings) -> Iterator[Comparison]:
    """Run the case's comparisons, and yield each as it is ready."""
    place = settings.places.memory
    place.need(5 * settings.size)
    place.touch(3 * settings.size)
    yield beside_one_file(place, settings)
    yield beside_a_tar(place, settings)
    yield again(place, settings)


def beside_one_file(place: Place, settings: Settings) -> Comparison:
    """Publish a folder of many files, and one file of its size."""
    payload = place.payload(settings.size)
    with made(place, MANY, settings.size) as folder:
        return beside(
            settings,
            Side("one file", lambda: publish(place, payload.path)),
            Side("folder", lambda: publish(place, folder)),
            title=f"Publish a folder of {MANY} files, {format_size(settings.size)}, {place.name}",
            most=1.35,
            size=settings.size,
            notes=["seconds: of shardcast broadcast, where no origin runs; so in all tables of folders."],
        )


def beside_a_tar(place: Place, settings: Settings) -> Comparison:
    """Publish very many small files, and a tar of them from a pipe."""
    with made(place, SMALL, SMALL * 1024) as folder:
        return beside(
            settings,
            Side("tar | broadcast -", lambda: publish(place, folder, by_tar=True)),
            Side("folder", lambda: publish(place, folder)),
            title=f"Publish a folder of {SMALL} files of 1 KiB, {place.name}",
            most=1,
            size=SMALL * 1024,
        )


def again(place: Place, settings: Settings) -> Comparison:
    """Publish a folder once more, with nothing changed, and with one of ten files changed."""
    with made(place, WIDE, 2 * settings.size) as wide, made(place, 10, settings.size) as ten:
        sides = [
            Side("first version", lambda: publish(place, wide)),
            Side("nothing changed", lambda: publish(place, wide, before=lambda: None)),
            Side("first version of ten files", lambda: publish(place, ten)),
            Side("one of ten changed", lambda: publish(place, ten, before=lambda: rewrite(ten))),
        ]
        results = interleave(sides, settings.runs)
    unchanged = next(result for result in results if result.name == "nothing changed")
    aims = [Aim("nothing changed, seconds", unchanged.median(), most=1.0)]
    title = (
        f"Publish a folder again: {WIDE} files, {format_size(2 * settings.size)}; ten of half, {place.name}"
    )
    return Comparison(title, results, "first version", aims=aims)


def publish(
    place: Place, path: Path, *, by_tar: bool = False, before: Callable[[], None] | None = None
) -> Run:
    """Measure ``shardcast broadcast``; with ``before`` that of the next version, after a call of it."""
    with place.folder("data") as data_dir:
        words = broadcast_words(path, data_dir)
        version = "v1"
        if before:
            run_command(words)
            before()
            version = "v2"
        elif by_tar:
            tar = shlex.join(["tar", "-C", str(path), "-c", "."])
            words = ["sh", "-c", f"{tar} | {shlex.join([*words[:2], '-', *words[3:]])}"]
        place.settle()
        ended: Ended = run_command(words)
        expect(ended.output.strip() == version, f"published {ended.output!r}, not {version}")
        expect((data_dir / version / "manifest.jsonl").is_file(), f"there is no manifest of {version}")
        shutil.rmtree(data_dir / version)
        return Run(ended.seconds, ended.usage.cpu_seconds, ended.usage.peak_memory)


CASE = Case(
    "folders",
    "publishing folders beside a file and a tar, and again when little changed",
    compare,
    quick=False,
)
