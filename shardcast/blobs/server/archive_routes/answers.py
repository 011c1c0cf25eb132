"""What an archive understands of a request, and what it answers where that is no blob: as Casa does."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from aiohttp import web

from shardcast.blobs.server.hash_routes.requests import accepted_forms
from shardcast.server.connections import BodyTooSlow

NOT_HERE = "Not Found"

_KEY = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)

T = TypeVar("T", bound=web.StreamResponse)


def key_of(request: web.Request) -> str:
    """The key in a path: its first 64 characters; what follows is passed over.

    Raises:
        HTTPNotFound: they are no key.
    """
    found = _KEY.match(request.match_info["key"])
    if not found:
        raise web.HTTPNotFound
    return found[0].lower()


def compressed(request: web.Request, response: T) -> T:
    """Sent as gzip to who takes that, as all that Casa sends is."""
    response.headers["Vary"] = "Accept-Encoding"
    forms, _ = accepted_forms(request.headers.get("Accept-Encoding"), ("gzip",))
    if "gzip" in forms:
        response.enable_compression(web.ContentCoding.gzip)
    return response


def page(title: str, body: str) -> web.Response:
    """``body`` is HTML."""
    text = (
        f"<!DOCTYPE html>\n<html><head><title>{html.escape(title)}</title></head><body>{body}</body></html>\n"
    )
    return web.Response(text=text, content_type="text/html")


def failure(
    request: web.Request,
    status: int,
    message: str,
    more: Mapping[str, Any] | None = None,
    *,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """A failure: as JSON for who would rather have that than HTML."""
    if _wants_json(request.headers.get("Accept", "")):
        response = web.json_response({"message": message, **(more or {})}, status=status, headers=headers)
    else:
        details = "; ".join(str(one) for one in (more or {}).get("errors", ()))
        response = page(message, f"<h1>{html.escape(message)}</h1><p>{html.escape(details)}</p>")
        response.set_status(status)
        response.headers.update(headers or {})
    return response


def too_large(length: int, most: int) -> web.Response:
    """Also ends the connection: what was going to be sent needn't be."""
    text = f"Too Large: {length} bytes; at most {most} are taken\n"
    return _last(web.Response(status=413, text=text))


def coded(request: web.Request) -> web.Response | None:
    """What answers a body that would have to be decoded first, to who knows how many bytes; else None."""
    coding = request.headers.get("Content-Encoding", "").strip().lower()
    if coding in ("", "identity"):
        return None
    more = {"errors": ["send it without a Content-Encoding"]}
    return _last(failure(request, 415, "Unsupported Media Type", more))


def stalled(request: web.Request, error: BodyTooSlow) -> web.Response:
    return _last(failure(request, 408, f"Request Timeout: {error}"))


def _last(response: web.Response) -> web.Response:
    response.force_close()
    return response


def _wants_json(accept: str) -> bool:
    """Whether JSON is named with a higher weight than HTML, or before it."""
    best, json = 0.0, False
    for one in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in one.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = float(parameter[2:])
                except ValueError:
                    weight = 0.0
        if weight > best and kind in ("application/json", "text/html", "text/*", "*/*"):
            best, json = weight, kind == "application/json"
    return json
