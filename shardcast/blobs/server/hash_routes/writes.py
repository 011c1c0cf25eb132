"""``PUT /<checksum>`` and ``PUT /promise/<checksum>``: a blob now, and a blob later."""

from __future__ import annotations

from aiohttp import web

from shardcast.blobs.directory.blob_writer import MalformedBlob
from shardcast.blobs.directory.marks import count_as_put
from shardcast.blobs.server.hash_routes.bodies import answer_without_body, send_continue
from shardcast.blobs.server.hash_routes.failures import CorruptFile, corruption
from shardcast.blobs.server.hash_routes.requests import BareResponse, checksum_of, coding_of, json_response
from shardcast.blobs.server.hash_routes.state import HashServerState
from shardcast.errors import IntegrityError
from shardcast.server.bodies import chunks
from shardcast.server.hang_ups import while_connected
from shardcast.store.file_errors import BlobSearch


class Writes:
    """Answers to requests that put or promise a blob."""

    def __init__(self, state: HashServerState) -> None:
        self._state = state

    async def promise(self, request: web.Request) -> web.StreamResponse:
        """Note a promised blob, so readers wait for the blob."""
        digest, promises = checksum_of(request), self._state.promises
        promises.add(digest)
        return json_response({"checksum": digest, "expires_in": promises.seconds}, 202)

    async def put(self, request: web.Request) -> web.StreamResponse:
        """Store a blob: 200; 201 for one already stored, and 202 during another request's upload."""
        state, store = self._state, self._state.store
        digest, coding = checksum_of(request), coding_of(request)
        search = BlobSearch()
        for present in store.lookup.files(digest, search, (coding,), (store.folder,)):
            with present:
                if not present.is_regular:
                    raise CorruptFile(corruption(present, store.algorithm))
                right = await while_connected(request, store.is_right(digest, present, search))
            if right and count_as_put(store.folder, digest, coding):
                state.promises.fulfil(digest)
                return await answer_without_body(request, 201)
        search.check()
        if state.uploads.has(digest):
            return await answer_without_body(request, 202)
        with state.uploads.arriving(digest):
            try:
                await self._receive(request, digest, coding)
            except MalformedBlob:
                return BareResponse(body=b"Invalid compressed payload", status=400)
            except IntegrityError:
                return BareResponse(body=b"Incorrect checksum", status=400)
        state.promises.fulfil(digest)
        return BareResponse(body=b"OK")

    async def _receive(self, request: web.Request, digest: str, coding: str | None) -> None:
        """Write the body of a request to the store.

        Raises:
            MalformedBlob: the body cannot be decoded.
            IntegrityError: the body is another blob.
            LocalDiskError: the blob cannot be stored.
            ConnectionError: the sender hung up, or is too slow.
        """
        await send_continue(request)
        async with self._state.store.put(digest, coding) as writer:
            async for chunk in chunks(request):
                await writer.write(chunk)
            await writer.commit()
