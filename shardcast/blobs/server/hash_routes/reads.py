"""``GET /<checksum>``: a blob, verified, as soon as stored."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from aiohttp import web

from shardcast.blobs.directory.compression import CODINGS, DigestCheck
from shardcast.blobs.directory.file import BlobFile
from shardcast.blobs.directory.incoming_folder import MAX_INLINE_SIZE
from shardcast.blobs.directory.lookup import FORMS
from shardcast.blobs.server.hash_routes.answers import AnswerHead, send_decoded, send_file
from shardcast.blobs.server.hash_routes.failures import CorruptFile, corruption
from shardcast.blobs.server.hash_routes.requests import BareResponse, checksum_of
from shardcast.blobs.server.hash_routes.state import HashServerState
from shardcast.blobs.server.negotiation import accepted_forms
from shardcast.errors import LocalDiskError
from shardcast.server.hang_ups import while_connected
from shardcast.store.file_errors import BlobSearch

_POLL = 1.0
"""Seconds between two looks at the disk for a promised blob: another process may put it."""


class _Found(NamedTuple):
    """A verified file of a blob.

    Attributes:
        file: open; the receiver closes it.
        data: all bytes of a small file; None for a large one.
        fresh: whether the file was verified for this request.
    """

    file: BlobFile
    data: bytes | None
    fresh: bool


class Reads:
    """Answers to requests for a blob."""

    def __init__(self, state: HashServerState) -> None:
        self._state = state

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Send a blob in a form accepted by the reader; 404 for one neither stored nor expected."""
        digest, store = checksum_of(request), self._state.store
        forms, decoded = accepted_forms(request.headers.get("Accept-Encoding"), CODINGS)
        all_forms = (*forms, *(form for form in FORMS if form not in forms))
        found = await while_connected(request, self._wait_for(digest, all_forms))
        if found is None:
            return BareResponse(body=b"Not found", status=404)
        with found.file as file:
            mtime = file.stat_result.st_mtime
            if file.coding is None or file.coding in forms or not decoded:
                head = AnswerHead(
                    request, digest, length=file.size, mtime=mtime, coding=file.coding, ranges=True
                )
                if found.data is not None:
                    return head.with_body(found.data)
                return await send_file(head, file, store, fresh=found.fresh)
            length = file.decoded_length()
            head = AnswerHead(request, digest, length=length, mtime=mtime, coding=None, ranges=False)
            return await send_decoded(head, file, store)

    async def _wait_for(self, digest: str, forms: tuple[str | None, ...]) -> _Found | None:
        """Return a blob's file once stored; None for a blob neither stored nor expected.

        Raises:
            CorruptFile: its files are wrong, and another program's lock on them has ended.
            LocalDiskError: a file cannot be read.
        """
        state = self._state
        while True:
            try:
                found = await self._find(digest, forms)
            except CorruptFile:
                found = None  # an upload, or a lock's holder, may be replacing the file
            if found is None and state.uploads.has(digest):
                await state.uploads.wait_until_ended(digest)
                continue
            if found is None:
                # A lock file of another program marks a file still being written: look again without the
                # lock.
                await state.locks.wait_released(state.store.folder, digest)
                found = await self._find(digest, forms)
            if found is not None or not state.promises.has(digest):
                return found
            await state.promises.wait_until_fulfilled(digest, _POLL)

    async def _find(self, digest: str, forms: tuple[str | None, ...]) -> _Found | None:
        """Return the first verified file of a blob; None without a file.

        Raises:
            CorruptFile: all files of the blob are wrong.
            LocalDiskError: a file cannot be read.
        """
        search, store = BlobSearch(), self._state.store
        for file in store.lookup.files(digest, search, forms):
            with contextlib.ExitStack() as stack:
                stack.enter_context(file)
                if file.is_regular and file.size <= MAX_INLINE_SIZE and file.coding is None:
                    data = _whole(file, search)
                    if data is not None and _digest_of(store.algorithm, data) == digest:
                        stack.pop_all()
                        return _Found(file, data, fresh=True)
                elif file.is_regular:
                    fresh = store.verified.get(digest, file.stat_result) is None
                    if await store.is_right(digest, file, search):
                        stack.pop_all()
                        return _Found(file, None, fresh)
            search.add_corrupt(corruption(file, store.algorithm))
        search.check()
        if search.wrong is not None:
            raise CorruptFile(search.wrong)
        return None


def _whole(file: BlobFile, search: BlobSearch) -> bytes | None:
    """Return a file's bytes; None for an unreadable file, recorded by ``search``."""
    try:
        return file.read_all()
    except LocalDiskError as error:
        search.add_error(error)
        return None


def _digest_of(algorithm: str, data: bytes) -> str:
    """Return the digest of bytes."""
    check = DigestCheck(algorithm)
    check.update(data)
    return check.finish()
