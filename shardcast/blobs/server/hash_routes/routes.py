"""The hash server's door: the blobs of a directory under their checksums, as hashserver serves them.

``docs/compatibility.md`` lists where the two differ, and why.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from aiohttp import ClientError, web
from aiohttp.http_exceptions import HttpProcessingError

from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.directory.blob_writer import SMALL, MalformedBlob
from shardcast.blobs.directory.compression import CODINGS, Check
from shardcast.blobs.directory.file import BlobFile
from shardcast.blobs.directory.lock_files import ExternalLocks
from shardcast.blobs.directory.lookup import AS_IT_IS_FIRST
from shardcast.blobs.directory.marks import count_as_put
from shardcast.blobs.server.hash_routes.activity import Activity
from shardcast.blobs.server.hash_routes.answers import Asked, send_decoded, send_file
from shardcast.blobs.server.hash_routes.bodies import go_on, when_wanted, without_body
from shardcast.blobs.server.hash_routes.lists import Lists
from shardcast.blobs.server.hash_routes.requests import (
    BareResponse,
    Refused,
    accepted_forms,
    coding_of,
    elsewhere,
    parse_checksum,
    preflight,
    said,
)
from shardcast.blobs.server.hash_routes.uploads import Promises, Uploads
from shardcast.errors import BlobCorrupt, IntegrityError, LocalDiskError
from shardcast.filesystem import is_full
from shardcast.protocol.wire import (
    HAS_NOW_PATH,
    HAS_PATH,
    HEALTHCHECK_PATH,
    LENGTH_PATH,
    PROMISE_PATH,
    RETRY_AFTER,
)
from shardcast.server.bodies import chunks
from shardcast.server.connections import BodyTooSlow
from shardcast.server.hang_ups import while_wanted
from shardcast.store.file_errors import Search

log = logging.getLogger(__name__)

LOCK_SECONDS = 120.0
"""Seconds after which a lock file that nobody touches counts no more."""
_LOOK_AGAIN = 1.0
"""Seconds between two looks at the disk for a blob that was promised: another process may put it there."""
_A_FEW = 16
"""Checksums that are looked for in the event loop; more of them in a thread."""
_MANY = 1000
"""Checksums that are looked for in a thread before it is looked whether anybody waits."""
_NAMES = {"sha256": "sha-256", "sha3-256": "sha3-256"}
"""The digests, as hashserver calls them."""
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG)
"""What waiting doesn't help to write."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class HashDoor:
    """The door, and what it keeps in mind.

    Attributes:
        store: what it serves.
        lock_seconds: how long external locks hold, from when they were last touched.
    """

    store: BlobDirectory
    lock_seconds: float = LOCK_SECONDS
    promises: Promises = field(default_factory=Promises)
    uploads: Uploads = field(default_factory=Uploads)
    lists: Lists = field(default_factory=Lists)
    activity: Activity = field(default_factory=Activity)

    def __post_init__(self) -> None:
        self.locks = ExternalLocks(self.lock_seconds)

    def add(self, app: web.Application) -> None:
        """Open the door."""

        def route(method: str, path: str, handler: Handler) -> None:
            for one in (method, "HEAD") if method == "GET" else (method,):
                app.router.add_route(one, path, self._guarded(handler), expect_handler=when_wanted)

        route("GET", HEALTHCHECK_PATH, _healthcheck)
        route("GET", HAS_PATH, self._has)
        route("GET", HAS_NOW_PATH, self._has_now)
        route("GET", LENGTH_PATH, self._lengths)
        if self.store.writable:
            route("PUT", f"{PROMISE_PATH}/{{checksum:[^/]+}}", self._promise)
            route("PUT", "/{checksum:[^/]+}", self._put)
            app.on_startup.append(self._begin)
        route("GET", "/{checksum:[^/]+}", self._get)
        route("*", "/{tail:.*}", self._other)
        app.on_response_prepare.append(_dress)
        app.on_cleanup.append(self._end)

    async def _begin(self, app: web.Application) -> None:
        await self.store.begin()

    async def _end(self, app: web.Application) -> None:
        await self.store.close()

    def _guarded(self, handler: Handler) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            with self.activity.request():
                try:
                    return await handler(request)
                except Refused as error:
                    return said(error.said, 400)
                except LocalDiskError as error:
                    log.error("%s %s: %s", request.method, request.path, error)
                    return _unable(request, error)
                except BodyTooSlow:
                    raise
                except (ConnectionError, ClientError, HttpProcessingError) as error:
                    log.debug("%s went away: %s", request.remote, error)
                    return said({"message": f"the request broke off: {error}"}, 400)

        return answer

    # Reading

    async def _get(self, request: web.Request) -> web.StreamResponse:
        digest = _checksum(request)
        forms, decoded = accepted_forms(request.headers.get("Accept-Encoding"), CODINGS)
        every = (*forms, *(one for one in AS_IT_IS_FIRST if one not in forms))
        found = await while_wanted(request, self._await(digest, every))
        if found is None:
            return BareResponse(body=b"Not found", status=404)
        file, data, fresh = found
        with file:
            mtime, verified = file.looks.st_mtime, self.store.verified
            if file.coding is None or file.coding in forms or not decoded:
                asked = Asked(request, digest, file.size, mtime, file.coding, ranges=True)
                if data is not None:
                    return asked.with_body(data)
                return await send_file(asked, file, digest, self.store.algorithm, verified, fresh)
            asked = Asked(request, digest, file.decoded_length(), mtime, None, ranges=False)
            return await send_decoded(asked, file, digest, self.store.algorithm, verified)

    async def _await(
        self, digest: str, forms: tuple[str | None, ...]
    ) -> tuple[BlobFile, bytes | None, bool] | None:
        """A blob's file as ``_find`` gives it: what is here at once, else when it has come; None when it
        doesn't come."""
        while True:
            try:
                found = await self._find(digest, forms)
            except _Wrong:
                found = None
            if found is None and self.uploads.has(digest):
                await self.uploads.ended(digest)
                continue
            if found is None:
                await self.locks.released(self.store.folder, digest)
                found = await self._find(digest, forms)
            if found is not None or not self.promises.has(digest):
                return found
            await self.promises.kept(digest, _LOOK_AGAIN)

    async def _find(
        self, digest: str, forms: tuple[str | None, ...]
    ) -> tuple[BlobFile, bytes | None, bool] | None:
        """The file of a blob, which is right; its bytes, if they are few; and whether it was verified only
        now.

        Raises:
            _Wrong: there are files of it, and none is right.
        """
        search = Search()
        for file in self.store.lookup.files(digest, search, forms):
            with contextlib.ExitStack() as stack:
                stack.enter_context(file)
                if file.is_regular and file.size <= SMALL and file.coding is None:
                    data = self._whole(file, search)
                    if data is not None and _digest(self.store.algorithm, data) == digest:
                        stack.pop_all()
                        return file, data, True
                elif file.is_regular:
                    fresh = self.store.verified.known(digest, file.looks) is None
                    if await self.store.is_right(digest, file, search):
                        stack.pop_all()
                        return file, None, fresh
            search.met_wrong(_wrong(file, self.store.algorithm))
        search.check()
        if search.wrong is not None:
            raise _Wrong(search.wrong)
        return None

    def _whole(self, file: BlobFile, search: Search) -> bytes | None:
        try:
            return file.whole()
        except LocalDiskError as error:
            search.met(error)
            return None

    async def _has(self, request: web.Request) -> web.StreamResponse:
        digests = await self.lists.read(request)
        present = await while_wanted(request, self._present(digests))
        return said(
            [
                here or self.uploads.has(digest) or self.promises.has(digest)
                for here, digest in zip(present, digests, strict=True)
            ]
        )

    async def _has_now(self, request: web.Request) -> web.StreamResponse:
        digests = await self.lists.read(request)
        return said(await while_wanted(request, self._present(digests)))

    async def _present(self, digests: list[str]) -> list[bool]:
        if len(digests) <= _A_FEW:
            return self.store.lookup.present(digests)
        present: list[bool] = []
        for some in _portions(digests, _MANY):
            present += await self.store.verified.hashing.run(self.store.lookup.present, some)
        return present

    async def _lengths(self, request: web.Request) -> web.StreamResponse:
        digests = await self.lists.read(request)
        lengths = await while_wanted(request, self._told(digests))
        return said(
            [
                (self.promises.has(digest) or 0) if length is None else length
                for length, digest in zip(lengths, digests, strict=True)
            ]
        )

    async def _told(self, digests: list[str]) -> list[int | None]:
        """The lengths of blobs, when none of those that aren't here is arriving any more."""
        lengths: list[int | None] = []
        for some in _portions(digests, _A_FEW):
            lengths += await self.store.verified.hashing.run(self._lengths_of, some)
        for index, digest in enumerate(digests):
            if lengths[index] is None and self.uploads.has(digest):
                await self.uploads.ended(digest)
                lengths[index] = await self.store.verified.hashing.run(self._length, digest)
        return lengths

    def _lengths_of(self, digests: list[str]) -> list[int | None]:
        return [self._length(digest) for digest in digests]

    def _length(self, digest: str) -> int | None:
        try:
            return self.store.lookup.length(digest)
        except BlobCorrupt as error:
            log.warning("%s", error)
            return None

    # Writing

    async def _promise(self, request: web.Request) -> web.StreamResponse:
        digest = _checksum(request)
        self.promises.add(digest)
        return said({"checksum": digest, "expires_in": self.promises.seconds}, 202)

    async def _put(self, request: web.Request) -> web.StreamResponse:
        digest, coding = _checksum(request), coding_of(request)
        search = Search()
        for there in self.store.lookup.files(digest, search, (coding,), (self.store.folder,)):
            with there:
                if not there.is_regular:
                    raise _Wrong(_wrong(there, self.store.algorithm))
                right = await while_wanted(request, self.store.is_right(digest, there, search))
            if right and count_as_put(self.store.folder, digest, coding):
                self.promises.keep(digest)
                return await without_body(request, 201)
        search.check()
        if self.uploads.has(digest):
            return await without_body(request, 202)
        with self.uploads.arriving(digest):
            try:
                await self._receive(request, digest, coding)
            except MalformedBlob:
                return BareResponse(body=b"Invalid compressed payload", status=400)
            except IntegrityError:
                return BareResponse(body=b"Incorrect checksum", status=400)
        self.promises.keep(digest)
        return BareResponse(body=b"OK")

    async def _receive(self, request: web.Request, digest: str, coding: str | None) -> None:
        """
        Raises:
            IntegrityError: it is another blob.
            LocalDiskError: it can't be kept.
        """
        await go_on(request)
        async with self.store.put(digest, coding) as writer:
            async for some in chunks(request):
                await writer.write(some)
            await writer.commit()

    # Everything else

    async def _other(self, request: web.Request) -> web.StreamResponse:
        asked = request.headers.get("Access-Control-Request-Method")
        if request.method == "OPTIONS" and "Origin" in request.headers and asked is not None:
            return preflight(request, asked)
        path = request.path
        if path != "/" and path.endswith("/") and self._methods(path[:-1]):
            return BareResponse(status=307, headers={"Location": elsewhere(request, path[:-1])})
        methods = self._methods(path)
        if methods:
            return said({"detail": "Method Not Allowed"}, 405, {"Allow": methods})
        return said({"detail": "Not Found"}, 404)

    def _methods(self, path: str) -> str:
        """What may be done with a path; nothing with one that isn't ours."""
        first, *rest = path.removeprefix("/").split("/")
        if rest:
            return "PUT" if self.store.writable and [first] == [PROMISE_PATH[1:]] and len(rest) == 1 else ""
        if path in (HEALTHCHECK_PATH, HAS_PATH, HAS_NOW_PATH, LENGTH_PATH):
            return "GET, HEAD"
        return ("GET, HEAD, PUT" if self.store.writable else "GET, HEAD") if first else ""


class _Wrong(Refused):
    """What is there of a blob is not it."""

    def __init__(self, message: str) -> None:
        super().__init__({"message": message})


def _wrong(file: BlobFile, algorithm: str) -> str:
    if not file.is_regular:
        return f"File at path {file.path} is not a file."
    checksum = f"the correct {_NAMES[algorithm]} checksum."
    return f"File corruption: file at path {file.path} does not have {checksum}"


def _unable(request: web.Request, error: LocalDiskError) -> web.Response:
    """What this machine can't do: never that there is no such blob."""
    message = {"message": str(error)}
    if is_full(error):
        return said(message, 507)
    if request.method == "PUT" and getattr(error.__cause__, "errno", None) in _NOT_ALLOWED:
        return said(message, 500)
    return said(message, 503, {"Retry-After": RETRY_AFTER})


async def _healthcheck(request: web.Request) -> web.StreamResponse:
    return BareResponse(body=b"OK")


def _checksum(request: web.Request) -> str:
    """
    Raises:
        InvalidData: what the path names is none.
        HTTPNotFound: it is of several parts, with a slash in disguise between them.
    """
    text = request.match_info["checksum"]
    if "/" in text:
        raise web.HTTPNotFound(body=b'{"detail":"Not Found"}', content_type="application/json")
    return parse_checksum(text, "path", "checksum")


def _portions(digests: list[str], most: int) -> Iterator[list[str]]:
    return (digests[start : start + most] for start in range(0, len(digests), most))


def _digest(algorithm: str, data: bytes) -> str:
    check = Check(algorithm)
    check.update(data)
    return check.finish()


async def _dress(request: web.Request, response: web.StreamResponse) -> None:
    """The last touch to an answer's head."""
    if "Origin" in request.headers:
        response.headers["Access-Control-Allow-Origin"] = "*"
    if isinstance(response, BareResponse):
        response.headers.pop("Content-Type", None)
