"""The proxy of a request, by the variables that other programs read, too."""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies

_PORTS = {"http": 80, "https": 443}


def proxy_of(url: str) -> str | None:
    """Return the proxy for a URL by the environment; None for none, or for one without HTTP.

    The proxy's credentials are those in its own address; no ``.netrc`` is read.
    """
    parts, proxies = urlsplit(url), getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or is_direct(parts, proxies.get("no", "")):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    return proxy if proxy.startswith(("http://", "https://")) else None


def through_proxy(url: str) -> str:
    """Return for an error through which proxy a URL is asked, without credentials; empty for none."""
    proxy = proxy_of(url)
    if proxy is None:
        return ""
    address = urlsplit(proxy).netloc.rpartition("@")[2]
    return f" through the proxy {address} of the environment (no_proxy names servers to ask without)"


def is_direct(server: SplitResult, no_proxy: str) -> bool:
    """Return whether a server is asked without a proxy: this machine, or one that ``no_proxy`` names.

    Args:
        server: its URL.
        no_proxy: names, which count for those below them, addresses and networks, each with or without a
            port, with commas between them; ``*`` is all.
    """
    host = (server.hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    if address is not None and address.is_loopback:
        return True
    port = server.port or _PORTS.get(server.scheme)
    return any(_names(item.strip().lower(), host, address, port) for item in no_proxy.split(","))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return a host as an address; None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _names(
    item: str, host: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None, port: int | None
) -> bool:
    """Return whether an item of ``no_proxy`` names a server."""
    if item in ("", "*"):
        return item == "*"
    name, colon, digits = item.rpartition(":")
    if colon and digits.isdecimal() and (":" not in name or name.endswith("]")):
        if int(digits[:6]) != port:
            return False
        item = name
    item = item.strip("[]")
    if address is None:
        name = item.removeprefix("*").strip(".")
        return bool(name) and (host == name or host.endswith(f".{name}"))
    try:
        return address in ipaddress.ip_network(item, strict=False)
    except ValueError:
        return False
