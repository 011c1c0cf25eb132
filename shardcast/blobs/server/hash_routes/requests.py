"""Requests to a hash server, parsed, and its words for wrong ones: hashserver's, to the letter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from shardcast.blobs.directory.compression import CODINGS
from shardcast.blobs.directory.layout import SUFFIXES
from shardcast.digest import is_digest
from shardcast.json_text import parse_json
from shardcast.protocol.wire import TEXT

MAX_BODY = 16 << 20
"""Bytes of a list of checksums: some 240 000."""
_METHODS = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
"""Methods allowed to a page of another site."""
_HEX = frozenset("0123456789abcdefABCDEF")


class BareResponse(web.Response):
    """An answer without a media type, as hashserver's short ones are."""


class BadRequest(Exception):
    """A request answered with 400.

    Attributes:
        payload: the answer's body, to be written as JSON.
    """

    def __init__(self, payload: object) -> None:
        super().__init__(payload)
        self.payload = payload


class InvalidData(BadRequest):
    """A request with a malformed value, described in pydantic's words."""

    def __init__(self, kind: str, where: Sequence[str | int], message: str, value: object) -> None:
        """Describe the error ``kind`` at a place: ``path`` or ``body``, then keys and indices."""
        wrong = {"type": kind, "loc": list(where), "msg": message, "input": value}
        super().__init__({"message": "Invalid data", "exception": wrong})


def json_response(payload: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Return a JSON answer, without blanks as hashserver's."""
    try:
        text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:  # NaN or an infinity, which Python reads and JSON lacks: null
        return json_response(json.loads(json.dumps(payload), parse_constant=lambda _: None), status, headers)
    body = text.encode("utf-8", "backslashreplace")  # a lone surrogate becomes \uXXXX, JSON's own escape
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)


def plain(text: str, status: int) -> web.Response:
    """Return an answer in plain text."""
    return web.Response(body=text.encode(), status=status, headers={"Content-Type": TEXT})


def parse_checksum(text: object, *where: str | int) -> str:
    """Return a checksum in lower case.

    Raises:
        InvalidData: ``text`` is no checksum; ``where`` is its place in the request.
    """
    if is_digest(text):
        return str(text)
    if not isinstance(text, str):
        raise InvalidData("string_type", where, "Input should be a valid string", text)
    if len(text) % 2:
        raise InvalidData("value_error", where, "Value error, Wrong length", text)
    wrong = next((index for index, character in enumerate(text) if character not in _HEX), None)
    if wrong is not None:
        message = f"Value error, non-hexadecimal number found in fromhex() arg at position {wrong}"
        raise InvalidData("value_error", where, message, text)
    if len(text) != 64:
        raise InvalidData("value_error", where, "Value error, Wrong length", text)
    return text.lower()


def parse_checksums(body: bytes) -> list[str]:
    """Return the checksums listed in a body.

    Raises:
        InvalidData: the body is no list of checksums.
        BadRequest: the body is no JSON.
    """
    if not body:
        raise InvalidData("missing", ["body"], "Field required", None)
    try:
        listed: Any = parse_json(body)
    except json.JSONDecodeError as error:
        raise InvalidData("json_invalid", ["body", error.pos], "JSON decode error", {}) from None
    except ValueError:  # not UTF-8, a number of 5000 digits, lists in lists
        raise BadRequest({"detail": "There was an error parsing the body"}) from None
    if listed is None:
        raise InvalidData("missing", ["body"], "Field required", None)
    if not isinstance(listed, list):
        raise InvalidData("list_type", ["body"], "Input should be a valid list", listed)
    return [parse_checksum(item, "body", index) for index, item in enumerate(listed)]


def checksum_of(request: web.Request) -> str:
    """Return the checksum in a request's path, in lower case.

    Raises:
        InvalidData: the path's part is no checksum.
        HTTPNotFound: the part has an encoded slash.
    """
    text = request.match_info["checksum"]
    if "/" in text:
        raise web.HTTPNotFound(body=b'{"detail":"Not Found"}', content_type="application/json")
    return parse_checksum(text, "path", "checksum")


def coding_of(request: web.Request) -> str | None:
    """Return the content coding for storing a body; None for storing the body as the blob itself.

    The latter also for a coding unknown to stores.

    Raises:
        HTTPUnsupportedMediaType: the coding cannot be decoded here.
    """
    named = request.headers.get("Content-Encoding", "").strip().lower().removeprefix("x-")
    if named in SUFFIXES and named not in CODINGS:
        text = (
            f"this server can't decode {named}: install shardcast[store] there, or send the bytes as they are"
        )
        raise web.HTTPUnsupportedMediaType(text=text)
    return named if named in CODINGS else None


def url_of_path(request: web.Request, path: str) -> str:
    """Return the URL of another path of this server."""
    try:
        return str(request.url.with_path(path, keep_query=True))
    except ValueError:  # the request's Host is no host's name
        return str(request.rel_url.with_path(path, keep_query=True))


def preflight(request: web.Request, method: str) -> web.Response:
    """Answer a preflight request for ``method`` from a page of another site."""
    known = method in _METHODS.split(", ")
    response = plain("OK" if known else "Disallowed CORS method", 200 if known else 400)
    response.headers.update({"Access-Control-Allow-Methods": _METHODS, "Access-Control-Max-Age": "600"})
    if names := request.headers.get("Access-Control-Request-Headers"):
        response.headers["Access-Control-Allow-Headers"] = names
    return response
