"""The durable record of a line of versions: the digests listed by the authority, and withdrawals.

The file is JSON, replaced in one step::

    {"origin": "e1d4…", "highest": 7, "digests": {"6": "9f86…", "7": "6030…"},
     "withdrawn": {"7": {"digest": "6030…", "reason": "loss was NaN"}}}
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from shardcast.digest import is_digest
from shardcast.disk_errors import disk_errors
from shardcast.errors import LocalDiskError, VersionWithdrawn
from shardcast.json_text import parse_json
from shardcast.protocol.distribution import Listing, Withdrawal
from shardcast.protocol.feed import printable_reason
from shardcast.protocol.wire import MAX_VERSION, version_name, version_number

MAX_REMEMBERED = 1000
"""Numbers whose digests, and withdrawals, are remembered: the highest ones."""
MAX_ORIGIN = 100
"""Maximum characters of an origin id, as in manifests."""
_MAX_FILE = 32 << 20
"""Maximum bytes read of a record: 1000 digests, and 2000 reasons of 500 characters of up to 12 bytes."""

T = TypeVar("T")


def origin_words(origin: str | None) -> str:
    """Return the name of a line in messages: origin ids come from manifests, and can be any text."""
    return f"the origin {printable_reason(origin)}" if origin else "an origin without an id"


def withdrawn_error(withdrawal: Withdrawal) -> VersionWithdrawn:
    """Return the error for readers of a withdrawn version."""
    reason = f": {withdrawal.reason}" if withdrawal.reason else ""
    return VersionWithdrawn(f"{withdrawal.version} was withdrawn by its publisher{reason}")


class LineRecordError(ValueError):
    """The bytes are no record of a line."""


@dataclass(frozen=True, slots=True)
class LineRecord:
    """The facts about a line of versions, beyond the local versions.

    Attributes:
        origin: the origin id; None for the versions of 0.1.0, without one.
        highest: the highest number ever on the line, as told by the authority.
        digests: payload digest of each number listed by the authority, retired and withdrawn ones included;
            the highest 1000.
        withdrawn: withdrawals by number; the highest 1000.
        superseded: earlier withdrawals of numbers withdrawn again with another digest, in a restored
            directory; the last 1000.
    """

    origin: str | None = None
    highest: int = 0
    digests: Mapping[int, str] = field(default_factory=dict)
    _: KW_ONLY
    withdrawn: Mapping[int, Withdrawal] = field(default_factory=dict)
    superseded: tuple[Withdrawal, ...] = ()

    def listing(
        self, listings: Iterable[Listing], highest: int | None = None, origin: str | None = None
    ) -> LineRecord:
        """Return the record after these listings of the authority.

        A record without an origin id takes the authority's. A number keeps its digest: another digest in a
        list is a conflict, for every reader of the list to see. An authority without a highest number (0.4.0)
        means the highest one in its list.
        """
        listed = {listing.number: listing.digest for listing in listings}
        top = max(listed, default=0) if highest is None else highest
        digests = _newest({**listed, **self.digests})
        origin = self.origin or origin
        if (origin, digests) == (self.origin, self.digests) and top <= self.highest:
            return self
        return replace(self, origin=origin, digests=digests, highest=max(top, self.highest))

    def with_digests(self, digests: Mapping[int, str]) -> LineRecord:
        """Return the record with these digests and no others."""
        return replace(self, digests=_newest(digests))

    def withdrawing(self, withdrawal: Withdrawal) -> LineRecord:
        """Return the record with one more withdrawal. The first reason for the same digest stays."""
        known = self.withdrawn.get(withdrawal.number)
        if known is not None and known.digest == withdrawal.digest:
            return self
        kept = replace(withdrawal, reason=printable_reason(withdrawal.reason))
        withdrawn = _newest({**self.withdrawn, withdrawal.number: kept})
        older = [*self.superseded, *([known] if known else ())]
        superseded = [
            withdrawal
            for withdrawal in older
            if (withdrawal.number, withdrawal.digest) != (kept.number, kept.digest)
        ]
        return replace(self, withdrawn=withdrawn, superseded=tuple(superseded[-MAX_REMEMBERED:]))

    def vouches(self, number: int, digest: str) -> bool:
        """Return whether the authority listed this version.

        A number older than all remembered ones counts as listed, once older ones had to be forgotten.
        """
        forgotten = len(self.digests) >= MAX_REMEMBERED and number < min(self.digests)
        return forgotten or self.digests.get(number) == digest

    def withdrawal(self, number: int, digests: Collection[str]) -> Withdrawal | None:
        """Return the withdrawal of the version with this number and one of these digests; None for none."""
        found = self.withdrawn.get(number)
        if found is not None and found.digest in digests:
            return found
        others = (other for other in self.superseded if other.number == number and other.digest in digests)
        return next(others, None)

    def to_bytes(self) -> bytes:
        """Return the record as a line of JSON."""
        withdrawn = {
            str(number): {"digest": withdrawal.digest, "reason": withdrawal.reason}
            for number, withdrawal in sorted(self.withdrawn.items())
        }
        digests = {str(number): digest for number, digest in sorted(self.digests.items())}
        known: dict[str, Any] = {
            "origin": self.origin,
            "highest": self.highest,
            "digests": digests,
            "withdrawn": withdrawn,
        }
        if self.superseded:
            known["superseded"] = [
                {"version": withdrawal.version, "digest": withdrawal.digest, "reason": withdrawal.reason}
                for withdrawal in self.superseded
            ]
        return json.dumps(known, separators=(",", ":")).encode() + b"\n"


def parse_record(data: bytes) -> LineRecord:
    """Return the record in a line of JSON; unknown keys are ignored.

    Raises:
        LineRecordError: the line holds none, or breaks a bound.
    """
    try:
        values = parse_json(data)
    except ValueError:
        raise LineRecordError("it is not JSON") from None
    if not isinstance(values, dict):
        raise LineRecordError("it is no JSON object")
    origin, highest = values.get("origin"), values.get("highest")
    if origin is not None and not (isinstance(origin, str) and 1 <= len(origin) <= MAX_ORIGIN):
        raise LineRecordError("its origin id is malformed")
    if type(highest) is not int or not 0 <= highest <= MAX_VERSION:
        raise LineRecordError("its highest number is malformed")
    digests = {number: _digest(value) for number, value in _by_number(values, "digests")}
    withdrawn = {number: _withdrawal(number, value) for number, value in _by_number(values, "withdrawn")}
    superseded = tuple(map(_superseded, _list(values.get("superseded", []))[-MAX_REMEMBERED:]))
    return LineRecord(origin, highest, _newest(digests), withdrawn=_newest(withdrawn), superseded=superseded)


def read_record(path: Path) -> LineRecord | None:
    """Return the record in a file; None where there is no file. Blocks on the disk.

    Raises:
        LocalDiskError: the file can't be read, or holds no record.
    """
    with disk_errors("could not read", path):
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_FILE + 1)
        except FileNotFoundError:
            return None
    try:
        if len(data) > _MAX_FILE:
            raise LineRecordError(f"it has more than {_MAX_FILE} bytes")
        return parse_record(data)
    except LineRecordError as error:
        raise LocalDiskError(
            f"{path} is damaged: {error}; remove it and start again: a middle hears of withdrawn versions "
            "anew, an origin forgets them"
        ) from None


def _newest(known: Mapping[int, T]) -> dict[int, T]:
    return {number: known[number] for number in islice(sorted(known, reverse=True), MAX_REMEMBERED)}


def _by_number(values: Mapping[str, Any], key: str) -> list[tuple[int, Any]]:
    """Return the items of an object whose keys are version numbers."""
    found = values.get(key)
    if not isinstance(found, dict):
        raise LineRecordError(f"its {key} are no JSON object")
    return [(_number(number), value) for number, value in found.items()]


def _number(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else 0
    if not 1 <= number <= MAX_VERSION or str(number) != text:
        raise LineRecordError(f"{text[:40]!r} is no version number")
    return number


def _digest(value: object) -> str:
    if not is_digest(value):
        raise LineRecordError("a digest without 64 hex digits")
    return str(value)


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise LineRecordError("its superseded withdrawals are no list")
    return value


def _superseded(value: object) -> Withdrawal:
    version = value.get("version") if isinstance(value, dict) else None
    if not isinstance(version, str) or version_number(version) is None:
        raise LineRecordError("a malformed superseded withdrawal")
    return _withdrawal(version_number(version) or 0, value)


def _withdrawal(number: int, value: object) -> Withdrawal:
    if not isinstance(value, dict) or not isinstance(value.get("reason"), str):
        raise LineRecordError(f"the withdrawal of {version_name(number)} is malformed")
    return Withdrawal(version_name(number), _digest(value.get("digest")), printable_reason(value["reason"]))
