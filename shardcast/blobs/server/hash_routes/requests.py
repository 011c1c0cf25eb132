"""What requests to a hash server say, and how it tells what is wrong with them: as hashserver does, to the
letter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from shardcast.blobs.directory.compression import CODINGS
from shardcast.blobs.directory.layout import SUFFIXES
from shardcast.digest import is_digest
from shardcast.protocol.wire import TEXT

MOST_BODY = 16 << 20
"""Bytes of a list of checksums: some 240 000."""
_METHODS = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
"""Methods that a page of another site may use."""
_HEX = frozenset("0123456789abcdefABCDEF")


class BareResponse(web.Response):
    """An answer without a media type, as hashserver's short ones are."""


class Refused(Exception):
    """A request that gets no blob.

    Attributes:
        said: what is the matter, as a hash server tells it.
    """

    def __init__(self, said: object) -> None:
        super().__init__(said)
        self.said = said


class InvalidData(Refused):
    """A request that makes no sense."""

    def __init__(self, kind: str, where: Sequence[str | int], message: str, value: object) -> None:
        wrong = {"type": kind, "loc": list(where), "msg": message, "input": value}
        super().__init__({"message": "Invalid data", "exception": wrong})


def said(value: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """JSON, as closely written as hashserver's."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:  # a number that JSON has none for, as Python reads some: it is told as null
        return said(json.loads(json.dumps(value), parse_constant=lambda _: None), status, headers)
    body = text.encode("utf-8", "backslashreplace")  # for half a character, that is JSON's way too
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)


def plain(text: str, status: int) -> web.Response:
    return web.Response(body=text.encode(), status=status, headers={"Content-Type": TEXT})


def parse_checksum(text: object, *where: str | int) -> str:
    """A checksum in lower case.

    Raises:
        InvalidData: it is none.
    """
    if is_digest(text):
        return str(text)
    if not isinstance(text, str):
        raise InvalidData("string_type", where, "Input should be a valid string", text)
    if len(text) % 2:
        raise InvalidData("value_error", where, "Value error, Wrong length", text)
    wrong = next((at for at, character in enumerate(text) if character not in _HEX), None)
    if wrong is not None:
        message = f"Value error, non-hexadecimal number found in fromhex() arg at position {wrong}"
        raise InvalidData("value_error", where, message, text)
    if len(text) != 64:
        raise InvalidData("value_error", where, "Value error, Wrong length", text)
    return text.lower()


def parse_checksums(body: bytes) -> list[str]:
    """The checksums that the body of a request lists.

    Raises:
        InvalidData: it is no list of checksums.
        Refused: it is nothing that JSON could be.
    """
    if not body:
        raise InvalidData("missing", ["body"], "Field required", None)
    try:
        listed: Any = json.loads(body)
    except json.JSONDecodeError as error:
        raise InvalidData("json_invalid", ["body", error.pos], "JSON decode error", {}) from None
    except (ValueError, RecursionError):  # not UTF-8, a number of 5000 digits, lists in lists
        raise Refused({"detail": "There was an error parsing the body"}) from None
    if listed is None:
        raise InvalidData("missing", ["body"], "Field required", None)
    if not isinstance(listed, list):
        raise InvalidData("list_type", ["body"], "Input should be a valid list", listed)
    return [parse_checksum(one, "body", index) for index, one in enumerate(listed)]


def accepted_forms(header: str | None, codings: Sequence[str]) -> tuple[tuple[str | None, ...], bool]:
    """The forms of a blob that a reader takes by its ``Accept-Encoding``, the best first; and whether it
    takes it decoded. None is the blob as it is."""
    if header is None:
        return (None,), True
    weights: dict[str, float] = {}
    for part in header.lower().split(","):
        name, _, parameters = part.partition(";")
        name = name.strip().removeprefix("x-")
        if name:
            weights[name] = max(weights.get(name, 0.0), _weight(parameters))
    named = sorted(
        (coding for coding in codings if weights.get(coding, 0.0) > 0), key=lambda one: -weights[one]
    )
    identity = weights.get("identity", weights.get("*") if "*" in weights else None)
    if identity is None:
        return (*named, None), True
    if not identity:
        return (*named,), False
    before = [one for one in named if weights[one] >= identity]
    return (*before, None, *(one for one in named if one not in before)), True


def _weight(parameters: str) -> float:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0


def checksum_of(request: web.Request) -> str:
    """Return the checksum in a request's path, in lower case.

    Raises:
        InvalidData: the path's part is no checksum.
        HTTPNotFound: the part has a slash in it, which the URL encodes.
    """
    text = request.match_info["checksum"]
    if "/" in text:
        raise web.HTTPNotFound(body=b'{"detail":"Not Found"}', content_type="application/json")
    return parse_checksum(text, "path", "checksum")


def coding_of(request: web.Request) -> str | None:
    """How a body is coded that is to be kept as it is; None where it is the blob itself.

    Raises:
        HTTPUnsupportedMediaType: in a way that can't be decoded here.
    """
    named = request.headers.get("Content-Encoding", "").strip().lower().removeprefix("x-")
    if named in SUFFIXES and named not in CODINGS:
        text = (
            f"this server can't decode {named}: install shardcast[store] there, or send the bytes as they are"
        )
        raise web.HTTPUnsupportedMediaType(text=text)
    return named if named in CODINGS else None


def elsewhere(request: web.Request, path: str) -> str:
    """The URL of another path here."""
    try:
        return str(request.url.with_path(path, keep_query=True))
    except ValueError:  # the request's Host is no host's name
        return str(request.rel_url.with_path(path, keep_query=True))


def preflight(request: web.Request, asked: str) -> web.Response:
    known = asked in _METHODS.split(", ")
    response = plain("OK" if known else "Disallowed CORS method", 200 if known else 400)
    response.headers.update({"Access-Control-Allow-Methods": _METHODS, "Access-Control-Max-Age": "600"})
    if wanted := request.headers.get("Access-Control-Request-Headers"):
        response.headers["Access-Control-Allow-Headers"] = wanted
    return response
