"""The aiohttp session shared by peers, and the one place to turn aiohttp's errors into PeerErrors.

Sessions are made only here, without cookies and ``~/.netrc``. Requests go through `redirects.requested`.
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
from aiohttp.http_exceptions import ContentLengthError, TransferEncodingError

from shardcast.access.client_access import ClientAccess
from shardcast.access.live_context import LiveContext
from shardcast.concurrency import ThreadPool
from shardcast.constants import CONNECT_TIMEOUT, HTTP_TIMEOUT
from shardcast.errors import (
    BadAnswer,
    CannotAsk,
    LocalLimit,
    ServerStalled,
    ServerUnreachable,
    ShardcastError,
)
from shardcast.fair_limit import FairLimit
from shardcast.peer.download_limit import buffer_size
from shardcast.peer.failures import broken_error
from shardcast.peer.heads import CountedResponse, HeadTimeout, read_head
from shardcast.peer.pace import Upload
from shardcast.peer.proxies import through_proxy
from shardcast.peer.redirects import requested
from shardcast.peer.tls_failures import tls_failure
from shardcast.protocol.manifest_reader import ManifestError

_MAX_ANSWERS = 1000
"""Maximum simultaneous answers in threads, started only as needed."""

_NICENESS = 3
"""Nice increment of receiver threads: half the CPU share of the digest thread (sched(7))."""


@dataclass(frozen=True, slots=True)
class Session:
    """The connections and threads shared by the peers of one node.

    Attributes:
        http: for everything but the bytes of shards.
        threads: for the bytes of shards, a thread for each answer.
        closing: called at the end.
        access: the node's credentials, and its demands on servers.
        tls: the contexts of https connections.
        downloads: limit of received bytes of versions and blobs; None for no limit.
        uploads: limit of sent bytes of blobs; None for no limit.
    """

    http: aiohttp.ClientSession
    threads: ThreadPool
    closing: list[Callable[[], None]]
    access: ClientAccess
    tls: LiveContext
    downloads: FairLimit | None = None
    uploads: FairLimit | None = None


@asynccontextmanager
async def open_session(
    timeout: float = HTTP_TIMEOUT,
    access: ClientAccess | None = None,
    *,
    downloads: FairLimit | None = None,
    uploads: FairLimit | None = None,
) -> AsyncIterator[Session]:
    """Open a session for any number of servers.

    Args:
        timeout: seconds without a byte.
        access: access to the servers.
        downloads: limit of received bytes of versions and blobs; None for no limit.
        uploads: limit of sent bytes of blobs; None for no limit.

    Raises:
        UsageError, LocalDiskError: a certificate file can't be used.
    """
    access = access or ClientAccess()
    connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=60)
    async with (
        aiohttp.ClientSession(
            connector=connector,
            timeout=_limits(timeout),
            auto_decompress=False,
            trust_env=False,  # it would read ~/.netrc too, and send its passwords in plain http
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=buffer_size(downloads, 1 << 20),
            response_class=CountedResponse,
            skip_auto_headers=("Accept-Encoding",),
            headers={"Accept-Encoding": "identity"},
        ) as session,
        LiveContext(access.tls).following() as tls,
    ):
        threads = ThreadPool(_MAX_ANSWERS, "shardcast-bulk", _give_way, dedicated=True)
        closing: list[Callable[[], None]] = []
        try:
            yield Session(session, threads, closing, access, tls, downloads, uploads)
        finally:
            for close in closing:
                close()
            threads.shutdown(wait=False, cancel_futures=True)


def _limits(silence: float | None) -> aiohttp.ClientTimeout:
    """Return time-outs of a connection, and between two bytes; None for no bound on these."""
    return aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=silence)


def _give_way() -> None:
    """Lower the priority of this receiver thread.

    Receivers are several, the thread of the whole digest behind them is alone, and its lag delays the end.
    Where the processor is short, the digest goes first.
    """
    if sys.platform == "linux":  # elsewhere niceness belongs to the process
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS)


@asynccontextmanager
async def answer(
    session: Session,
    server: str,
    path: str,
    method: str = "GET",
    *,
    headers: dict[str, str] | None = None,
    silence: float | None = None,
    body: bytes | Upload | None = None,
) -> AsyncIterator[aiohttp.ClientResponse]:
    """Send a request, and yield the answer; a failure, also while the body is read, is a PeerError.

    Args:
        session: the sending session.
        server: the URL of the server.
        path: path of the request.
        method: method of the request.
        headers: headers of the request.
        silence: seconds until the head is whole, and then without a byte; None: those of the session.
        body: body of the request.

    Raises:
        ServerUnreachable: no connection, or a break before an answer.
        CannotAsk: this machine can't make a connection.
        TlsFailure: the two ends do not accept each other's certificates or protocols.
        ServerStalled: the head was not whole in time, or nothing came for too long.
        BadAnswer: the answer is not HTTP, is redirected in circles, or was cut off; or the block raised a
            ValueError over its content.
        UsageError: the server is not https, and TLS is required.
    """
    what = f"{method} {path}"
    upload = body if isinstance(body, Upload) else None
    silence = silence or session.http.timeout.sock_read or HTTP_TIMEOUT
    answered = False
    share = session.uploads.open(server) if upload and session.uploads else None
    request = requested(
        session.http,
        server,
        path,
        method,
        access=session.access,
        tls=session.tls,
        headers=headers,
        data=upload.portions(share) if upload else body,
        timeout=_limits(None if upload else silence),  # `head` times an upload by what the server takes
    )
    try:
        async with await read_head(request, silence, upload) as response:
            answered = True
            if share:
                share.close()  # the body is gone
            yield response
    except LocalLimit as error:
        if answered:
            raise
        raise CannotAsk(server, str(error)) from error
    except (ManifestError, ShardcastError):  # LocalDiskError is an OSError, and no server is to blame
        raise
    except aiohttp.ConnectionTimeoutError as error:
        raise ServerUnreachable(
            server, f"no connection within {CONNECT_TIMEOUT:g} s{through_proxy(server)}"
        ) from error
    except HeadTimeout as error:
        raise ServerStalled(server, f"{what}: {error}") from error
    except TimeoutError as error:
        raise ServerStalled(server, f"{what}: nothing came for too long") from error
    except aiohttp.ClientConnectorError as error:
        if limit := LocalLimit.of(error.os_error):
            raise CannotAsk(server, str(limit)) from error
        failure = await tls_failure(server, error)
        raise failure or ServerUnreachable(
            server, f"no connection{through_proxy(server)} ({error.os_error})"
        ) from error
    except (aiohttp.ClientConnectionError, OSError) as error:
        if limit := LocalLimit.of(error):
            raise CannotAsk(server, str(limit)) from error
        if isinstance(error.__cause__, ShardcastError):  # the body to send could not be read
            raise error.__cause__ from error
        raise await tls_failure(server, error) or broken_error(server, what, answered) from error
    except aiohttp.ClientPayloadError as error:
        raise BadAnswer(server, f"{what}: {_payload_failure(error)}") from error
    except aiohttp.ClientHttpProxyError as error:
        refusal = f"{error.status} {error.message}".rstrip()
        raise ServerUnreachable(
            server, f"no connection{through_proxy(server)}: the proxy answered {refusal}"
        ) from error
    except (aiohttp.ClientError, ValueError) as error:
        raise BadAnswer(server, f"{what}: that is no usable answer ({error})") from error
    finally:
        if share:
            share.close()


def _payload_failure(error: aiohttp.ClientPayloadError) -> str:
    """Return in words why the body of an answer could not be read to its end."""
    if isinstance(error.__cause__, (ContentLengthError, TransferEncodingError)):
        return "the answer was cut off: the connection ended before the last byte"
    return "the body of the answer is malformed"
