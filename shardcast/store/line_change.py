"""The plan of a change of line: written first, then carried out step by step, also after a kill.

Every step is a rename or a replaced file, and is skipped if done already. So the plan can be carried out from
the beginning any number of times.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from shardcast.directories import make_folder, remove_tree, sync_folder
from shardcast.disk_errors import disk_errors
from shardcast.errors import LocalDiskError
from shardcast.file_moves import rename
from shardcast.filesystem import replace
from shardcast.json_text import parse_json
from shardcast.store.data_dir import DataDir
from shardcast.store.line_record import LineRecord, LineRecordError, origin_words, parse_record

Move = tuple[str, str]
"""A rename from one path to another, below the data directory; the second was free at the time of planning.
"""
AfterStep = Callable[[str], None]
"""Called after each step with the step's name; a test's place to kill the node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The steps of a change of line.

    Attributes:
        aside: renames out of the current line's places. Versions' folders are stamped with ``time`` first.
        back: renames into these places.
        time: the time of the change, in seconds since 1970 (UTC).
        left: new place of the old line's record, and the record; None for a line without one.
        record: the record of the new line.
        distribution: the list of the new line.
    """

    aside: tuple[Move, ...]
    back: tuple[Move, ...]
    time: float
    left: tuple[str, LineRecord] | None
    record: LineRecord
    distribution: bytes

    def to_bytes(self) -> bytes:
        """Return the plan as a line of JSON."""
        left = None if self.left is None else [self.left[0], self.left[1].to_bytes().decode()]
        values = {
            "aside": self.aside,
            "back": self.back,
            "time": self.time,
            "left": left,
            "record": self.record.to_bytes().decode(),
            "distribution": self.distribution.decode(),
        }
        return json.dumps(values, separators=(",", ":")).encode() + b"\n"


def parse_change_plan(data: bytes) -> Plan:
    """Return the plan in a line of JSON.

    Raises:
        ValueError: the line holds no plan. Other errors are possible for values of wrong types.
    """
    values = parse_json(data)
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    left, time = values.get("left"), values.get("time")
    if not isinstance(time, (int, float)) or not abs(time) < 1e12:
        raise ValueError("its time is malformed")
    return Plan(
        aside=_moves(values.get("aside")),
        back=_moves(values.get("back")),
        time=float(time),
        left=None if left is None else (_path(left[0]), _record(left[1])),
        record=_record(values.get("record")),
        distribution=_text(values.get("distribution")).encode(),
    )


def read_plan(data_dir: DataDir) -> Plan | None:
    """Return the plan of an unfinished change; None where there is none.

    Raises:
        LocalDiskError: the plan can't be read, or is damaged.
    """
    file = data_dir.changing
    with disk_errors("could not read", file):
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            return None
    try:
        return parse_change_plan(data)
    except (ValueError, LineRecordError, IndexError, KeyError, TypeError) as error:
        raise LocalDiskError(
            f"{file} is damaged: {error}; compare the versions in {data_dir.root} and {data_dir.lines} with "
            f"distribution.txt, then remove the file {file.name}"
        ) from None


def write_plan(data_dir: DataDir, plan: Plan) -> None:
    """Write a plan, durably: from now on the change is carried out, even after a kill.

    Raises:
        LocalDiskError: the plan could not be written.
    """
    replace(data_dir.changing, plan.to_bytes())


def put_aside(data_dir: DataDir, plan: Plan, after_step: AfterStep) -> None:
    """Carry out the first part of a plan; blocks on the disk. No name gets other bytes meanwhile.

    Raises:
        LocalDiskError: a step failed; the plan is still there.
    """
    with disk_errors("could not put versions aside in", data_dir.lines):
        data_dir.check_held()
        touched: dict[Path, None] = {}
        for source, target in _paths(data_dir, plan.aside):
            if not _is_to_move(source, target):
                continue
            make_folder(target.parent)
            if source.is_dir():
                # Before the rename: after a kill in between, the next start would take the time of the last
                # shard for the time of putting aside.
                with contextlib.suppress(PermissionError):  # of another user in our group: it keeps its time
                    os.utime(source, (plan.time, plan.time))
                sync_folder(source)
            rename(source, target, durable=False)
            touched |= {target.parent: None, source.parent: None}
            after_step(f"put aside {source.name}")
        _sync(data_dir, touched)
        if plan.left is not None:
            file = data_dir.root / plan.left[0]
            make_folder(file.parent)
            replace(file, plan.left[1].to_bytes())
            _sync(data_dir, [data_dir.lines])
            after_step("recorded the line that is left")


def bring_back(data_dir: DataDir, plan: Plan, after_step: AfterStep) -> None:
    """Carry out the rest of a plan, and remove it; blocks on the disk.

    Raises:
        LocalDiskError: a step failed; the plan is still there.
    """
    with disk_errors("could not change the line of", data_dir.root):
        data_dir.check_held()
        touched: dict[Path, None] = {}
        for source, target in _paths(data_dir, plan.back):
            if not _is_to_move(source, target):
                continue
            rename(source, target, durable=False)
            touched |= {target.parent: None, source.parent: None}
            after_step(f"brought back {target.name}")
        _sync(data_dir, touched)
        replace(data_dir.distribution, plan.distribution)
        after_step("listed")
        replace(data_dir.line, plan.record.to_bytes())
        after_step("recorded the line")
        data_dir.changing.unlink(missing_ok=True)
        sync_folder(data_dir.own)
        after_step("done")


def finish_change(data_dir: DataDir, after_step: AfterStep = lambda step: None) -> str | None:
    """Carry out a change of line interrupted by a kill; blocks on the disk.

    Comes before anything else with the directory.

    Returns:
        The new line, in words; None without an interrupted change.

    Raises:
        LocalDiskError: the plan is damaged, or a step failed.
    """
    plan = read_plan(data_dir)
    if plan is None:
        return None
    put_aside(data_dir, plan, after_step)
    bring_back(data_dir, plan, after_step)
    return origin_words(plan.record.origin)


def empty_graves(data_dir: DataDir, plan: Plan) -> None:
    """Remove everything moved to the graves by a plan; blocks on the disk."""
    for _, target in _paths(data_dir, plan.aside):
        if target.parent == data_dir.retired:
            remove_tree(target)
            with contextlib.suppress(OSError):
                target.unlink(missing_ok=True)


def _paths(data_dir: DataDir, moves: Sequence[Move]) -> Iterator[tuple[Path, Path]]:
    for source, target in moves:
        yield data_dir.root / source, data_dir.root / target


def _is_to_move(source: Path, target: Path) -> bool:
    """Return whether a rename is still to be done, and finish one left with both names by a power cut."""
    if not source.exists():
        return False
    if not target.exists():
        return True
    # A power cut may leave both names of a file. The old one would be in the way of the next file there.
    if source.is_file() and source.samefile(target):
        source.unlink()
    elif source.is_dir() and not any(source.iterdir()):  # its files were moved one by one
        source.rmdir()
    return False


def _sync(data_dir: DataDir, folders: Iterable[Path]) -> None:
    """Sync folders, so renames are durable before the list depends on them.

    The folder of a line may be new, so its parents are synced too.
    """
    for folder in folders:
        sync_folder(folder)
    if data_dir.lines.is_dir():
        sync_folder(data_dir.lines)
        sync_folder(data_dir.own)


def _moves(values: Any) -> tuple[Move, ...]:
    if not isinstance(values, list) or not all(isinstance(move, list) and len(move) == 2 for move in values):
        raise ValueError("its moves are malformed")
    return tuple((_path(source), _path(target)) for source, target in values)


def _path(value: Any) -> str:
    path = PurePosixPath(_text(value))
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{value!r} is no path in the data directory")
    return str(path)


def _record(value: Any) -> LineRecord:
    return parse_record(_text(value).encode())


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("one of its values is no text")
    return value
