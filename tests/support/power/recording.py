"""Work whose calls to the system are recorded, in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.power.disk import MAPPED, Disk
from tests.support.processes import environment

_SOURCE = Path(__file__).with_name("recorder.c")
_REPOSITORY = Path(__file__).resolve().parents[3]
_COMPILERS = ("cc", "gcc", "clang")


class Unavailable(Exception):
    """Nothing can be recorded here, and why."""


@dataclass(frozen=True)
class Step:
    """A moment in a recording.

    Attributes:
        disk: as it is then.
        index: of the call.
        call: its name.
        said: what the work said then.
        before_mark: whether something is said next, or the work ends.
        synced: the inode that the next call syncs; None when it is another call.
    """

    disk: Disk
    index: int
    call: str
    said: dict[str, Any] | None
    before_mark: bool
    synced: int | None


@dataclass
class Record:
    """What was recorded of one piece of work.

    Attributes:
        base: the folder in which it happened, which was empty.
        inode: that folder's.
        calls: the name of each call and what it was given; ``mark`` for what the work said itself.
        failure: why it did not come to its end, if so.
    """

    base: str
    inode: int
    calls: list[tuple[str, list[str]]] = field(default_factory=list)
    failure: str = ""

    def steps(self) -> Iterator[Step]:
        """Replay it, and stop after each call that changed something, and each mark."""
        disk = Disk(self.base, self.inode)
        for index, (call, values) in enumerate(self.calls):
            following, given = self.calls[index + 1] if index + 1 < len(self.calls) else ("", [])
            synced = int(given[0]) if following == "sync" else None
            if call == "mark" or disk.apply(call, values):
                said = json.loads(values[0]) if call == "mark" else None
                yield Step(disk, index, call, said, following in ("mark", ""), synced)

    def check(self) -> None:
        """Replayed to its end, it is what lies on the disk: no call was missed."""
        assert not self.failure, self.failure
        disk = Disk(self.base, self.inode)
        for call, values in self.calls:
            if call != "mark":
                disk.apply(call, values)
        assert disk.now() == _on_disk(Path(self.base))


def record(module: str, place: Path, names: Sequence[str]) -> dict[str, Record]:
    """Have a module do the work that is named, in a process of its own, and return what was recorded of each
    piece.

    Raises:
        Unavailable: nothing can be recorded here.
    """
    place = place.resolve()
    library, log, work = _compiled(place), place / "log", place / "work"
    work.mkdir()
    env = environment(
        LD_PRELOAD=str(library), RECORDER_LOG=str(log), RECORDER_ROOT=str(work), PYTHONDONTWRITEBYTECODE="1"
    )
    done = subprocess.run(
        [sys.executable, "-m", module, str(work), *names],
        cwd=_REPOSITORY,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    records: dict[str, Record] = {}
    current: Record | None = None
    for line in log.read_text().splitlines():
        call, *values = line.split("\t")
        said = json.loads(values[0]) if call == "mark" else {}
        if "begun" in said:
            current = records[said["begun"]] = Record(said["in"], said["inode"])
        elif "ended" in said:
            assert current
            current.failure, current = said["failure"], None
        elif current:
            current.calls.append((call, values))
    return records


def _compiled(folder: Path) -> Path:
    """Compile the recorder.

    Raises:
        Unavailable: it can't be.
    """
    if not sys.platform.startswith("linux"):
        raise Unavailable("calls are recorded by a library that is preloaded, which is made for Linux")
    compiler = next((found for name in _COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        raise Unavailable(f"no C compiler is here for the recorder of calls ({', '.join(_COMPILERS)})")
    library = folder / "recorder.so"
    words = [compiler, "-shared", "-fPIC", "-O1", "-U_FORTIFY_SOURCE", "-o", str(library), str(_SOURCE)]
    done = subprocess.run([*words, "-ldl", "-lpthread"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{compiler} can't compile the recorder of calls: {done.stderr[-500:]}")
    return library


def _on_disk(base: Path) -> dict[str, bytes | None]:
    found: dict[str, bytes | None] = {}
    for folder, folders, files in os.walk(base):
        for name in (*folders, *files):
            path = Path(folder, name)
            mode, key = path.lstat().st_mode, str(path.relative_to(base))
            if stat.S_ISLNK(mode):
                found[key] = os.fsencode(path.readlink())
            elif stat.S_ISDIR(mode):
                found[key] = None
            elif stat.S_ISREG(mode) and not name.endswith(MAPPED):
                found[key] = path.read_bytes()
    return found
