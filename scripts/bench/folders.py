"""Folders: published beside one file of their size, beside a tar, and again with little changed."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from harness import MIB, Aim, Case, Comparison, Run, Settings, Side, expect, interleave, ratio
from places import Place
from processes import Ended, run_command, shardcast_words
from report import format_size

MANY = 10_000
"""Files of a folder beside one file."""
SMALL = 100_000
"""Files of 1 KiB beside a tar."""
WIDE = 20_000
"""Files of a folder of twice the size, of which nothing changes."""
_A_FOLDER = 200
"""Files in one subfolder."""


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
        sides = [
            Side("one file", lambda: publish(place, payload.path)),
            Side("folder", lambda: publish(place, folder)),
        ]
        results = interleave(sides, settings.runs)
    aims = [Aim("a folder, × one file of its size", ratio(results, "folder", "one file"), most=1.35)]
    title = f"Publish a folder of {MANY} files, {format_size(settings.size)}, {place.name}"
    notes = [
        "seconds: of the command shardcast broadcast, where no origin runs; so in all tables of folders."
    ]
    return Comparison(title, results, "one file", settings.size, aims=aims, notes=notes)


def beside_a_tar(place: Place, settings: Settings) -> Comparison:
    """Publish very many small files, and a tar of them from a pipe."""
    with made(place, SMALL, SMALL * 1024) as folder:
        sides = [
            Side("tar | broadcast -", lambda: publish(place, folder, by_tar=True)),
            Side("folder", lambda: publish(place, folder)),
        ]
        results = interleave(sides, settings.runs)
    aims = [Aim("a folder, × a tar of it from a pipe", ratio(results, "folder", "tar | broadcast -"), most=1)]
    title = f"Publish a folder of {SMALL} files of 1 KiB, {place.name}"
    return Comparison(title, results, "tar | broadcast -", SMALL * 1024, aims=aims)


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


@contextlib.contextmanager
def made(place: Place, count: int, size: int) -> Iterator[Path]:
    """Make a folder of ``count`` random files of ``size`` bytes together, for the block."""
    with place.folder("source") as around:
        root = around / "model"
        for number in range(count):
            folder = root / f"part-{number // _A_FOLDER:04}"
            folder.mkdir(parents=True, exist_ok=True)
            write(folder / f"file-{number:06}.bin", size // count)
        yield root


def write(path: Path, size: int) -> None:
    """Write random bytes."""
    with path.open("wb", buffering=0) as file:
        for start in range(0, size, 4 * MIB):
            file.write(os.urandom(min(4 * MIB, size - start)))


def rewrite(folder: Path) -> None:
    """Write other bytes into one file."""
    file = sorted(path for path in folder.rglob("*.bin"))[3]
    write(file, file.stat().st_size)


def publish(
    place: Place, path: Path, *, by_tar: bool = False, before: Callable[[], None] | None = None
) -> Run:
    """Measure ``shardcast broadcast``; with ``before`` that of the next version, after a call of it."""
    with place.folder("data") as data_dir:
        words = shardcast_words("broadcast", str(path), "--data-dir", str(data_dir), "--quiet")
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
