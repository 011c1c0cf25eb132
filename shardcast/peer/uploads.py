"""An origin that takes payloads from elsewhere, as typed calls."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import aiohttp

from shardcast.errors import (
    BadAnswer,
    IntegrityError,
    PeerError,
    ServerBusy,
    ShardcastError,
    UploadRefused,
    UsageError,
    from_wire,
)
from shardcast.json_text import parse_json
from shardcast.peer.failures import refused_error, status_error
from shardcast.peer.pace import Upload, read_paced
from shardcast.peer.session import Session, answer
from shardcast.protocol.lines import LineReader
from shardcast.protocol.uploads import (
    UploadRequest,
    UploadStatus,
    UploadUnknown,
    WholePayload,
    WrongOffset,
    parse_offset,
    upload_path,
)
from shardcast.protocol.wire import UPLOAD_OFFSET_HEADER, UPLOADS_PATH

_MAX_ANSWER = 64 << 10
"""Bytes of an answer in JSON."""
_LATER = frozenset({408, 425, 429})
"""Statuses of a refusal that may pass: the body was too slow, or there are too many requests."""


@dataclass(frozen=True)
class UploadClient:
    """The uploads of one origin.

    Attributes:
        session: sends the requests.
        server: the URL of the origin.
        timeout: seconds without progress.
    """

    session: Session
    server: str
    timeout: float

    async def begin(self, request: UploadRequest) -> UploadStatus:
        """Announce a payload, and return the upload, new or found again.

        Raises:
            UploadRefused: the origin takes no uploads, or not this one.
            UsageError: the origin finds a mistake in the request.
            PeerError: the origin can't be asked.
        """
        return await self._status("POST", UPLOADS_PATH, _json(request.as_json()))

    async def status(self, upload: str) -> UploadStatus:
        """Return how far an upload is.

        Raises:
            UploadUnknown: the origin doesn't know it any more.
            UploadRefused: it has failed.
            PeerError: the origin can't be asked.
        """
        return await self._status("GET", upload_path(upload))

    async def append(self, upload: str, offset: int, body: Upload) -> UploadStatus:
        """Send bytes from ``offset`` on.

        Raises:
            WrongOffset: the upload stands elsewhere.
            UploadUnknown, UploadRefused, PeerError: as above.
            LocalDiskError: the bytes can't be read.
        """
        headers = {UPLOAD_OFFSET_HEADER: str(offset), "Content-Type": "application/octet-stream"}
        return await self._status("PATCH", upload_path(upload), body, headers)

    async def finish(self, upload: str, whole: WholePayload) -> AsyncGenerator[Mapping[str, Any], None]:
        """Have the whole payload checked and cut; yield progress, then ``ready`` or ``complete``.

        Raises:
            IntegrityError: the origin has other bytes.
            WrongOffset, UploadUnknown, UploadRefused, PeerError: as above.
        """
        path = upload_path(upload, "complete")
        what = f"POST {path}"
        async with answer(
            self.session, self.server, path, "POST", body=_json(whole.as_json()), silence=self.timeout
        ) as response:
            await self._check(what, response)
            reader = LineReader(_MAX_ANSWER)
            async with aclosing(read_paced(response, self.server, what, self.timeout)) as chunks:
                async for chunk in chunks:
                    for raw in reader.feed(chunk):
                        line = parse_json(raw)
                        if not isinstance(line, dict):
                            raise BadAnswer(self.server, f"{what}: a line is no JSON object")
                        if "error" in line:
                            raise self._reported(line["error"])
                        yield line

    async def confirm(self, upload: str) -> str:
        """Have the version made complete, and return its name.

        Raises:
            WrongOffset: it is not ready.
            UploadUnknown, UploadRefused, PeerError: as above.
        """
        path = upload_path(upload, "confirm")
        async with answer(self.session, self.server, path, "POST", silence=2 * self.timeout) as response:
            await self._check(f"POST {path}", response)
            done = await self._json(f"POST {path}", response)
            if not isinstance(done, dict) or not isinstance(done.get("complete"), str):
                raise BadAnswer(self.server, f"POST {path}: the answer names no version")
            return str(done["complete"])

    async def discard(self, upload: str) -> None:
        """Have an upload forgotten; one that is not confirmed is given up.

        Raises:
            UploadUnknown, PeerError: as above.
        """
        path = upload_path(upload)
        async with answer(self.session, self.server, path, "DELETE", silence=self.timeout) as response:
            await self._check(f"DELETE {path}", response)

    async def _status(
        self,
        method: str,
        path: str,
        body: bytes | Upload | None = None,
        headers: dict[str, str] | None = None,
    ) -> UploadStatus:
        """Send a request whose answer is a status."""
        what = f"{method} {path}"
        async with answer(
            self.session, self.server, path, method, headers=headers, body=body, silence=self.timeout
        ) as response:
            await self._check(what, response)
            return UploadStatus.parse(await self._json(what, response))  # a ValueError leaves as BadAnswer

    async def _json(self, what: str, response: aiohttp.ClientResponse) -> Any:
        """Return the JSON value of a bounded answer.

        Raises:
            PeerError: the answer is too long, or comes too slowly.
            ValueError: it is no JSON.
        """
        raw = bytearray()
        async with aclosing(read_paced(response, self.server, what, self.timeout)) as chunks:
            async for chunk in chunks:
                raw += chunk
                if len(raw) > _MAX_ANSWER:
                    raise BadAnswer(self.server, f"{what}: the answer is too long")
        return parse_json(raw)

    async def _check(self, what: str, response: aiohttp.ClientResponse) -> None:
        """Check the status of an answer.

        Raises:
            ShardcastError: what a refusal says.
        """
        if response.status in (200, 201, 204):
            return
        if response.status == 409:
            raise WrongOffset(parse_offset(response.headers.get(UPLOAD_OFFSET_HEADER)))
        try:
            refusal = await self._json(what, response)
        except ValueError:
            refusal = None
        error = refusal.get("error") if isinstance(refusal, dict) else None
        if not isinstance(error, dict):
            if response.status in (404, 405):
                raise UploadRefused(
                    f"{self.server} takes no uploads; start it with --publish, or name the origin itself"
                )
            failure = refused_error(
                self.server, what, response.status, response.headers, reason=response.reason
            )
            if type(failure) is BadAnswer and 400 <= response.status < 500 and response.status not in _LATER:
                raise UploadRefused(str(failure))  # asking again would not help
            raise failure
        if response.status == 404:
            raise UploadUnknown(f"{self.server}: {error.get('message')}")
        if response.status == 503:
            raise _busy(self.server, what, response, str(error.get("message")))
        raise self._reported(error)

    def _reported(self, error: object) -> ShardcastError:
        """Return the error that the origin reports; its disk is not this machine's."""
        found = from_wire(error if isinstance(error, dict) else {})
        if isinstance(found, (IntegrityError, UsageError)):
            return type(found)(f"{self.server}: {found}")
        return UploadRefused(f"{self.server}: {found}")


def _busy(server: str, what: str, response: aiohttp.ClientResponse, message: str) -> PeerError:
    """Return the error of an origin that can't take the upload now."""
    error = status_error(server, what, response.status, response.headers)
    return ServerBusy(server, f"{what}: {message}") if isinstance(error, ServerBusy) else error


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode()
