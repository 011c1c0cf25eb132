"""Long lists of checksums, read piece by piece.

The JSON module reads all at once, whatever waits: a list of 16 MiB for 0.1 s, and as many empty lists for
seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from aiohttp import web

from shardcast.blobs.server.hash_routes.bodies import whole
from shardcast.blobs.server.hash_routes.requests import MOST_BODY, Refused, parse_checksum, parse_checksums
from shardcast.server.turns import Turns

_SHORT = 256 << 10
"""Bytes of a list that is read at once: some 4000 checksums."""
_PIECE = 32 << 10
_BLANKS = b" \t\r\n"
_WRONG = {"detail": "There was an error parsing the body"}


class Lists:
    """Reads the lists that requests to a hash server send."""

    def __init__(self) -> None:
        self._turns = Turns(rest=1.0)

    async def read(self, request: web.Request) -> list[str]:
        """Return the checksums that a request lists.

        Raises:
            InvalidData: that is no list of checksums.
            Refused: it is nothing that JSON could be, or a long list of something else.
            HTTPException, ConnectionError: as of ``read_body``.
        """
        body = await whole(request, MOST_BODY)
        if len(body) <= _SHORT:
            return parse_checksums(body)
        return [digest for some in await self._turns.take(listed(body)) for digest in some]


def listed(body: bytes) -> Iterator[list[str]]:
    """Yield the checksums of a long list.

    Raises:
        InvalidData: one of them is none.
        Refused: this is no list, or it has something in it that is longer than a checksum, or has parts.
    """
    text = body.strip(_BLANKS)
    if not (text.startswith(b"[") and text.endswith(b"]")):
        raise Refused(_WRONG)
    start, end, index = 1, len(text) - 1, 0
    while start <= end:
        cut = text.find(b",", start + _PIECE, start + 2 * _PIECE)
        if cut < 0:
            cut = end
        some = _strings(text[start:cut]) if cut - start <= 2 * _PIECE else []
        if not some:
            raise Refused(_WRONG)
        yield [parse_checksum(one, "body", index + count) for count, one in enumerate(some)]
        start, index = cut + 1, index + len(some)


def _strings(piece: bytes) -> list[object]:
    if b"[" in piece or b"{" in piece:
        raise Refused(_WRONG)
    try:
        return list(json.loads(f"[{piece.decode()}]"))
    except ValueError:
        raise Refused(_WRONG) from None
