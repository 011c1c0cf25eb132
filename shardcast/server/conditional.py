"""Conditional requests and ranges (RFC 9110, 13 and 14): the bytes of a representation for a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shardcast.protocol.wire import Unsatisfiable, matches_if_match, matches_if_range, parse_range


@dataclass(frozen=True, slots=True)
class Selection:
    """The part of a representation for a request.

    Attributes:
        status: 200 for the whole, 206 for a range; 304, 412 and 416 need no bytes.
        start: the first byte.
        end: the byte after the last.
        length: bytes of the whole representation.
    """

    status: int
    start: int
    end: int
    length: int

    @property
    def has_bytes(self) -> bool:
        """Whether the answer carries bytes of the representation."""
        return self.status in (200, 206)

    @property
    def headers(self) -> dict[str, str]:
        """``Content-Range`` of an answer to a range; empty for the other answers."""
        if self.status == 206:
            return {"Content-Range": f"bytes {self.start}-{self.end - 1}/{self.length}"}
        return {"Content-Range": f"bytes */{self.length}"} if self.status == 416 else {}


def select(
    headers: Mapping[str, str], tag: str | None, length: int, *, if_match: bool = True, ranges: bool = True
) -> Selection:
    """Return the part of a representation selected by a request's headers.

    The preconditions come in the order of RFC 9110, 13.2.2. Those about times are passed over: the tags are
    digests, and say more.

    Args:
        headers: headers of the request, with names in any case.
        tag: the entity tag without its quotes; None for a representation without one.
        length: bytes of the representation.
        if_match: False for a server that passes ``If-Match`` over.
        ranges: False where only the whole can be sent.
    """
    whole = Selection(200, 0, length, length)
    wanted, known = headers.get("If-Match"), headers.get("If-None-Match")
    if if_match and wanted is not None and not matches_if_match(wanted, tag):
        return Selection(412, 0, 0, length)
    if known is not None and matches_if_match(known, tag):
        return Selection(304, 0, 0, length)
    if_range = headers.get("If-Range")
    if not ranges or (if_range is not None and not matches_if_range(if_range, tag)):
        return whole
    try:
        part = parse_range(headers.get("Range"), length)
    except Unsatisfiable:
        return Selection(416, 0, 0, length)
    return Selection(206, *part, length) if part else whole
