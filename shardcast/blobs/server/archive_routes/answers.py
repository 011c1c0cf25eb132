"""Parsed requests to an archive, and its answers other than blobs: like Casa's."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from aiohttp import web

from shardcast.blobs.server.negotiation import accepted_forms, prefers_json
from shardcast.server.connections import BodyTooSlow

NOT_HERE = "Not Found"

_KEY = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)

T = TypeVar("T", bound=web.StreamResponse)


def key_of(request: web.Request) -> str:
    """Return the key in a path: its first 64 characters; the rest is passed over.

    Raises:
        HTTPNotFound: the characters are no key.
    """
    found = _KEY.match(request.match_info["key"])
    if not found:
        raise web.HTTPNotFound
    return found[0].lower()


def compressed(request: web.Request, response: T) -> T:
    """Return the response, to be sent as gzip to an accepting client, like all of Casa's."""
    response.headers["Vary"] = "Accept-Encoding"
    forms, _ = accepted_forms(request.headers.get("Accept-Encoding"), ("gzip",))
    if "gzip" in forms:
        response.enable_compression(web.ContentCoding.gzip)
    return response


def page(title: str, body: str) -> web.Response:
    """Return an HTML page; ``body`` is HTML."""
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
    """Return a failure, as JSON to a client that prefers JSON to HTML; ``more`` are further keys."""
    if prefers_json(request.headers.get("Accept", "")):
        response = web.json_response({"message": message, **(more or {})}, status=status, headers=headers)
    else:
        details = "; ".join(str(error) for error in (more or {}).get("errors", ()))
        response = page(message, f"<h1>{html.escape(message)}</h1><p>{html.escape(details)}</p>")
        response.set_status(status)
        response.headers.update(headers or {})
    return response


def too_large(length: int, limit: int) -> web.Response:
    """Return the answer to ``length`` bytes where ``limit`` are taken; the connection ends, unread."""
    text = f"Too Large: {length} bytes; at most {limit} are taken\n"
    return _closing(web.Response(status=413, text=text))


def refuse_coded(request: web.Request) -> web.Response | None:
    """Return the refusal of a body with a content coding; None for a body without one.

    Nothing bounds the bytes of its decoded form.
    """
    coding = request.headers.get("Content-Encoding", "").strip().lower()
    if coding in ("", "identity"):
        return None
    more = {"errors": ["send it without a Content-Encoding"]}
    return _closing(failure(request, 415, "Unsupported Media Type", more))


def too_slow(request: web.Request, error: BodyTooSlow) -> web.Response:
    """Return the answer to a body below the minimum rate."""
    return _closing(failure(request, 408, f"Request Timeout: {error}"))


def _closing(response: web.Response) -> web.Response:
    """Return the response, marked to end the connection afterwards."""
    response.force_close()
    return response
