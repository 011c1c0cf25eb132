"""Folders that a run makes, their publishing, and the comparison of a folder with another payload."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness import MIB, Aim, Comparison, Settings, Side, interleave, ratio
from places import Place
from processes import shardcast_words

MANY = 10_000
"""Files of a folder beside one file."""
SMALL = 100_000
"""Files of 1 KiB beside a tar."""
WIDE = 20_000
"""Files of a folder of twice the size, of which nothing changes."""
_A_FOLDER = 200
"""Files in one subfolder."""


def beside(
    settings: Settings,
    other: Side,
    folder: Side,
    *,
    title: str,
    most: float,
    size: int,
    notes: Sequence[str] = (),
) -> Comparison:
    """Return the comparison of a folder with another payload: at ``most`` so many times its seconds."""
    results = interleave([other, folder], settings.runs)
    aim = Aim(f"a folder, × {other.name}", ratio(results, folder.name, other.name), most=most)
    return Comparison(title, results, other.name, size, aims=[aim], notes=list(notes))


def broadcast_words(path: Path, data_dir: Path) -> list[str]:
    """Return the command that publishes a folder or a file where no origin runs."""
    return shardcast_words("broadcast", str(path), "--data-dir", str(data_dir), "--quiet")


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
