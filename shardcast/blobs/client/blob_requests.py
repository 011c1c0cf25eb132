"""``GET /<digest>`` and ``HEAD /<digest>``, answered alike by archives, hash servers and nodes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import aiohttp

from shardcast.blobs.client.endpoint import Endpoint
from shardcast.blobs.framing import Part
from shardcast.digest import new_hasher
from shardcast.errors import BadAnswer, ServerLacks, WrongBytes
from shardcast.peer.download_limit import blob_turn
from shardcast.peer.failures import denied_error
from shardcast.peer.pace import read_paced
from shardcast.protocol.wire import ABSENT_STATUSES, DENIED_STATUSES, VIA_HEADER


class BlobRequests:
    """Requests to a server for one blob each."""

    def __init__(self, endpoint: Endpoint, algorithm: str, max_size: int) -> None:
        """Ask a server; ``max_size``: maximum bytes taken of a blob of unknown length."""
        self._endpoint = endpoint
        self._algorithm = algorithm
        self._max_size = max_size

    async def get(
        self, digest: str, length: int | None, via: Sequence[str] = ()
    ) -> AsyncGenerator[Part, None]:
        """Yield the parts of a blob as they come; the blob is verified before its last part.

        Args:
            digest: digest of the blob.
            length: bytes of the blob; None for unknown.
            via: ids of the nodes on the request's way so far.

        Raises:
            ServerLacks: the server doesn't have the blob undamaged, or not with this length.
            WrongBytes: the bytes have another digest.
            PeerError: the server does not answer, or its answer is wrong.
        """
        url, what, hasher = self._endpoint.url, f"GET /{digest}", new_hasher(self._algorithm)
        headers = {VIA_HEADER: ", ".join(via)} if via else None
        async with (
            blob_turn(self._endpoint.session.downloads, url) as share,
            self._endpoint.request(f"/{digest}", headers=headers) as response,
        ):
            self._endpoint.record(response)
            size = self._length(response, what)
            if length is not None and size != length:
                raise ServerLacks(url, f"{what}: the blob has {size} bytes, not {length}")
            if length is None and size > self._max_size:
                raise BadAnswer(url, f"{what}: the blob has {size} bytes; at most {self._max_size} are read")
            missing = size
            paced = read_paced(response, url, what, self._endpoint.timeout, share=share)
            async with aclosing(paced) as chunks:
                async for chunk in chunks:
                    missing -= len(chunk)
                    if missing < 0:
                        raise BadAnswer(url, f"{what}: the blob is longer than announced")
                    hasher.update(chunk)
                    if missing:
                        yield Part(digest, size, memoryview(chunk), last=False)
                    else:
                        last = chunk
            if missing:
                raise BadAnswer(url, f"{what}: the blob is shorter than announced")
        if hasher.hexdigest() != digest:
            raise WrongBytes(url, f"{what}: the bytes have another digest", digest)
        yield Part(digest, size, memoryview(last if size else b""), last=True)

    async def size(self, digest: str) -> int | None:
        """Return the number of bytes of a blob; None for one missing or damaged at the server.

        Raises:
            PeerError: the server does not answer, or its answer is wrong.
        """
        async with self._endpoint.request(f"/{digest}", "HEAD") as response:
            try:
                return self._length(response, f"HEAD /{digest}")
            except ServerLacks:
                return None

    def _length(self, response: aiohttp.ClientResponse, what: str) -> int:
        """Return the Content-Length of an answer with the blob.

        Raises:
            ServerLacks: the server doesn't have the blob undamaged.
            PeerError: the answer is another failure, or has no length.
        """
        status, size = response.status, response.content_length
        if status >= 500:  # 503 is a mirror's, when it couldn't ask
            raise self._endpoint.unavailable(what, response)
        if (
            status in ABSENT_STATUSES or status == 400
        ):  # a hash server answers 400 for a blob that is damaged there
            raise ServerLacks(self._endpoint.url, f"{what}: the server does not have the blob ({status})")
        if status in DENIED_STATUSES:
            raise denied_error(self._endpoint.url, what, status, response.headers)
        if status != 200 or size is None:
            reason = str(status) if status != 200 else "the answer has no length"
            raise BadAnswer(self._endpoint.url, f"{what}: {reason}")
        return size
