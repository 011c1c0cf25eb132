"""What people see of an archive: pages, previews, and failures as they want to read them."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from aiohttp import web

# fmt: off
_NAMES = (
    "NUL", "SOH", "STX", "ETX", "EOT", "ENQ", "ACK", "a", "b", "t", "n", "v", "f", "r", "SO", "SI",
    "DLE", "DC1", "DC2", "DC3", "DC4", "NAK", "SYN", "ETB", "CAN", "EM", "SUB", "ESC", "FS", "GS", "RS", "US",
)
# fmt: on
"""Control characters, as Haskell writes them."""


def preview(data: bytes) -> str:
    """Bytes as a Haskell string literal: what Casa shows of a blob."""
    shown = []
    for position, byte in enumerate(data):
        following = data[position + 1 : position + 2]
        if byte == 0x22 or byte == 0x5C:
            shown.append("\\" + chr(byte))
        elif 0x20 <= byte < 0x7F:
            shown.append(chr(byte))
        elif byte == 0x7F:
            shown.append("\\DEL")
        elif byte > 0x7F:
            shown.append(f"\\{byte}" + ("\\&" if following.isdigit() else ""))
        else:
            shown.append(f"\\{_NAMES[byte]}" + ("\\&" if byte == 0x0E and following == b"H" else ""))
    return f'"{"".join(shown)}"'


def iso(seconds: float) -> str:
    """``2019-12-09T11:51:18.123456Z``."""
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def page(title: str, body: str) -> web.Response:
    """``body`` is HTML."""
    text = (
        f"<!DOCTYPE html>\n<html><head><title>{html.escape(title)}</title></head><body>{body}</body></html>\n"
    )
    return web.Response(text=text, content_type="text/html")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the cells of ``rows`` are HTML."""
    head = "".join(f"<th>{html.escape(one)}</th>" for one in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def failure(
    request: web.Request,
    status: int,
    message: str,
    more: Mapping[str, Any] | None = None,
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
