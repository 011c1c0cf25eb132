"""Addresses of backup servers as people write them ─▶ base URLs with the port of backup servers."""

from __future__ import annotations

from urllib.parse import urlsplit

from shardcast.addresses import server_url
from shardcast.cli.backup.server_options import PORT
from shardcast.errors import UsageError


def server_address(text: str) -> str:
    """Return the base URL of a backup server; without a port, ``PORT`` for http, and 443 for https.

    Raises:
        UsageError: the text is no address.
    """
    url = server_url(text)
    scheme, separator, rest = text.strip().partition("://")
    try:
        named = urlsplit(f"//{rest if separator else scheme}").port
    except ValueError:
        raise UsageError(f"{text!r} is no address of a server") from None
    if named is None and not (separator and scheme.lower() == "https"):
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return f"{parts.scheme}://{host}:{PORT}{parts.path}"
    return url
