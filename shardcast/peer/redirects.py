"""Requests on their way out: through the configured proxy, redirected only within a host.

A server chooses the target of a redirect. Followed anywhere, a redirect would reach hosts within reach of
this machine alone; followed after a POST, it would repeat there a request meant for the server. So only GET
and HEAD are followed, to the same host and never from https to http. Every other answer is returned
unchanged, and `failures.status_error` names its target. A token is shown to the named server alone: neither
to a redirect's target, on the same host or not, nor to a proxy that reads plain requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

import aiohttp

from shardcast.access.client_access import ClientAccess
from shardcast.access.live_context import LiveContext
from shardcast.access.secret import HeaderValue, clear_locals, has_secret
from shardcast.errors import BadAnswer
from shardcast.peer.proxies import proxy_of
from shardcast.protocol.wire import REDIRECT_STATUSES

MAX_REDIRECTS = 5
"""Maximum redirects to follow for one request."""
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
    """Send a request, follow its redirects within the host, and return the answer with its head.

    Args:
        session: the sending session.
        server: the URL of the server.
        path: path of the request.
        method: method of the request.
        tls: the contexts of https connections.
        access: the credentials for the server, and not for its redirects' targets.
        headers: headers of the request, and of its redirects.
        **more: for aiohttp.

    Raises:
        BadAnswer: there are too many redirects.
        UsageError: the server is not https, and TLS is required. aiohttp.ClientError, OSError, TimeoutError:
            as aiohttp has it.
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
