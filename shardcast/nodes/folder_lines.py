"""``.shardcast-lines``: what a followed folder remembers of each line of versions beyond its files.

::

    {"announced": {"origin": "5f0c…", "number": 7, "digest": "9f86…"},
     "lines": [{"origin": "5f0c…", "seen": {"6": "77aa…", "7": "9f86…"}, "announced": {"7": "9f86…"},
                "withdrawn": [[5, "6030…", true]]}]}                                          (one line)

``seen`` has the digests of the newest 1000 numbers that the line listed, ``announced`` those that a program
or a hook has taken, ``withdrawn`` the versions that the publisher took back and whether that was told. The
line that was used last comes last; of more than 16 lines the first are dropped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shardcast.nodes.output_records import is_number, json_object, parse_digest, parse_origin

MAX_LINES = 16
MAX_NUMBERS = 1000
"""Numbers of each kind that a line keeps, the newest ones."""
MAX_FILE = 8 << 20
"""Bytes of the file that a reader takes; 16 full lines are 4 MB."""


@dataclass(frozen=True, slots=True)
class Announced:
    """The version that was announced last in a folder, of all lines."""

    origin: str | None
    number: int
    digest: str


@dataclass(slots=True)
class FollowedLine:
    """What is remembered of a line.

    Attributes:
        origin: its origin id; None for versions of nodes without an id.
        seen: digests of the numbers that the line listed.
        announced: digests of the numbers that were announced in this folder.
        withdrawn: versions that the publisher took back, each (number, digest), and whether that was told.
    """

    origin: str | None
    seen: dict[int, str] = field(default_factory=dict)
    announced: dict[int, str] = field(default_factory=dict)
    withdrawn: dict[tuple[int, str], bool] = field(default_factory=dict)

    def conflict(self, listed: Mapping[int, str]) -> int | None:
        """Return the lowest number that was noted with another digest than is ``listed`` now, if any."""
        known = self.announced | self.seen
        return min(
            (number for number in listed if known.get(number, listed[number]) != listed[number]), default=None
        )

    def forget_from(self, first: int, listed: Mapping[int, str]) -> None:
        """Forget the numbers from ``first`` on whose digests are not ``listed``."""
        for numbers in (self.seen, self.announced):
            for number in [n for n in numbers if n >= first and numbers[n] != listed.get(n)]:
                del numbers[number]

    def bound(self) -> None:
        """Forget all but the newest numbers."""
        for numbers in (self.seen, self.announced):
            for number in sorted(numbers)[:-MAX_NUMBERS]:
                del numbers[number]
        for version in sorted(self.withdrawn)[:-MAX_NUMBERS]:
            del self.withdrawn[version]


@dataclass(slots=True)
class FolderLines:
    """What is remembered of all lines.

    Attributes:
        lines: those that were used, the latest one last.
        announced: the version that was announced last; None in a folder in which none was.
    """

    lines: list[FollowedLine] = field(default_factory=list)
    announced: Announced | None = None

    def find(self, origin: str | None) -> FollowedLine:
        """Return what is remembered of a line; an empty memory where nothing is."""
        return next((line for line in self.lines if line.origin == origin), FollowedLine(origin))

    def use(self, origin: str | None) -> FollowedLine:
        """Return the memory of a line to change it, and count the line as used last."""
        line = self.find(origin)
        self.lines = [*(one for one in self.lines if one.origin != origin), line][-MAX_LINES:]
        return line

    def write(self) -> bytes:
        """Return the bytes of the file."""
        for line in self.lines:
            line.bound()
        last = self.announced
        said = {
            "announced": last and {"origin": last.origin, "number": last.number, "digest": last.digest},
            "lines": [
                {
                    "origin": line.origin,
                    "seen": line.seen,
                    "announced": line.announced,
                    "withdrawn": [[*version, told] for version, told in line.withdrawn.items()],
                }
                for line in self.lines
            ],
        }
        return json.dumps(said, separators=(",", ":")).encode() + b"\n"


def parse_lines(data: bytes) -> FolderLines:
    """Read the file. Unknown keys are ignored.

    Raises:
        ValueError: the bytes are no such file.
    """
    said = json_object(data, MAX_FILE)
    lines, last = said.get("lines", []), said.get("announced")
    if not isinstance(lines, list) or not all(isinstance(line, dict) for line in lines):
        raise ValueError("lines that are no list of objects")
    found = FolderLines([_line(line) for line in lines[-MAX_LINES:]])
    if last is not None:
        if not isinstance(last, dict) or not is_number(last.get("number")):
            raise ValueError("a last version that is none")
        found.announced = Announced(parse_origin(last), last["number"], parse_digest(last.get("digest")))
    return found


def _line(said: dict[str, Any]) -> FollowedLine:
    withdrawn = said.get("withdrawn", [])
    if not isinstance(withdrawn, list):
        raise ValueError("withdrawn versions that are no list")
    return FollowedLine(
        parse_origin(said),
        _numbers(said.get("seen", {})),
        _numbers(said.get("announced", {})),
        dict(map(_withdrawal, withdrawn)),
    )


def _numbers(said: object) -> dict[int, str]:
    if not isinstance(said, dict):
        raise ValueError("digests that are no JSON object")
    found: dict[int, str] = {}
    for name, digest in said.items():
        if not (name.isascii() and name.isdigit() and len(name) <= 18 and is_number(int(name))):
            raise ValueError(f"{name[:20]!r} is no version number")
        found[int(name)] = parse_digest(digest)
    return found


def _withdrawal(said: object) -> tuple[tuple[int, str], bool]:
    if not isinstance(said, list) or len(said) != 3 or not is_number(said[0]) or type(said[2]) is not bool:
        raise ValueError("a withdrawn version that is none")
    return (said[0], parse_digest(said[1])), said[2]
