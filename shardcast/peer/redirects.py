"""A request as it leaves this machine: redirected within its server's host alone, by the proxy that is set.

A server chooses where a redirect leads. What is followed anywhere reaches hosts that only this machine can
reach, and what is followed after a POST repeats there what was meant for the server. So GET and HEAD alone
are followed, to the same host and never from https to http. Every other answer is handed on as it is, and
`failures.status_error` says where it leads.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from shardcast.errors import BadAnswer
from shardcast.protocol.wire import REDIRECTS

MAX_REDIRECTS = 5
_FOLLOWED = frozenset({"GET", "HEAD"})


async def requested(
    session: aiohttp.ClientSession, server: str, path: str, method: str, **more: Any
) -> aiohttp.ClientResponse:
    """Ask a server, follow its redirects where they are followed, and return the answer once its head is
    here; ``more`` is for aiohttp.

    Raises:
        BadAnswer: there are too many redirects.
        aiohttp.ClientError, OSError, TimeoutError: as aiohttp has it.
    """
    url = server + path
    for _ in range(MAX_REDIRECTS + 1):
        response = await session.request(method, url, allow_redirects=False, proxy=proxy_of(url), **more)
        target = _target(server, url, response) if method in _FOLLOWED else None
        if target is None:
            return response
        response.release()
        url = target
    raise BadAnswer(server, f"{method} {path}: more than {MAX_REDIRECTS} redirects")


def _target(server: str, url: str, response: aiohttp.ClientResponse) -> str | None:
    """Return where a redirect of this server leads; None for an answer that is none, or is not followed."""
    location = response.headers.get("Location")
    if response.status not in REDIRECTS or not location:
        return None
    try:
        target = urljoin(url, location)
        return target if _may_follow(urlsplit(server), urlsplit(url), urlsplit(target)) else None
    except ValueError:
        return None


def _may_follow(server: SplitResult, asked: SplitResult, target: SplitResult) -> bool:
    if target.username is not None or target.password is not None:
        return False
    safe = target.scheme == "https" or (target.scheme, asked.scheme) == ("http", "http")
    return safe and target.hostname == server.hostname


def proxy_of(url: str) -> str | None:
    """Return the proxy that the environment names for a URL. Its credentials are those in its own address;
    no ``.netrc`` is read."""
    parts, proxies = urlsplit(url), getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.netloc):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    return proxy if proxy.startswith(("http://", "https://")) else None
