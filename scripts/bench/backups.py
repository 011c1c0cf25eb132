"""Backups beside restic and borg: a first one, one more with nothing changed, restore, small files."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from backup_programs import BackupProgram, borg, ours, restic
from harness import MIB, Aim, Case, Comparison, Run, Settings, Side, expect, interleave, ratio
from places import Place
from processes import Ended, Usage, taken_by
from report import format_size

Program = Callable[[Path], AbstractContextManager[BackupProgram]]

PROGRAMS: dict[str, Program] = {"restic": restic, "borg": borg, "shardcast-backup": ours}
OURS = "shardcast-backup"
FILES = 10_000
"""Files of the folder whose half can be compressed."""
SMALL = 200_000
"""Files of 1 KiB."""
MILLION = 1_000_000
"""Files of the run that looks at memory."""
_A_FOLDER = 200
"""Files in one subfolder."""


def compare(settings: Settings) -> Iterator[Comparison]:
    """Run the case's comparisons, and yield each as it is ready."""
    place = settings.places.memory
    place.need(5 * settings.size)
    place.touch(3 * settings.size)
    yield many(place, settings)
    yield small(place, settings)
    yield inserted(place, settings)
    if settings.full:
        yield million(place)


def many(place: Place, settings: Settings) -> Comparison:
    """Save and restore a folder of which half can be compressed."""
    with place.folder("source") as around:
        folder = around / "home"
        make_files(folder, FILES, settings.size // FILES)
        sides = [Side(name, partial(cycle, place, program, folder)) for name, program in PROGRAMS.items()]
        results = interleave(sides, settings.runs)
    aims = [
        Aim("first, × restic", ratio(results, OURS, "restic"), most=0.7),
        Aim("first, × borg", ratio(results, OURS, "borg"), most=1),
        Aim("nothing changed, × restic", ratio(results, OURS, "restic", "again s"), most=0.5),
        Aim("restore, × restic", ratio(results, OURS, "restic", "restore s"), most=0.7),
        Aim("store's size, × restic's", ratio(results, OURS, "restic", "store MB"), most=1.05),
    ]
    title = f"Back up {FILES} files, {format_size(settings.size)}, half compressible, {place.name}"
    notes = ["seconds: the first backup. Ours goes over loopback to its server, whose CPU time is counted."]
    return Comparison(title, results, "restic", settings.size, aims=aims, notes=notes)


def small(place: Place, settings: Settings) -> Comparison:
    """Save very many small files, and save them again."""
    with place.folder("source") as around:
        folder = around / "home"
        make_files(folder, SMALL, 1024)
        sides = [
            Side(name, partial(cycle, place, PROGRAMS[name], folder, restores=False))
            for name in ("restic", OURS)
        ]
        results = interleave(sides, settings.runs)
    aims = [
        Aim("first, × restic", ratio(results, OURS, "restic"), most=0.7),
        Aim("nothing changed, × restic", ratio(results, OURS, "restic", "again s"), most=0.35),
        Aim("files in the store", next(one for one in results if one.name == OURS).median("files"), most=400),
    ]
    return Comparison(f"Back up {SMALL} files of 1 KiB, {place.name}", results, "restic", aims=aims)


def inserted(place: Place, settings: Settings) -> Comparison:
    """Save a large file, and save it again after a byte was inserted at its front."""
    with place.folder("source") as around:
        folder = around / "home"
        folder.mkdir()
        results = interleave([Side(OURS, lambda: insertion(place, folder, settings.size))], settings.runs, 0)
    aims = [Aim("sent after an insertion, MB", results[0].median("sent MB"), most=3)]
    title = f"A byte inserted at the front of {format_size(settings.size)}, {place.name}"
    return Comparison(title, results, aims=aims)


def million(place: Place) -> Comparison:
    """Look at the memory of client and server with a million empty files."""
    with place.folder("source") as around:
        folder = around / "home"
        make_files(folder, MILLION, 0)
        side = Side(OURS, lambda: cycle(place, ours, folder, restores=False))
        results = interleave([side], 1, warm_ups=0)
    aims = [
        Aim("client, MB", results[0].median("client MB"), most=250),
        Aim("server, MB", results[0].median("server MB"), most=200),
    ]
    return Comparison(f"Back up {MILLION} empty files, {place.name}", results, aims=aims)


def cycle(place: Place, program: Program, folder: Path, *, restores: bool = True) -> Run:
    """Save a folder into an empty store, save it again, and restore it."""
    with place.folder("backup") as around, program(around) as one:
        place.settle()
        first, servers = measured(one, lambda: one.back_up(folder))
        again, _ = measured(one, lambda: one.back_up(folder))
        detail = {
            "again s": again.seconds,
            "store MB": stored_bytes(one.store) / 1e6,
            "files": float(sum(1 for _ in files_in(one.store))),
            "client MB": first.usage.peak_memory / 1e6,
        }
        if one.server:
            detail["server MB"] = servers.peak_memory / 1e6
        if restores:
            place.settle()
            restored = one.restore(folder, around / "restored")
            expect(count(around / "restored") == count(folder), "the restored folder lacks files")
            detail["restore s"] = restored.seconds
        usage = first.usage + servers
        return Run(first.seconds, usage.cpu_seconds, usage.peak_memory, detail)


def insertion(place: Place, folder: Path, size: int) -> Run:
    """Save a file, insert a byte, and save it again."""
    file = folder / "large"
    write(file, size)
    with place.folder("backup") as around, ours(around) as one:
        one.back_up(folder)
        content = file.read_bytes()
        file.write_bytes(b"x" + content)
        ended = one.back_up(folder)
        sent = one.sent_bytes(ended)
        return Run(
            ended.seconds, ended.usage.cpu_seconds, ended.usage.peak_memory, {"sent MB": (sent or 0) / 1e6}
        )


def measured(one: BackupProgram, work: Callable[[], Ended]) -> tuple[Ended, Usage]:
    """Run a command, and return it with the use of the server meanwhile."""
    if one.server is None:
        return work(), Usage()
    with taken_by(one.server) as used:
        ended = work()
    return ended, used[0]


def make_files(folder: Path, number: int, size: int) -> None:
    """Make files, each second one of text that halves at least; the same ones in every run."""
    generator = random.Random(0)
    words = [generator.randbytes(6).hex().encode() for _ in range(500)]
    for index in range(number):
        below = folder / f"part-{index // _A_FOLDER:05}"
        below.mkdir(parents=True, exist_ok=True)
        content = (
            b" ".join(generator.choices(words, k=size // 13 + 1))[:size]
            if index % 2
            else generator.randbytes(size)
        )
        (below / f"file-{index:07}").write_bytes(content)


def write(file: Path, size: int) -> None:
    """Write random bytes."""
    with file.open("wb", buffering=0) as out:
        for start in range(0, size, 4 * MIB):
            out.write(os.urandom(min(4 * MIB, size - start)))


def files_in(folder: Path) -> Iterator[os.stat_result]:
    """Yield the facts of the files below a folder."""
    for around, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                yield (Path(around) / name).lstat()


def stored_bytes(store: Path) -> int:
    """Return the bytes of a store."""
    return sum(facts.st_size for facts in files_in(store))


def count(folder: Path) -> int:
    """Return the number of files below a folder."""
    return sum(1 for _ in files_in(folder))


CASE = Case("backup", "backups of directories beside restic and borg", compare, quick=False)
