"""The aiohttp session that peers share, and the one seam where aiohttp's errors become ours.

Sessions are made here alone: without cookies, without ``~/.netrc``, asked by way of `redirects.requested`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from shardcast.concurrency import Threads
from shardcast.constants import CONNECT_TIMEOUT, HTTP_TIMEOUT
from shardcast.errors import (
    BadAnswer,
    CannotAsk,
    LocalLimit,
    ServerStalled,
    ServerUnreachable,
    ShardcastError,
)
from shardcast.peer.failures import broken_error
from shardcast.peer.heads import CountedResponse, HeadLate, head
from shardcast.peer.pace import Upload
from shardcast.peer.redirects import requested
from shardcast.protocol.manifest_reader import ManifestError

_MOST_ANSWERS = 1000
"""Answers at once; threads are made only as they are needed."""

_NICENESS = 3
"""By how much receiving threads are nicer: a share of half against who isn't (sched(7))."""


@dataclass(frozen=True, slots=True)
class Session:
    """What the peers of one node share.

    Attributes:
        http: for everything that isn't bulk.
        threads: for bulk, one for each answer.
        closing: what is called at the end.
    """

    http: aiohttp.ClientSession
    threads: Threads
    closing: list[Callable[[], None]]


@asynccontextmanager
async def open_session(timeout: float = HTTP_TIMEOUT) -> AsyncIterator[Session]:
    """A session for any number of servers; ``timeout`` in seconds without a byte."""
    connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=60)
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=_limits(timeout),
        auto_decompress=False,
        trust_env=False,  # it would read ~/.netrc too, and send its passwords in plain http
        cookie_jar=aiohttp.DummyCookieJar(),
        read_bufsize=1 << 20,
        response_class=CountedResponse,
        skip_auto_headers=("Accept-Encoding",),
        headers={"Accept-Encoding": "identity"},
    ) as session:
        threads = Threads(_MOST_ANSWERS, "shardcast-bulk", _give_way, alone=True)
        closing: list[Callable[[], None]] = []
        try:
            yield Session(session, threads, closing)
        finally:
            for close in closing:
                close()
            threads.shutdown(wait=False, cancel_futures=True)


def _limits(silence: float | None) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=silence)


def _give_way() -> None:
    """Receiving threads are several, the one that computes the whole digest behind them is alone, and what it
    lags behind is waited for at the end: where the processor is short, it goes first."""
    if sys.platform == "linux":  # elsewhere niceness is a process's
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS)


@asynccontextmanager
async def answer(
    session: aiohttp.ClientSession,
    server: str,
    path: str,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    silence: float | None = None,
    body: bytes | Upload | None = None,
) -> AsyncIterator[aiohttp.ClientResponse]:
    """One request to a server; what goes wrong in it, also while its body is read, is a PeerError.
    ``silence``: seconds until the head is whole, and then without a byte, where it is not the session's.

    Raises:
        ServerUnreachable: no connection, or it broke before an answer.
        CannotAsk: this machine can't make one.
        ServerStalled: the head was not whole in time, or nothing came for too long.
        BadAnswer: it is not HTTP, goes round in circles, or was cut off.
    """
    what = f"{method} {path}"
    upload = body if isinstance(body, Upload) else None
    silence = silence or session.timeout.sock_read or HTTP_TIMEOUT
    begun = False
    request = requested(
        session,
        server,
        path,
        method,
        headers=headers,
        data=upload.portions() if upload else body,
        timeout=_limits(None if upload else silence),  # that of an upload depends on what is taken of it
    )
    try:
        async with await head(request, silence, upload) as response:
            begun = True
            yield response
    except LocalLimit as error:
        if begun:
            raise
        raise CannotAsk(server, str(error)) from error
    except (ManifestError, ShardcastError):  # LocalDiskError is an OSError: no server is to blame for it
        raise
    except aiohttp.ConnectionTimeoutError as error:
        raise ServerUnreachable(server, f"no connection within {CONNECT_TIMEOUT:g} s") from error
    except HeadLate as error:
        raise ServerStalled(server, f"{what}: {error}") from error
    except TimeoutError as error:
        raise ServerStalled(server, f"{what}: nothing came for too long") from error
    except aiohttp.ClientConnectorError as error:
        if limit := LocalLimit.of(error.os_error):
            raise CannotAsk(server, str(limit)) from error
        raise ServerUnreachable(server, f"no connection ({error.os_error})") from error
    except (aiohttp.ClientConnectionError, OSError) as error:
        if limit := LocalLimit.of(error):
            raise CannotAsk(server, str(limit)) from error
        if isinstance(error.__cause__, ShardcastError):  # the body that was to be sent could not be read
            raise error.__cause__ from error
        raise broken_error(server, what, begun) from error
    except aiohttp.ClientPayloadError as error:
        raise BadAnswer(server, f"{what}: the answer was cut off or is longer than it said") from error
    except (aiohttp.ClientError, ValueError) as error:
        raise BadAnswer(server, f"{what}: that is no usable answer ({error})") from error
