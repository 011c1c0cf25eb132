"""``/has``, ``/has-now`` and ``/buffer-length``: lists of checksums, and facts about their blobs."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from aiohttp import web

from shardcast.blobs.server.hash_routes.lists import ListParser
from shardcast.blobs.server.hash_routes.requests import json_response
from shardcast.blobs.server.hash_routes.state import HashServerState
from shardcast.errors import BlobCorrupt
from shardcast.server.hang_ups import while_connected

log = logging.getLogger(__name__)

_FEW = 16
"""Maximum checksums looked up on the event loop; more of them in a thread."""
_BATCH = 1000
"""Checksums looked up by a thread in one go, before the next waiting request."""


class Queries:
    """Answers to lists of checksums."""

    def __init__(self, state: HashServerState) -> None:
        self._state = state
        self._lists = ListParser()

    async def has(self, request: web.Request) -> web.StreamResponse:
        """Answer for each blob whether it is stored, arriving, or promised."""
        state, digests = self._state, await self._lists.read(request)
        present = await while_connected(request, self._present(digests))
        return json_response(
            [
                local or state.uploads.has(digest) or state.promises.has(digest)
                for local, digest in zip(present, digests, strict=True)
            ]
        )

    async def has_now(self, request: web.Request) -> web.StreamResponse:
        """Answer for each blob whether it is stored."""
        digests = await self._lists.read(request)
        return json_response(await while_connected(request, self._present(digests)))

    async def lengths(self, request: web.Request) -> web.StreamResponse:
        """Answer with the lengths of blobs: true for a promised one, 0 for a missing or corrupt one.

        Waits for the end of uploads of missing ones.
        """
        digests = await self._lists.read(request)
        lengths = await while_connected(request, self._settled_lengths(digests))
        return json_response(
            [
                (self._state.promises.has(digest) or 0) if length is None else length
                for length, digest in zip(lengths, digests, strict=True)
            ]
        )

    async def _present(self, digests: list[str]) -> list[bool]:
        """Return for each blob whether it is stored, right or wrong.

        Raises:
            LocalDiskError: the disk cannot be read.
        """
        store = self._state.store
        if len(digests) <= _FEW:
            return store.lookup.present(digests)
        present: list[bool] = []
        for batch in _batches(digests, _BATCH):
            present += await store.verified.hashing.run(store.lookup.present, batch)
        return present

    async def _settled_lengths(self, digests: list[str]) -> list[int | None]:
        """Return the lengths of blobs, once no missing one is arriving any more; None for a missing one.

        Raises:
            LocalDiskError: the disk can't be read.
        """
        hashing, uploads = self._state.store.verified.hashing, self._state.uploads
        lengths: list[int | None] = []
        for batch in _batches(digests, _FEW):
            lengths += await hashing.run(self._lengths_of, batch)
        for index, digest in enumerate(digests):
            if lengths[index] is None and uploads.has(digest):
                await uploads.wait_until_ended(digest)
                lengths[index] = await hashing.run(self._length, digest)
        return lengths

    def _lengths_of(self, digests: list[str]) -> list[int | None]:
        return [self._length(digest) for digest in digests]

    def _length(self, digest: str) -> int | None:
        """Return the length of a blob; None for a missing or corrupt one. Blocks on the disk."""
        try:
            return self._state.store.lookup.length(digest)
        except BlobCorrupt as error:
            log.warning("%s", error)
            return None


def _batches(digests: list[str], size: int) -> Iterator[list[str]]:
    """Yield the digests in lists of at most ``size``."""
    return (digests[start : start + size] for start in range(0, len(digests), size))
