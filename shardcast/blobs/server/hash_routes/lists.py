"""Long lists of checksums, parsed piece by piece.

The JSON module parses a body in one go and blocks the event loop meanwhile: 0.1 s for a list of 16 MiB, and
seconds for as many empty lists.
"""

from __future__ import annotations

from collections.abc import Iterator

from aiohttp import web

from shardcast.blobs.server.hash_routes.bodies import read_wanted_body
from shardcast.blobs.server.hash_routes.requests import MAX_BODY, BadRequest, parse_checksum, parse_checksums
from shardcast.json_text import parse_json
from shardcast.server.turns import Turns

_SHORT = 256 << 10
"""Maximum bytes of a list parsed in one go: some 4000 checksums."""
_PIECE = 32 << 10
"""Bytes of a longer list parsed in one go, up to the next comma."""
_BLANKS = b" \t\r\n"
_WRONG = {"detail": "There was an error parsing the body"}


class ListParser:
    """The lists in the bodies of requests to a hash server, parsed one long list at a time."""

    def __init__(self) -> None:
        self._turns = Turns(rest=1.0)

    async def read(self, request: web.Request) -> list[str]:
        """Return the checksums listed in a request.

        Raises:
            InvalidData: the body is no list of checksums.
            BadRequest: the body is no JSON, or a long list of something else.
            HTTPException, ConnectionError: as ``read_body`` raises them.
        """
        body = await read_wanted_body(request, MAX_BODY)
        if len(body) <= _SHORT:
            return parse_checksums(body)
        return [digest for batch in await self._turns.run(iter_checksums(body)) for digest in batch]


def iter_checksums(body: bytes) -> Iterator[list[str]]:
    """Yield the checksums of a long list, some at a time.

    Raises:
        InvalidData: an item is no checksum.
        BadRequest: the body is no list, or an item is longer than a checksum or has parts.
    """
    text = body.strip(_BLANKS)
    if not (text.startswith(b"[") and text.endswith(b"]")):
        raise BadRequest(_WRONG)
    start, end, index = 1, len(text) - 1, 0
    while start <= end:
        cut = text.find(b",", start + _PIECE, start + 2 * _PIECE)
        if cut < 0:
            cut = end
        items = _strings(text[start:cut]) if cut - start <= 2 * _PIECE else []
        if not items:
            raise BadRequest(_WRONG)
        yield [parse_checksum(item, "body", index + count) for count, item in enumerate(items)]
        start, index = cut + 1, index + len(items)


def _strings(piece: bytes) -> list[object]:
    """Return the items of a piece of a list.

    Raises:
        BadRequest: the piece is no JSON, or an item has parts.
    """
    if b"[" in piece or b"{" in piece:
        raise BadRequest(_WRONG)
    try:
        return list(parse_json(f"[{piece.decode()}]"))
    except ValueError:
        raise BadRequest(_WRONG) from None
