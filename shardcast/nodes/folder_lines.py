"""Format of ``.shardcast-lines``: a followed folder's notes about lines of versions, beyond its files.

::

    {"announced": {"origin": "5f0c…", "number": 7, "digest": "9f86…"},
     "lines": [{"origin": "5f0c…", "seen": {"6": "77aa…", "7": "9f86…"}, "announced": {"7": "9f86…"},
                "withdrawn": [[5, "6030…", true]]}]}                                          (one line)

``seen`` has the digests of the newest 1000 numbers listed by the line, ``announced`` those already taken by a
program or a hook, ``withdrawn`` the versions withdrawn by the publisher and whether the follower was told.
The line used last comes last; of more than 16 lines the first are dropped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shardcast.nodes.output_records import is_number, json_object, parse_digest, parse_origin

MAX_LINES = 16
MAX_NUMBERS = 1000
"""Numbers of each kind kept of a line, the newest ones."""
MAX_FILE_BYTES = 8 << 20
"""Maximum bytes of the file; 16 full lines are 4 MB."""


@dataclass(frozen=True, slots=True)
class Announced:
    """The last announced version in a folder, of all lines."""

    origin: str | None
    number: int
    digest: str


@dataclass(slots=True)
class FollowedLine:
    """The notes about one line.

    Attributes:
        origin: origin id; None for versions of nodes without an id.
        seen: digests of the numbers listed on the line.
        announced: digests of the numbers announced in this folder.
        withdrawn: versions withdrawn by the publisher, each (number, digest), and whether the follower was
            told.
    """

    origin: str | None
    seen: dict[int, str] = field(default_factory=dict)
    announced: dict[int, str] = field(default_factory=dict)
    withdrawn: dict[tuple[int, str], bool] = field(default_factory=dict)

    def conflict(self, listed: Mapping[int, str]) -> int | None:
        """Return the lowest number noted with another digest than ``listed`` now, if any."""
        known = self.announced | self.seen
        return min(
            (number for number in listed if known.get(number, listed[number]) != listed[number]), default=None
        )

    def forget_from(self, first: int, listed: Mapping[int, str]) -> None:
        """Forget the numbers from ``first`` on whose digests are not ``listed``."""
        for numbers in (self.seen, self.announced):
            for number in [n for n in numbers if n >= first and numbers[n] != listed.get(n)]:
                del numbers[number]

    def forget_old(self) -> None:
        """Forget all but the newest numbers."""
        for numbers in (self.seen, self.announced):
            for number in sorted(numbers)[:-MAX_NUMBERS]:
                del numbers[number]
        for version in sorted(self.withdrawn)[:-MAX_NUMBERS]:
            del self.withdrawn[version]


@dataclass(slots=True)
class FolderLines:
    """The notes about all lines.

    Attributes:
        lines: the notes of each, the line used last at the end.
        announced: the last announced version; None in a folder without one.
    """

    lines: list[FollowedLine] = field(default_factory=list)
    announced: Announced | None = None

    def find(self, origin: str | None) -> FollowedLine:
        """Return the notes about a line; empty ones where there are none."""
        return next((line for line in self.lines if line.origin == origin), FollowedLine(origin))

    def use(self, origin: str | None) -> FollowedLine:
        """Return the notes about a line, to be changed, and count the line as used last."""
        line = self.find(origin)
        self.lines = [*(other for other in self.lines if other.origin != origin), line][-MAX_LINES:]
        return line

    def encode(self) -> bytes:
        """Forget all but the newest numbers of each line, and return the bytes of the file."""
        for line in self.lines:
            line.forget_old()
        last = self.announced
        content = {
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
        return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def parse_lines(data: bytes) -> FolderLines:
    """Return the lines in the bytes of a followed folder's ``.shardcast-lines``; unknown keys are ignored.

    Raises:
        ValueError: the bytes are no such file.
    """
    content = json_object(data, MAX_FILE_BYTES)
    lines, last = content.get("lines", []), content.get("announced")
    if not isinstance(lines, list) or not all(isinstance(line, dict) for line in lines):
        raise ValueError("lines are no list of objects")
    found = FolderLines([_line(line) for line in lines[-MAX_LINES:]])
    if last is not None:
        if not isinstance(last, dict) or not is_number(last.get("number")):
            raise ValueError("a malformed last version")
        found.announced = Announced(parse_origin(last), last["number"], parse_digest(last.get("digest")))
    return found


def _line(content: dict[str, Any]) -> FollowedLine:
    """Read the notes about one line."""
    withdrawn = content.get("withdrawn", [])
    if not isinstance(withdrawn, list):
        raise ValueError("withdrawn versions are no list")
    return FollowedLine(
        parse_origin(content),
        _numbers(content.get("seen", {})),
        _numbers(content.get("announced", {})),
        dict(map(_withdrawal, withdrawn)),
    )


def _numbers(content: object) -> dict[int, str]:
    """Read digests by number."""
    if not isinstance(content, dict):
        raise ValueError("digests are no JSON object")
    found: dict[int, str] = {}
    for name, digest in content.items():
        if not (name.isascii() and name.isdigit() and len(name) <= 18 and is_number(int(name))):
            raise ValueError(f"{name[:20]!r} is no version number")
        found[int(name)] = parse_digest(digest)
    return found


def _withdrawal(item: object) -> tuple[tuple[int, str], bool]:
    """Read a withdrawn version, (number, digest), and whether the follower was told."""
    if not isinstance(item, list) or len(item) != 3 or not is_number(item[0]) or type(item[2]) is not bool:
        raise ValueError("a malformed withdrawn version")
    return (item[0], parse_digest(item[1])), item[2]
