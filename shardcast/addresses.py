"""Addresses of servers as people write them ─▶ base URLs.

``1.2.3.4``, ``host:9000``, ``[::1]:9000``, ``https://host/prefix``: http without a scheme, port 8000 (443 for
https) without a port; a path prefix is kept.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from shardcast.constants import HTTP_PORT
from shardcast.errors import UsageError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9.])?", re.ASCII)
_BRACKETED = re.compile(r"\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._~-]+)?\](?::[0-9]*)?", re.ASCII)
_PREFIX = re.compile(r"[A-Za-z0-9/._~%!$&'()*+,;=:@-]*", re.ASCII)
_QUOTED = re.compile(r"""\s*(?:"([^"']*)"|'([^"']*)'|([^\s,"']+))(?:[\s,]+|$)""")


def server_url(address: str) -> str:
    """Return the base URL of one server, without a slash at the end: ``http://1.2.3.4:8000``.

    Raises:
        UsageError: the text is not an address.
    """
    text = address.strip()
    scheme, separator, _ = text.partition("://")
    try:
        if any(char.isspace() or not char.isprintable() for char in text):
            raise ValueError("there is white space or an unprintable character in it")  # urlsplit drops it
        parts = urlsplit(text if separator else f"http://{text}")
        port = parts.port
        host = parts.hostname or ""
        if not separator:
            scheme = "http"
        if scheme.lower() not in ("http", "https"):
            raise ValueError("the scheme must be http or https")
        if parts.username is not None or parts.password is not None:
            raise ValueError("user names and passwords don't belong in an address")
        if parts.query or parts.fragment or not _PREFIX.fullmatch(parts.path):
            raise ValueError("after the port only a path prefix can follow")
        if port is None:
            if parts.netloc.endswith(":"):
                raise ValueError("there is no port after the colon")
            port = 443 if scheme.lower() == "https" else HTTP_PORT or 8000
        if port == 0:
            raise ValueError("port 0 can't be connected to")
        if "[" in parts.netloc or "]" in parts.netloc:
            if not _BRACKETED.fullmatch(parts.netloc):
                raise ValueError("in brackets there must be an IPv6 address, and only a port can follow")
            host = f"[{ipaddress.IPv6Address(host)}]"
        elif not _HOST_NAME.fullmatch(host):
            raise ValueError("that is not a host's name" if host else "there is no host")
    except ValueError as error:
        raise UsageError(
            f"{address!r} is not a server's address ({error}); write host, host:port, [IPv6]:port or a URL"
        ) from None
    return f"{scheme.lower()}://{host}:{port}{parts.path.rstrip('/')}"


def server_urls(addresses: Iterable[str]) -> list[str]:
    """Return the base URLs of several servers, in order, each once; a text may list several.

    Raises:
        UsageError: a text is not an address, or the list is empty.
    """
    if isinstance(addresses, str):
        return parse_servers(addresses)
    urls = list(dict.fromkeys(server_url(address) for address in addresses))
    if not urls:
        raise UsageError("no servers: name them with an option or in IP_ADDR_LIST")
    return urls


def parse_servers(text: str) -> list[str]:
    """Return the base URLs in an option's list, separated by commas or white space.

    Raises:
        UsageError: a word is not an address, or the list is empty.
    """
    return server_urls(address for address in re.split(r"[,\s]+", text) if address)


def parse_ip_addr_list(text: str) -> list[str]:
    """Return the base URLs in ``IP_ADDR_LIST``.

    Words are separated by spaces, newlines or commas, quoted or not, also as bash prints an array:
    ``("10.0.0.1" "10.0.0.2")``.

    Raises:
        UsageError: the list is malformed or empty, or a word is not an address.
    """
    words = text.strip()
    if words.startswith("(") != words.endswith(")"):
        raise UsageError(f'IP_ADDR_LIST={text!r} has one parenthesis; write ("a" "b") or a b')
    if words.startswith("("):
        words = words[1:-1].strip()
    found, position = [], 0
    while position < len(words):
        word = _QUOTED.match(words, position)
        if not word:
            raise UsageError(f"IP_ADDR_LIST={text!r} can't be read at {words[position:][:20]!r}; write a b c")
        found.append(word[1] or word[2] or word[3] or "")
        position = word.end()
    try:
        return server_urls(found)
    except UsageError as error:
        raise UsageError(f"IP_ADDR_LIST={text!r}: {error}") from None


def parse_networks(text: str) -> tuple[Network, ...]:
    """Return the networks in a list with commas: ``10.0.0.7, 10.1.0.0/16, fd00::/8``.

    Raises:
        UsageError: an item is neither an address nor a network.
    """
    try:
        return tuple(
            ipaddress.ip_network(item.strip(), strict=False) for item in text.split(",") if item.strip()
        )
    except ValueError as error:
        raise UsageError(f"{error}; write addresses or networks: 10.0.0.7, 10.1.0.0/16") from None
