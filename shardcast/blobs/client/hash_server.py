"""A hash server (hashserver's or ours) as typed calls: its blobs, their lengths, and uploads."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from io import BufferedRandom
from pathlib import Path
from typing import Any

from shardcast.blobs.client.endpoint import Endpoint, Unavailable
from shardcast.disk_errors import disk_errors
from shardcast.errors import BadAnswer, ServerLacks, ServerStalled
from shardcast.json_text import parse_json
from shardcast.peer.failures import denied_error, refused_error, wants_token
from shardcast.peer.pace import Upload, read_paced
from shardcast.policy.backoff import Backoff
from shardcast.protocol.wire import HAS_NOW_PATH, LENGTH_PATH

OTHER_UPLOAD = 600.0
"""Maximum seconds to wait for another's upload of the same blob."""
_PRESENT, _OTHER_UPLOAD_RUNS = 201, 202
"""Statuses of an upload: the blob is there already; another upload of the blob is under way."""
_MIN_PAUSE, _MAX_PAUSE = 0.1, 5.0
_BACKOFF = Backoff(_MIN_PAUSE, _MAX_PAUSE)
"""Seconds between two uploads of a blob after another upload failed, or began anew."""
_PROBE = hashlib.sha256(b"").hexdigest()
"""Asked for to learn whether a server is a hash server; stores of every digest answer."""
_CHUNK = 1 << 20
_MAX_ANSWER = 1 << 20
"""Bytes of a JSON answer."""


class HashServerClient:
    """The calls for a hash server alone."""

    def __init__(self, endpoint: Endpoint, empty: str, patience: float = OTHER_UPLOAD) -> None:
        """Talk to a server.

        Args:
            endpoint: the server.
            empty: the digest of the empty blob; a hash server gives its length 0 for a missing blob, too.
            patience: maximum seconds to wait for another's upload of the same blob.
        """
        self._endpoint = endpoint
        self._empty = empty
        self._patience = patience

    async def is_hash_server(self) -> bool:
        """Return whether the server answers ``/has-now``.

        Raises:
            PeerError: the server can't be asked, can't answer now, or wants a token.
        """
        try:
            return await self._ask(HAS_NOW_PATH, [_PROBE]) in ([True], [False])
        except Unavailable:
            raise
        except (ServerLacks, BadAnswer):
            return False

    async def present(self, digests: Sequence[str]) -> list[str]:
        """Return the digests of those blobs that are present at the server now.

        To be called before a GET: a GET of a blob only promised would wait.

        Raises:
            PeerError: the server does not answer, or its answer is wrong.
        """
        flags = await self._ask(HAS_NOW_PATH, digests)
        if not isinstance(flags, list) or len(flags) != len(digests):
            raise BadAnswer(self._endpoint.url, "GET /has-now: the answer does not fit the requested list")
        return [digest for digest, flag in zip(digests, flags, strict=True) if flag is True]

    async def size(self, digest: str) -> int | None:
        """Return the number of bytes of a blob; None for one missing at the server, or only promised.

        Waits for the end of an upload of the blob under way there.

        Raises:
            PeerError: the server does not answer, or its answer is wrong.
        """
        if not await self.present([digest]):
            return None
        # The answer waits for an upload under way, and is 0 after its failure, as for a missing blob.
        lengths = await self._ask(LENGTH_PATH, [digest], self._patience)
        if not isinstance(lengths, list) or len(lengths) != 1:
            raise BadAnswer(self._endpoint.url, f"GET {LENGTH_PATH}: the answer is no length")
        length = lengths[0]
        if not isinstance(length, int) or length < 0:
            raise BadAnswer(self._endpoint.url, f"GET {LENGTH_PATH}: the answer is no length")
        known = length is not True and (length or digest == self._empty)  # true: promised
        return length if known else None

    async def upload(self, digest: str, file: BufferedRandom) -> None:
        """Put the bytes of an open file, and return after the server has stored them.

        A hash server refuses an upload beside another of the same blob (202), and the other one may fail:
        this waits for its end, and puts a blob still missing again. The server also refuses a blob already
        there (201): hashserver 1.0.2 does so for any file with this name, also a truncated one, so the length
        is compared.

        Raises:
            LocalDiskError: the file can't be read.
            PeerError: the server does not store the blob.
        """
        loop, length, attempts = asyncio.get_running_loop(), file.seek(0, os.SEEK_END), 0
        deadline, was_missing = loop.time() + self._patience, False
        while (status := await self._put(digest, file)) in (_PRESENT, _OTHER_UPLOAD_RUNS):
            if status == _OTHER_UPLOAD_RUNS:
                with contextlib.suppress(ServerStalled):  # answered when the other upload has ended
                    await self._ask(LENGTH_PATH, [digest], max(_MIN_PAUSE, deadline - loop.time()))
            size = await self.size(digest)
            if size == length:
                return
            if status == _PRESENT and (size is not None or was_missing):
                why = f"it has {size or 0} bytes there, not {length}; repair it there"
                raise BadAnswer(self._endpoint.url, f"PUT /{digest}: the blob was not stored: {why}")
            # A blob removed between the PUT and the size is taken by the next PUT.
            was_missing = status == _PRESENT
            if loop.time() >= deadline:
                raise BadAnswer(
                    self._endpoint.url,
                    f"PUT /{digest}: the blob was not stored: others uploaded it for {self._patience:g} s, "
                    "and the server does not have it; push the blob again",
                )
            await asyncio.sleep(_BACKOFF.pause(attempts))
            attempts += 1

    async def _put(self, digest: str, file: BufferedRandom) -> int:
        """Upload a blob once, and return the status: 200, 201 or 202.

        Raises:
            PeerError: the server refuses, or can't be asked.
        """
        headers = {"Content-Length": str(file.seek(0, os.SEEK_END))}
        body = Upload(_read(file))
        async with self._endpoint.request(f"/{digest}", "PUT", headers=headers, body=body) as response:
            if response.status not in (200, _PRESENT, _OTHER_UPLOAD_RUNS):
                what, status = f"PUT /{digest}", response.status
                raise refused_error(
                    self._endpoint.url, what, status, response.headers, reason=response.reason
                )
            return response.status

    async def _ask(self, path: str, digests: Sequence[str], silence: float | None = None) -> Any:
        """Send a list of digests and return the JSON answer.

        Raises:
            ServerLacks: the server doesn't know the path.
            AccessDenied: the server wants a token, or another one.
            PeerError: the server can't be asked, can't answer now, or answers with no JSON.
        """
        what, body = f"GET {path}", json.dumps(list(digests)).encode()
        headers = {"Content-Type": "application/json"}
        async with self._endpoint.request(path, headers=headers, silence=silence, body=body) as response:
            self._endpoint.record(response)
            if response.status >= 500:
                raise self._endpoint.unavailable(what, response)
            if wants_token(response.status, response.headers):
                raise denied_error(self._endpoint.url, what, response.status, response.headers)
            if response.status != 200:
                raise ServerLacks(self._endpoint.url, f"{what}: {response.status}")
            raw = bytearray()
            async with aclosing(
                read_paced(response, self._endpoint.url, what, self._endpoint.timeout)
            ) as chunks:
                async for chunk in chunks:
                    raw += chunk
                    if len(raw) > _MAX_ANSWER:
                        raise BadAnswer(self._endpoint.url, f"{what}: the answer is too long")
            return parse_json(raw)  # a ValueError leaves ``request`` as BadAnswer


async def _read(file: BufferedRandom) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of a temporary file from its beginning.

    Raises:
        LocalDiskError: the file can't be read.
    """
    with disk_errors("could not read", Path(tempfile.gettempdir())):
        file.seek(0)
        while data := await asyncio.to_thread(file.read, _CHUNK):
            yield data
