"""Work whose system calls are recorded, in a process of its own."""

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
    """Nothing can be recorded here; the text says why."""


@dataclass(frozen=True)
class Step:
    """A moment in a recording.

    Attributes:
        disk: the disk at that moment.
        index: index of the call.
        call: its name.
        messages: messages of the work so far.
        before_mark: whether the next record is a message, or the end of the work.
        synced: inode that the next call syncs; None where it is another call.
    """

    disk: Disk
    index: int
    call: str
    messages: dict[str, Any] | None
    before_mark: bool
    synced: int | None


@dataclass
class Record:
    """The recording of one piece of work.

    Attributes:
        base: folder of the work, empty before it.
        inode: that folder's inode.
        calls: name and arguments of each call; ``mark`` for a message of the work.
        failure: why the work did not reach its end; None where it did.
    """

    base: str
    inode: int
    calls: list[tuple[str, list[str]]] = field(default_factory=list)
    failure: str = ""

    def steps(self) -> Iterator[Step]:
        """Replay the record, and yield after each call that changed something, and each message."""
        disk = Disk(self.base, self.inode)
        for index, (call, values) in enumerate(self.calls):
            following, given = self.calls[index + 1] if index + 1 < len(self.calls) else ("", [])
            synced = int(given[0]) if following == "sync" else None
            if call == "mark" or disk.apply(call, values):
                message = json.loads(values[0]) if call == "mark" else None
                yield Step(disk, index, call, message, following in ("mark", ""), synced)

    def check(self) -> None:
        """Check that the replayed record is what lies on the disk: no call was missed."""
        assert not self.failure, self.failure
        disk = Disk(self.base, self.inode)
        for call, values in self.calls:
            if call != "mark":
                disk.apply(call, values)
        assert disk.now() == _on_disk(Path(self.base))


def record(module: str, place: Path, names: Sequence[str]) -> dict[str, Record]:
    """Run pieces of work of a module in a process, and return the recording of each.

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
        message = json.loads(values[0]) if call == "mark" else {}
        if "begun" in message:
            current = records[message["begun"]] = Record(message["in"], message["inode"])
        elif "ended" in message:
            assert current
            current.failure, current = message["failure"], None
        elif current:
            current.calls.append((call, values))
    return records


def _compiled(folder: Path) -> Path:
    """Compile the recorder.

    Raises:
        Unavailable: it can't be compiled.
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
    """Return what lies in a folder: bytes by path, None for folders."""
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
