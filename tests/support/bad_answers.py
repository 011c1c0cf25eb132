"""Wrong answers of a `BadServer`: each function makes the behaviour that its docstring describes."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable

from tests.support.bad_servers import CHUNK, Behaviour, Exchange, RightAnswer

HTML = b"<!doctype html><html><head><title>Welcome</title></head><body>Please log in.</body></html>\n"


def good() -> Behaviour:
    """Answer as a static web server does."""

    async def behave(exchange: Exchange) -> None:
        await exchange.answer(exchange.right_answer())

    return behave


def flipped(offset: int) -> Behaviour:
    """Flip a byte at ``offset`` of the file, whichever part of the file is requested."""

    async def behave(exchange: Exchange) -> None:
        part = exchange.right_answer()
        body = bytearray(part.body)
        if part.has_content and 0 <= offset - part.start < len(body):
            body[offset - part.start] ^= 0xFF
        await exchange.start(part.status, len(body), part.headers)
        await exchange.body(bytes(body))

    return behave


def cut(after: int) -> Behaviour:
    """Close the connection after ``after`` bytes of the body, before the announced length."""

    async def behave(exchange: Exchange) -> None:
        part = exchange.right_answer()
        exchange.close()
        await exchange.start(part.status, len(part.body), part.headers)
        await exchange.body(part.body[:after])

    return behave


def shorter(by: int) -> Behaviour:
    """Answer with ``by`` bytes too few, in an answer that is consistent with itself."""
    return _resized(lambda body: body[: max(0, len(body) - by)])


def longer(by: int) -> Behaviour:
    """Answer with ``by`` bytes too many, in an answer that is consistent with itself."""
    return _resized(lambda body: body + b"\xa5" * by)


def _resized(change: Callable[[bytes], bytes]) -> Behaviour:
    """Answer a changed body, with a Content-Length and a Content-Range that fit it."""

    async def behave(exchange: Exchange) -> None:
        part = exchange.right_answer()
        if not part.has_content:
            await exchange.answer(part)
            return
        body = change(part.body)
        headers = dict(part.headers)
        if part.status == 206:
            stop = part.start + len(body)
            total = part.total + len(body) - len(part.body)
            headers["Content-Range"] = f"bytes {part.start}-{stop - 1}/{total}"
        await exchange.start(part.status, len(body), headers)
        await exchange.body(body)

    return behave


def claims(more: int) -> Behaviour:
    """Announce a Content-Length ``more`` bytes larger than the body, or smaller where negative."""

    async def behave(exchange: Exchange) -> None:
        part = exchange.right_answer()
        if more > 0:
            exchange.close()
        await exchange.start(part.status, max(0, len(part.body) + more), part.headers)
        await exchange.body(part.body)

    return behave


def redirect_loop() -> Behaviour:
    """Redirect every request to its own URL."""

    async def behave(exchange: Exchange) -> None:
        await exchange.answer(
            RightAnswer(302, b"", headers={"Location": exchange.server.url + exchange.path})
        )

    return behave


def redirect(to: str) -> Behaviour:
    """Redirect to the same path of another server."""

    async def behave(exchange: Exchange) -> None:
        await exchange.answer(RightAnswer(302, b"", headers={"Location": to + exchange.path}))

    return behave


def replaced(body: bytes, content_type: str = "text/plain") -> Behaviour:
    """Answer ``body`` with 200, whatever was requested."""

    async def behave(exchange: Exchange) -> None:
        await exchange.answer(RightAnswer(200, body, headers={"Content-Type": content_type}))

    return behave


def html() -> Behaviour:
    """Answer a page with 200, as a captive portal does."""
    return replaced(HTML, "text/html")


def trickle(every: float = 1.0) -> Behaviour:
    """Send the right bytes, one every ``every`` seconds."""

    async def behave(exchange: Exchange) -> None:
        part = exchange.right_answer()
        await exchange.start(part.status, len(part.body), part.headers)
        for byte in part.body:
            await exchange.body(bytes([byte]))
            await asyncio.sleep(every)

    return behave


def throttled(rate: float) -> Behaviour:
    """Send the right bytes, ``rate`` a second over all answers together."""
    free_at = 0.0

    async def behave(exchange: Exchange) -> None:
        nonlocal free_at
        loop = asyncio.get_running_loop()
        part = exchange.right_answer()
        await exchange.start(part.status, len(part.body), part.headers)
        for begin in range(0, len(part.body), CHUNK):
            chunk = part.body[begin : begin + CHUNK]
            free_at = max(free_at, loop.time()) + len(chunk) / rate
            await asyncio.sleep(free_at - loop.time())
            await exchange.body(chunk)

    return behave


def stall(after: int) -> Behaviour:
    """Send ``after`` bytes of the body, then nothing, and leave the connection open."""

    async def behave(exchange: Exchange) -> None:
        part = exchange.right_answer()
        await exchange.start(part.status, len(part.body), part.headers)
        await exchange.body(part.body[:after])
        await exchange.wait_for_disconnect()

    return behave


def silent() -> Behaviour:
    """Read the request and never answer."""

    async def behave(exchange: Exchange) -> None:
        await exchange.wait_for_disconnect()

    return behave


def gate(opened: threading.Event) -> Behaviour:
    """Answer right once ``opened`` is set."""

    async def behave(exchange: Exchange) -> None:
        while not opened.is_set():
            await asyncio.sleep(0.02)
        await exchange.answer(exchange.right_answer())

    return behave


def closed() -> Behaviour:
    """Read the request and close the connection."""

    async def behave(exchange: Exchange) -> None:
        exchange.close()

    return behave


def reset() -> Behaviour:
    """Read the request and reset the connection, as a balancer whose server has gone may."""

    async def behave(exchange: Exchange) -> None:
        exchange.close()
        exchange.writer.transport.abort()

    return behave


def broken_head(part: bytes) -> Behaviour:
    """Send a part of an answer's head and close the connection."""

    async def behave(exchange: Exchange) -> None:
        exchange.close()
        await exchange.send(part)

    return behave


def error(status: int = 500, retry_after: int | None = None, node: str | None = None) -> Behaviour:
    """Answer an error status, with Retry-After and the id of a shardcast node if given."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    headers |= {} if node is None else {"Shardcast-Node": node}

    async def behave(exchange: Exchange) -> None:
        await exchange.answer(RightAnswer(status, b"no\n", headers=headers))

    return behave


def first(behaviour: Behaviour, times: int = 1, then: Behaviour | None = None) -> Behaviour:
    """Use ``behaviour`` for the first ``times`` requests of each path, then ``then``, or a right answer."""
    seen: Counter[str] = Counter()
    later = then or good()

    async def behave(exchange: Exchange) -> None:
        seen[exchange.path] += 1
        await (behaviour if seen[exchange.path] <= times else later)(exchange)

    return behave


def endless() -> Behaviour:
    """Send a body that does not end."""

    async def behave(exchange: Exchange) -> None:
        await exchange.start(200, None)
        while True:
            await exchange.send(b"\x5a" * CHUNK)
            await asyncio.sleep(0.0005)

    return behave


def huge_headers(size: int = 4 * 1024 * 1024) -> Behaviour:
    """Send the right body behind headers of ``size`` bytes."""

    async def behave(exchange: Exchange) -> None:
        part = exchange.right_answer()
        padding = {f"X-Padding-{i}": "a" * 1000 for i in range(size // 1000)}
        await exchange.start(part.status, len(part.body), {**part.headers, **padding})
        await exchange.body(part.body)

    return behave


def chunked() -> Behaviour:
    """Send the right bytes in chunked transfer coding, as a proxy may pass them on."""

    async def behave(exchange: Exchange) -> None:
        part = exchange.right_answer()
        await exchange.start(part.status, None, {**part.headers, "Transfer-Encoding": "chunked"})
        for begin in range(0, len(part.body), CHUNK):
            chunk = part.body[begin : begin + CHUNK]
            await exchange.body(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        await exchange.body(b"0\r\n\r\n")

    return behave


def ignores_range() -> Behaviour:
    """Send the whole file with 200, also where a part was requested."""

    async def behave(exchange: Exchange) -> None:
        await exchange.answer(exchange.right_answer(ranges=False))

    return behave


def wrong_range(shift: int = 1000) -> Behaviour:
    """Send another part than the requested one, under a Content-Range that says so."""

    async def behave(exchange: Exchange) -> None:
        part = exchange.right_answer(ranges=False)
        if not part.has_content:
            await exchange.answer(part)
            return
        requested = exchange.right_answer(ranges=True)
        start = min(requested.start + shift, part.total - 1)
        headers = {"Content-Range": f"bytes {start}-{part.total - 1}/{part.total}"}
        await exchange.answer(RightAnswer(206, part.body[start:], headers=headers))

    return behave


def gzip_lie() -> Behaviour:
    """Send the right bytes under ``Content-Encoding: gzip``, without compressing them."""

    async def behave(exchange: Exchange) -> None:
        part = exchange.right_answer()
        await exchange.start(part.status, len(part.body), {**part.headers, "Content-Encoding": "gzip"})
        await exchange.body(part.body)

    return behave
