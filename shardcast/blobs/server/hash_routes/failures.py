"""Failures of a hash server's routes, and their answers."""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable

from aiohttp import ClientError, web
from aiohttp.http_exceptions import HttpProcessingError

from shardcast.blobs.directory.file import BlobFile
from shardcast.blobs.server.hash_routes.activity import Activity
from shardcast.blobs.server.hash_routes.requests import BadRequest, json_response
from shardcast.disk_errors import is_full
from shardcast.errors import LocalDiskError
from shardcast.protocol.wire import RETRY_AFTER
from shardcast.server.connections import BodyTooSlow

log = logging.getLogger(__name__)

_NAMES = {"sha256": "sha-256", "sha3-256": "sha3-256"}
"""The digests, as hashserver calls them."""
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG)
"""Errors of a write that a repetition would meet again."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class CorruptFile(BadRequest):
    """A request for a blob whose files are there, and none of them is right."""

    def __init__(self, message: str) -> None:
        super().__init__({"message": message})


def corruption(file: BlobFile, algorithm: str) -> str:
    """Return hashserver's words for a file other than the blob."""
    if not file.is_regular:
        return f"File at path {file.path} is not a file."
    checksum = f"the correct {_NAMES[algorithm]} checksum."
    return f"File corruption: file at path {file.path} does not have {checksum}"


def guarded(handler: Handler, activity: Activity) -> Handler:
    """Return the handler with its failures turned into answers, and its requests counted."""

    async def answer(request: web.Request) -> web.StreamResponse:
        with activity.request():
            try:
                return await handler(request)
            except BadRequest as error:
                return json_response(error.payload, 400)
            except LocalDiskError as error:
                log.error("%s %s: %s", request.method, request.path, error)
                return _disk_failure(request, error)
            except BodyTooSlow:
                raise
            except (ConnectionError, ClientError, HttpProcessingError) as error:
                log.debug("%s went away: %s", request.remote, error)
                return json_response({"message": f"the request broke off: {error}"}, 400)

    return answer


def _disk_failure(request: web.Request, error: LocalDiskError) -> web.Response:
    """Return the answer for a failing disk; never an answer that the blob is missing."""
    message = {"message": str(error)}
    if is_full(error):
        return json_response(message, 507)
    if request.method == "PUT" and getattr(error.__cause__, "errno", None) in _NOT_ALLOWED:
        return json_response(message, 500)
    return json_response(message, 503, {"Retry-After": RETRY_AFTER})
