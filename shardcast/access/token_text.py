"""The text of token files and of ``SHARDCAST_TOKEN``: one token for all servers, or lines ``host=token``.

No function here raises while a variable holds a token: a traceback with local variables would show the token.
Faults of a text are returned, and name lines by number only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from shardcast.access.secret import Secret
from shardcast.addresses import server_url
from shardcast.errors import UsageError

MAX_TOKEN = 4096
"""Bytes of a token; aiohttp refuses headers of more than 8190."""
MAX_TOKENS = 64 * 1024
"""Bytes of a text with several tokens."""

Server = tuple[str, int | None]
"""Host and port of a token; without a port, every port of the host."""

_TOKEN = re.compile(r"[!-~]+", re.ASCII)
_ANY_PORT = 1
"""Stands for the missing port while an address is checked."""
_ALL_SERVERS = "*"


@dataclass(frozen=True)
class Tokens:
    """The tokens of a text.

    Attributes:
        by_server: tokens for single servers.
        general: the token for all other servers; None where they get none.
    """

    by_server: Mapping[Server, Secret] = field(default_factory=dict)
    general: Secret | None = None

    def for_server(self, url: str) -> Secret | None:
        """Return the token for a server, by port before by host; None for none."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return self.by_server.get((host, port)) or self.by_server.get((host, None)) or self.general


def parse_credentials(text: Secret) -> tuple[Tokens, str | None]:
    """Return the tokens of a text, and the fault of the text; None without a fault.

    Each line is a token for all servers, ``host=token`` or ``host:port=token``; ``*=token`` is for all
    servers too. Empty lines and comments (``# …``) don't count.
    """
    by_server: dict[Server, Secret] = {}
    general: Secret | None = None
    lines = [
        (number, line.strip())
        for number, line in enumerate(text.reveal().splitlines(), start=1)
        if line.strip() and line.strip() != "#" and not line.lstrip().startswith("# ")
    ]
    if not lines:
        return Tokens(), "there is nothing in it; write one word of ASCII there"
    for number, line in lines:
        where = f"line {number}: " if len(lines) > 1 else ""
        if len(line) > 2 * MAX_TOKEN:
            return Tokens(), f"{where}there are more than {MAX_TOKEN} bytes in a token"
        if not _TOKEN.fullmatch(line):
            return Tokens(), f"{where}blanks, or characters that are not ASCII; write one word of ASCII there"
        address, token = _split(line)
        if not token:
            return Tokens(), f"{where}no token follows the ="
        if len(token) > MAX_TOKEN:
            return Tokens(), f"{where}there are more than {MAX_TOKEN} bytes in a token"
        if address in (None, _ALL_SERVERS):
            if general is not None:
                return Tokens(), f"{where}a second token for all servers; write host=token"
            general = Secret(token)
            continue
        server = _parse_server(address or "")
        if server is None:
            return Tokens(), f"{where}no address before the =; write host=token or host:port=token"
        if server in by_server:
            return Tokens(), f"{where}a second token for the same server"
        by_server[server] = Secret(token)
    return Tokens(by_server, general), None


def _split(line: str) -> tuple[str | None, str]:
    """Return the address and the token of a line; None for the address of a line with a token alone.

    A token may end with ``=``, as base64 does, so a ``=`` before nothing else belongs to the token; an
    address is known there by its colon.
    """
    address, separator, token = line.partition("=")
    if separator and token.strip("="):
        return address, token
    if separator and (":" in address or address in ("", _ALL_SERVERS)):
        return address, ""
    return None, line


def _parse_server(address: str) -> Server | None:
    """Return host and port of an address; None for text that is no address."""
    if "://" in address or "/" in address or "@" in address:
        return None
    try:
        port = urlsplit(f"//{address}").port
        url = server_url(address if port is not None else f"{address}:{_ANY_PORT}")
    except (UsageError, ValueError):
        return None
    return urlsplit(url).hostname or "", port
