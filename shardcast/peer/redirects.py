"""Requests as they leave this machine: through the proxy that is set, redirected only within a host.

A server chooses where a redirect leads. Followed anywhere, it would reach hosts that only this machine can
reach; followed after a POST, it would repeat there what was meant for the server. So only GET and HEAD are
followed, to the same host and never from https to http. Every other answer is returned as it is, and
`failures.status_error` says where it leads. A token is shown to the named server alone: neither a redirect's
target, on the same host or not, nor a proxy that reads plain requests gets it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from shardcast.access.client_access import ClientAccess
from shardcast.access.live_context import LiveContext
from shardcast.access.secret import HeaderValue, clear_locals, has_secret
from shardcast.errors import BadAnswer
from shardcast.protocol.wire import REDIRECT_STATUSES

MAX_REDIRECTS = 5
"""Redirects of one request that are followed."""
_FOLLOWED = frozenset({"GET", "HEAD"})


async def requested(
    session: aiohttp.ClientSession,
    server: str,
    path: str,
    method: str,
    *,
    tls: LiveContext,
    access: ClientAccess,
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> aiohttp.ClientResponse:
    """Send a request, follow its redirects within the host, and return the answer once its head is here.

    Args:
        session: sends it.
        server: the URL of the server.
        path: of the request.
        method: of the request.
        tls: the contexts of https connections.
        access: what the server is shown, and its redirects' targets are not.
        headers: of the request, wherever it is redirected to.
        **more: for aiohttp.

    Raises:
        BadAnswer: there are too many redirects.
        UsageError: the server is not https, and TLS is required.
        aiohttp.ClientError, OSError, TimeoutError: as aiohttp has it.
    """
    url = server + path
    shown = {**access.headers_for(server, proxy_of(url)), **(headers or {})}
    for _ in range(MAX_REDIRECTS + 1):
        secure = tls.context if url.startswith("https:") else True
        response = await _send(
            session,
            method,
            url,
            headers=shown,
            allow_redirects=False,
            proxy=proxy_of(url),
            ssl=secure,
            **more,
        )
        target = _target(server, url, response) if method in _FOLLOWED else None
        if target is None:
            return response
        response.release()
        url = target
        shown = {name: value for name, value in shown.items() if not isinstance(value, HeaderValue)}
    raise BadAnswer(server, f"{method} {path}: more than {MAX_REDIRECTS} redirects")


async def _send(session: aiohttp.ClientSession, method: str, url: str, **more: Any) -> aiohttp.ClientResponse:
    """Send one request, and return the answer once its head is here.

    Raises:
        aiohttp.ClientError, OSError, TimeoutError: as aiohttp has it.
    """
    try:
        return await session.request(method, url, **more)
    except BaseException as error:
        if has_secret(more["headers"]) and error.__traceback__:
            clear_locals(error.__traceback__.tb_next)  # aiohttp has the head that it wrote in variables
        raise


def _target(server: str, url: str, response: aiohttp.ClientResponse) -> str | None:
    """Return the URL of a redirect to follow; None for any other answer."""
    location = response.headers.get("Location")
    if response.status not in REDIRECT_STATUSES or not location:
        return None
    try:
        target = urljoin(url, location)
        return target if _may_follow(urlsplit(server), urlsplit(url), urlsplit(target)) else None
    except ValueError:
        return None


def _may_follow(server: SplitResult, asked: SplitResult, target: SplitResult) -> bool:
    """Return whether a target is of the server's host, as safe as the URL asked, and without credentials."""
    if target.username is not None or target.password is not None:
        return False
    safe = target.scheme == "https" or (target.scheme, asked.scheme) == ("http", "http")
    return safe and target.hostname == server.hostname


def proxy_of(url: str) -> str | None:
    """Return the proxy that the environment names for a URL; None for none, or for one that is not HTTP.

    Its credentials are those in its own address; no ``.netrc`` is read.
    """
    parts, proxies = urlsplit(url), getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.netloc):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    return proxy if proxy.startswith(("http://", "https://")) else None
