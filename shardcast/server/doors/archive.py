"""The door of an archive, as Casa's: a blob by its key, many in one pull, and pushes for who may.

The frames are told in ``framing``. A pull is answered with what is here right away, then with what a mirror
has fetched, each blob as soon as it is there. A push is spooled whole and checked, and only then put, so that
one that breaks off keeps nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import html
import logging
import os
import re
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol, TypeVar

from aiohttp import ClientError, web

from shardcast.constants import STALLED_READER
from shardcast.errors import BlobCorrupt, BlobMissing, LocalDiskError, ShardcastError
from shardcast.framing import MAX_PULL, FramingError, PushReader, TooLong, parse_pull
from shardcast.server.doors.archive_pages import failure, iso, page, preview, table
from shardcast.server.sending import send_blob
from shardcast.sizes import format_size
from shardcast.store.blob_putting import Putting
from shardcast.store.blobs import BlobStore
from shardcast.store.durable import disk_errors, is_full
from shardcast.store.holds import READ, Reader
from shardcast.store.ledger import Ledger
from shardcast.wire import BYTES, IMMUTABLE, METADATA_PATH, PULL_PATH, PUSH_PATH, VIA, parse_via

log = logging.getLogger(__name__)

T = TypeVar("T", bound=web.StreamResponse)

_KEY = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_SMALL, _AT_ONCE = 64 << 10, 64
"""Blobs up to so many bytes are read so many in one step."""
_CHUNK = 1 << 20
_IN_MEMORY = 1 << 20
"""Bytes of a push that are spooled in memory; longer ones go to a file."""
_PREVIEW, _LONG_PREVIEW = 80, 512
_WRITTEN_DOWN = 1000
"""Keys whose times are written down in one step."""
_LISTED = 100
"""Keys in ``/stats``."""
_NOT_HERE = "Not Found"


class Upstream(Protocol):
    """Where what isn't here may come from. ``via``: the nodes that asked already."""

    def fetch(self, wanted: Mapping[str, int], via: Sequence[str]) -> AsyncGenerator[str, None]:
        """Have blobs of these lengths come here; the key of each that has, as soon as it has."""

    async def obtain(self, key: str, via: Sequence[str]) -> bool:
        """Have one come here; whether it has.

        Raises:
            PeerError: nobody could be asked.
        """


@dataclass
class Holdings:
    """What the door is to.

    Attributes:
        store: the blobs, of SHA-256.
        ledger: when they were put, and how often they were asked for.
        spool: a folder for pushes under way, on the store's disk.
        max_blob: bytes of a blob that is pushed.
        token: who bears it may push at any port; None for nobody.
        upstream: None for an archive that is no mirror.
        hits: how many blobs were asked for that were here.
    """

    store: BlobStore
    ledger: Ledger
    spool: Path
    max_blob: int
    token: str | None = field(default=None, repr=False)
    upstream: Upstream | None = None
    hits: int = 0


def add_archive(app: web.Application, holdings: Holdings, push: bool) -> None:
    """Serve an archive; ``push``: whether anybody who comes to this port may push."""
    door = _Door(holdings, push)
    app.middlewares.append(_in_casas_words)
    router = app.router
    router.add_post(PULL_PATH, door.pull)
    router.add_post(PUSH_PATH, door.push)
    router.add_get(f"{METADATA_PATH}/{{key}}", door.metadata)
    router.add_get("/meta/{key}", door.page)
    router.add_get("/stats", door.stats)
    router.add_get("/liveness", door.liveness)
    router.add_get("/", door.home)
    router.add_get("/{key}", door.blob)


@web.middleware
async def _in_casas_words(
    request: web.Request, handler: Callable[[web.Request], object]
) -> web.StreamResponse:
    try:
        response = await handler(request)  # type: ignore[misc]
        assert isinstance(response, web.StreamResponse)
        return response
    except web.HTTPMethodNotAllowed as error:
        headers = {"Allow": ",".join(sorted(error.allowed_methods))}
        return failure(request, 405, "Bad method", {"method": request.method}, headers)
    except web.HTTPNotFound:
        return failure(request, 404, _NOT_HERE)
    except LocalDiskError as error:
        log.error("%s %s: %s", request.method, request.path, error)
        return failure(request, 503, "Service Unavailable")


class _Door:
    def __init__(self, holdings: Holdings, push: bool) -> None:
        self._holdings = holdings
        self._push = push

    # A blob

    async def blob(self, request: web.Request) -> web.StreamResponse:
        key = _key(request)
        self._holdings.ledger.count([key])
        headers = {"Cache-Control": IMMUTABLE}
        for may_fetch in (True, False):
            try:
                async with self._holdings.store.open(key) as blob:
                    self._holdings.hits += may_fetch
                    return await send_blob(request, blob, key, Reader(READ, request.remote or ""), headers)
            except (BlobMissing, BlobCorrupt, LocalDiskError) as error:
                if not isinstance(error, BlobMissing):
                    log.error("can't serve %s: %s", key, error)
                upstream = self._holdings.upstream
                if not may_fetch or upstream is None:
                    break
                try:
                    if not await upstream.obtain(key, parse_via(request.headers.get(VIA))):
                        break
                except ShardcastError as failed:
                    log.warning("could not fetch %s: %s", key, failed)
                    return failure(request, 503, "Service Unavailable", headers={"Retry-After": "5"})
        return failure(request, 404, _NOT_HERE)

    # Pull

    async def pull(self, request: web.Request) -> web.StreamResponse:
        length = request.content_length
        if length is not None and length > MAX_PULL:
            return _too_large(length, MAX_PULL)
        try:
            body = await asyncio.wait_for(_read(request, MAX_PULL + 1), STALLED_READER)
            if len(body) > MAX_PULL:
                return _too_large(len(body), MAX_PULL)
            pairs = parse_pull(body)
        except asyncio.TimeoutError:
            return _stalled(request)
        except FramingError as error:
            more = {"errors": [f"Invalid blob keys, parse error: {error}"]}
            return failure(request, 400, "Invalid Arguments", more)
        self._holdings.ledger.count(key for key, _ in pairs)
        wanted: dict[str, int] = {}
        for key, said in pairs:
            wanted.setdefault(key, said)
        response = _compressed(request, web.StreamResponse(headers={"Content-Type": BYTES}))
        try:
            await response.prepare(request)
            missing = await self._send_those_here(response, wanted)
            if missing and self._holdings.upstream:
                via = parse_via(request.headers.get(VIA))
                async with aclosing(self._holdings.upstream.fetch(missing, via)) as arrived:
                    async for key in arrived:
                        await self._send_one(response, key, missing[key])
            await response.write_eof()
        except (ConnectionError, asyncio.TimeoutError, ShardcastError) as error:
            log.info("a pull of %s broke off: %s", request.remote, error or "nothing was taken any more")
            if request.transport:
                request.transport.abort()
        return response

    async def _send_those_here(
        self, response: web.StreamResponse, wanted: Mapping[str, int]
    ) -> dict[str, int]:
        """Send what is here; what isn't.

        Raises:
            ConnectionError, asyncio.TimeoutError: the reader went away, or takes nothing.
            ShardcastError: a blob can't be read to its end.
        """
        missing = {}
        small = [key for key, length in wanted.items() if length <= _SMALL]
        for start in range(0, len(small), _AT_ONCE):
            keys = small[start : start + _AT_ONCE]
            found = await self._holdings.store.read_small(keys, _SMALL)
            frames = []
            for key in keys:
                blob = found.get(key)
                if blob is None:
                    missing[key] = wanted[key]
                elif len(blob) == wanted[key]:
                    frames += [bytes.fromhex(key), blob]
                    self._holdings.hits += 1
            if frames:
                await asyncio.wait_for(response.write(b"".join(frames)), STALLED_READER)
        for key, length in wanted.items():
            if length > _SMALL:
                if await self._send_one(response, key, length):
                    self._holdings.hits += 1
                else:
                    missing[key] = length
        return missing

    async def _send_one(self, response: web.StreamResponse, key: str, length: int) -> bool:
        """Send a blob, unless it has another length; whether it is here, and right."""
        begun = False
        try:
            async with self._holdings.store.open(key) as blob:
                if blob.size != length:
                    return True
                begun = True
                await asyncio.wait_for(response.write(bytes.fromhex(key)), STALLED_READER)
                left = length
                while left:
                    data = await blob.read(min(_CHUNK, left))
                    if not data:
                        raise BlobCorrupt(f"{key} is shorter than it was said to be")
                    await asyncio.wait_for(response.write(data), STALLED_READER)
                    left -= len(data)
        except (BlobMissing, BlobCorrupt, LocalDiskError) as error:
            if begun:
                raise
            if not isinstance(error, BlobMissing):
                log.error("can't serve %s: %s", key, error)
            return False
        return True

    # Push

    async def push(self, request: web.Request) -> web.StreamResponse:
        refusal = self._refuse(request)
        if refusal:
            return refusal
        with tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(self._holdings.spool)) as spool:  # nameless
            try:
                await self._receive(request, spool)
                await self._put_all(spool)
            except TooLong as error:
                return _too_large(error.length, self._holdings.max_blob)
            except FramingError as error:
                return failure(request, 400, "Invalid Arguments", {"errors": [str(error)]})
            except asyncio.TimeoutError:
                return _stalled(request)
            except LocalDiskError as error:
                log.error("a push of %s was not kept: %s", request.remote, error)
                status = 507 if is_full(error) else 500
                return failure(request, status, "Insufficient Storage" if status == 507 else "Storage Failed")
        return web.Response(body=b"", content_type=BYTES)

    def _refuse(self, request: web.Request) -> web.Response | None:
        token, said = self._holdings.token, request.headers.get("Authorization", "")
        if self._push:
            return None
        if token is None:
            return failure(request, 403, "Permission Denied. Not authorized on this port")
        scheme, _, borne = said.partition(" ")
        right = hmac.compare_digest(borne.strip().encode(errors="replace"), token.encode())
        if scheme.lower() == "bearer" and right:
            return None
        return failure(
            request, 401, "Permission Denied. Wrong token, or none", headers={"WWW-Authenticate": "Bearer"}
        )

    async def _receive(self, request: web.Request, spool: IO[bytes]) -> None:
        """Spool a push, and see that it is one.

        Raises:
            FramingError: it isn't.
            asyncio.TimeoutError: nothing came any more.
            LocalDiskError: it can't be written.
        """
        frames = PushReader(self._holdings.max_blob)
        try:
            while chunk := await asyncio.wait_for(request.content.readany(), STALLED_READER):
                for _ in frames.feed(chunk):
                    pass
                with disk_errors("could not keep a push in", self._holdings.spool):
                    await asyncio.to_thread(spool.write, chunk)
        except (ConnectionError, ClientError, web.RequestPayloadError) as error:
            raise FramingError(f"it broke off: {error}") from error
        frames.end()

    async def _put_all(self, spool: IO[bytes]) -> None:
        """Put what was spooled. That there is room for it is looked at before. When the disk fails all the
        same, what was put stays: who else may count on it by then can't be known, and it is whole and right.

        Raises:
            LocalDiskError: it can't be kept.
        """
        size, ledger, frames = spool.tell(), self._holdings.ledger, PushReader()
        now, keys = ledger.now(), list[str]()
        with disk_errors("could not keep a push in", self._holdings.spool):
            disk = os.statvfs(self._holdings.spool)
            if disk.f_bavail * disk.f_frsize < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        spool.seek(0)
        async with Putting(self._holdings.store, lambda key, _: keys.append(key)) as putting:
            while chunk := await asyncio.to_thread(spool.read, _CHUNK):
                for part in frames.feed(chunk):
                    await putting.take(part)
                if len(keys) >= _WRITTEN_DOWN:
                    written, keys = keys, []
                    await self._write_down(written, now)
        await self._write_down(keys, now)

    async def _write_down(self, keys: Sequence[str], when: float) -> None:
        """Write down when blobs were put, which they are in any case."""
        try:
            await self._holdings.ledger.created(keys, when)
        except LocalDiskError as error:
            log.error("when %d blobs were put is not known: %s", len(keys), error)

    # What people look at

    async def metadata(self, request: web.Request) -> web.StreamResponse:
        key = _key(request)
        size, shown = await self._look(key, _PREVIEW)
        said = {
            "key": key,
            "created": iso(await self._created(key)),
            "length": size,
            "preview": preview(shown),
        }
        return _compressed(request, web.json_response(said))

    async def page(self, request: web.Request) -> web.StreamResponse:
        key = _key(request)
        size, shown = await self._look(key, _LONG_PREVIEW)
        rows = [
            ("Key", f"<code>{key}</code>"),
            ("Content", f'<a href="/{key}">Download raw</a>'),
            ("Created", iso(await self._created(key))),
            ("Size", f"{size} ({format_size(size)})"),
            ("Preview", f"<code>{html.escape(preview(shown))}</code>"),
        ]
        return page(f"Metadata of {key}", f"<h1>Metadata</h1>{table(('', ''), rows)}")

    async def stats(self, request: web.Request) -> web.StreamResponse:
        listed = await self._holdings.ledger.most_pulled(_LISTED)
        rows = [
            (f'<a href="/meta/{one.key}"><code>{one.key}</code></a>', str(one.pulls), iso(one.last))
            for one in listed
        ]
        listing = table(("Key", "Pulls", "Last access"), rows)
        return _compressed(request, page("Statistics", f"<h1>Statistics</h1>{listing}"))

    async def liveness(self, request: web.Request) -> web.StreamResponse:
        begun = time.perf_counter()
        await self._holdings.ledger.newest(1)
        seconds = time.perf_counter() - begun
        return web.Response(text=f"Database connectivity is OK!Database responded in {seconds:.6f}s")

    async def home(self, request: web.Request) -> web.StreamResponse:
        last = "Never"
        for key, created in await self._holdings.ledger.newest(_LISTED):
            if await self._holdings.store.size(key) is not None:
                last = f'<a href="/meta/{key}"><code>{key}</code></a> at {iso(created)}'
                break
        return page(
            "Archive", f'<h1>Archive</h1><p>Last upload: {last}</p><p><a href="/stats">Statistics</a></p>'
        )

    async def _look(self, key: str, most: int) -> tuple[int, bytes]:
        """The size of a blob, and its first bytes.

        Raises:
            HTTPNotFound: it isn't here.
        """
        try:
            async with self._holdings.store.open(key) as blob:
                return blob.size, await blob.read(min(most, blob.size)) if blob.size else b""
        except (BlobMissing, BlobCorrupt, LocalDiskError) as error:
            if not isinstance(error, BlobMissing):
                log.error("can't look at %s: %s", key, error)
            raise web.HTTPNotFound from None

    async def _created(self, key: str) -> float:
        """When a blob was put; where that isn't known, its file's time, or now, which is kept."""
        known = await self._holdings.ledger.when(key)
        if known is not None:
            return known
        when = self._holdings.ledger.now()
        with contextlib.suppress(BlobMissing, BlobCorrupt, OSError):
            async with self._holdings.store.open(key) as blob:
                when = blob.span.path.stat().st_mtime if blob.span else when
        await self._holdings.ledger.created([key], when)
        return when


def _key(request: web.Request) -> str:
    """The key in a path: its first 64 characters; what follows is passed over.

    Raises:
        HTTPNotFound: they are no key.
    """
    found = _KEY.match(request.match_info["key"])
    if not found:
        raise web.HTTPNotFound
    return found[0].lower()


async def _read(request: web.Request, most: int) -> bytes:
    """A body; of a longer one, some more than ``most`` bytes."""
    body = bytearray()
    while len(body) < most and (chunk := await request.content.readany()):
        body += chunk
    return bytes(body)


def _compressed(request: web.Request, response: T) -> T:
    """Sent as gzip to who takes that, as all that Casa sends is."""
    if "gzip" in request.headers.get("Accept-Encoding", "").lower():
        response.enable_compression(web.ContentCoding.gzip)
    return response


def _too_large(length: int, most: int) -> web.Response:
    """Also ends the connection: what was going to be sent needn't be."""
    text = f"Too Large: {length} bytes; at most {most} are taken\n"
    return _last(web.Response(status=413, text=text))


def _stalled(request: web.Request) -> web.Response:
    return _last(failure(request, 408, f"Nothing came for {STALLED_READER:g} s"))


def _last(response: web.Response) -> web.Response:
    response.force_close()
    return response
