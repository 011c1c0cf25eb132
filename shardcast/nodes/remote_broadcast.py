"""A payload ─▶ an origin elsewhere: sent, gone on with after a broken connection, checked and confirmed."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from random import Random

from shardcast.access.client_access import ClientAccess
from shardcast.constants import HTTP_TIMEOUT, UNREACHABLE_AT_START, UNREACHABLE_ONCE_BEGUN
from shardcast.errors import (
    BadAnswer,
    CannotAsk,
    PayloadChanged,
    PeerError,
    ServerBusy,
    ServerStalled,
    ServerUnreachable,
    ShardcastError,
    TransferFailed,
    UploadRefused,
)
from shardcast.fair_limit import FairLimit
from shardcast.log_fields import about
from shardcast.nodes.payload_sources import PayloadSource
from shardcast.peer.pace import Upload
from shardcast.peer.session import open_session
from shardcast.peer.uploads import UploadClient
from shardcast.policy.backoff import Backoff
from shardcast.protocol.uploads import (
    UploadRequest,
    UploadState,
    UploadStatus,
    UploadUnknown,
    WholePayload,
    WrongOffset,
)

log = logging.getLogger(__name__)

_BACKOFF = Backoff(0.2, 5.0)
"""Seconds between two attempts to go on."""
_TURN_SECONDS = 600.0
"""Seconds for a live broadcast to wait for earlier ones, as at the origin itself."""
_LOOK_AGAIN = 1.0
"""Seconds between two questions whether the broadcast's turn has come."""
_FAREWELL_SECONDS = 5.0
"""Seconds for one request to make the origin forget an upload."""


@dataclass(frozen=True)
class RemoteProgress:
    """Progress of a broadcast to an origin elsewhere.

    Attributes:
        version: the version's name; None before the origin has given one.
        done: bytes received by the origin.
        size: bytes of the payload; None while unknown.
        cut: whether the origin has all bytes, and publishes them.
        waits: whether earlier broadcasts go first.
    """

    version: str | None
    done: int
    size: int | None
    cut: bool = False
    waits: bool = False


async def broadcast_to(
    server: str,
    source: PayloadSource,
    announcement: UploadRequest,
    *,
    access: ClientAccess | None = None,
    uploads: FairLimit | None = None,
    on_progress: Callable[[RemoteProgress], None] = lambda progress: None,
    on_complete: Callable[[str], None] = lambda version: None,
    timeout: float = HTTP_TIMEOUT,
) -> str:
    """Send a payload to an origin, and return the name of the complete version.

    After a kill before the return of ``on_complete``, a caller learns the same version by sending the same
    file again; nothing is published twice.

    Args:
        server: the URL of the origin.
        source: the payload.
        announcement: the announcement of the payload.
        access: tokens shown to the origin, and TLS required of the origin.
        uploads: limit of sent bytes; None for no limit.
        on_progress: called at each step, and for each MiB sent.
        on_complete: called with the version's name, before the origin may forget the upload.
        timeout: seconds without progress of one request.

    Raises:
        UploadRefused: the origin takes no uploads, or not this one.
        IntegrityError: the origin received other bytes; nothing was published.
        PayloadChanged: the file changed while it was sent; nothing was published.
        LocalDiskError: the payload can't be read.
        PeerError: the origin could not be reached for too long.
    """
    async with open_session(timeout, access, uploads=uploads) as session:
        client = UploadClient(session, server, timeout)
        return await PayloadSender(client, source, announcement, on_progress).run(on_complete)


class PayloadSender:
    """A sender of one payload to an origin elsewhere."""

    def __init__(
        self,
        client: UploadClient,
        source: PayloadSource,
        announcement: UploadRequest,
        on_progress: Callable[[RemoteProgress], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
    ) -> None:
        """Make a sender; nothing is sent yet.

        Args:
            client: the origin.
            source: the payload.
            announcement: the announcement of the payload.
            on_progress: called with the progress.
            clock: returns seconds.
            random: spreads attempts over time.
        """
        self._client = client
        self._source = source
        self._announcement = announcement
        self._on_progress = on_progress
        self._clock = clock
        self._random = random or Random()
        self._upload: str | None = None
        self._version: str | None = None
        self._done = -1
        self._failures = 0
        self._lost_since: float | None = None

    async def run(self, on_complete: Callable[[str], None] = lambda version: None) -> str:
        """Send the payload, and return the version's name after ``on_complete`` has returned.

        At the end the origin is asked to forget the upload; after a failure only if no later run can go on.

        Raises:
            ShardcastError: as for ``broadcast_to``.
        """
        try:
            version = await self._retry()
        except BaseException as error:
            given_up = self._announcement.live or not self._source.resumable
            if given_up or isinstance(error, PayloadChanged):
                await self._forget()
            raise
        on_complete(version)
        # With patience: an origin in the middle of a restart would keep its record of the upload, and answer
        # the next run of the same command with this version instead of publishing a new one.
        await self._forget(patience=UNREACHABLE_AT_START)
        return version

    async def _retry(self) -> str:
        """Continue after each passing failure, until the origin was unreachable for too long."""
        while True:
            try:
                return await self._go_on()
            except WrongOffset as error:
                failure: ShardcastError = BadAnswer(self._client.server, str(error))
            except PeerError as error:
                if not _may_pass(error):
                    raise
                failure = error
            now = self._clock()
            self._lost_since = now if self._lost_since is None else self._lost_since
            patience = UNREACHABLE_AT_START if self._upload is None else UNREACHABLE_ONCE_BEGUN
            if now - self._lost_since >= patience:
                raise failure
            log.warning("%s; going on in a moment", failure)
            await asyncio.sleep(_BACKOFF.spread(self._failures, self._random))
            self._failures += 1

    async def _go_on(self) -> str:
        """Continue the broadcast from the origin's position to the end.

        Raises:
            WrongOffset: the origin's position has changed.
            ShardcastError: the broadcast failed.
        """
        status = await self._stand()
        status = await self._await_turn(status)
        while status.state is not UploadState.COMPLETE and not self._source.ended_at(status.offset):
            await self._source.seek(status.offset)
            before, body = status.offset, Upload(self._noted(status.offset))
            status = self._note(await self._client.append(status.upload, status.offset, body))
            if status.offset == before and self._announcement.size is not None:
                raise BadAnswer(
                    self._client.server, f"it takes no more of {self._source.name} at byte {before}"
                )
        if status.state is UploadState.COMPLETE and status.version:
            return status.version
        await self._source.seek(status.offset)
        return await self._finish(status)

    async def _stand(self) -> UploadStatus:
        """Return the status of the upload; begin the upload if there is none."""
        if self._upload is None:
            status = await self._client.begin(self._announcement)
            self._upload = status.upload
            if status.offset:
                log.info("the origin has %d bytes of %s already", status.offset, self._source.name)
        else:
            status = await self._client.status(self._upload)
        await self._check_folder(status)
        return self._note(status)

    async def _check_folder(self, status: UploadStatus) -> None:
        """Check that the origin publishes a folder as a folder.

        Raises:
            UploadRefused: the origin knows no folders, and would publish list and tar as one file.
        """
        if self._announcement.folder and not status.is_folder:
            await self._forget()
            raise UploadRefused(
                f"{self._client.server} can't take folders: its shardcast is an earlier one; update it, or "
                "send a tar: tar -C FOLDER -c . | shardcast broadcast - --name NAME.tar --to …"
            )

    async def _await_turn(self, status: UploadStatus) -> UploadStatus:
        """Wait until the version of a live broadcast is open.

        Raises:
            TransferFailed: earlier broadcasts go on for too long.
        """
        deadline = self._clock() + _TURN_SECONDS
        while status.state is UploadState.WAITING:
            if self._clock() >= deadline:
                raise TransferFailed(
                    f"{self._client.server}: earlier broadcasts did not end within {_TURN_SECONDS:g} s, and "
                    f"{self._source.name} was not sent; broadcast it again later"
                )
            await asyncio.sleep(_LOOK_AGAIN)
            status = self._note(await self._client.status(status.upload))
        return status

    async def _finish(self, status: UploadStatus) -> str:
        """Have the whole payload checked and cut, confirm, and return the version's name."""
        self._source.check_unchanged()
        whole = WholePayload(status.offset, self._source.sha256())
        self._tell(RemoteProgress(self._version, whole.size, whole.size, cut=True))
        async with aclosing(self._client.finish(status.upload, whole)) as lines:
            async for line in lines:
                self._recover()
                if "complete" in line:
                    return str(line["complete"])
                if "ready" in line:
                    break
            else:
                raise BadAnswer(self._client.server, "the answer ended before the version was ready")
        self._source.check_unchanged()
        return await self._client.confirm(status.upload)

    # State

    def _note(self, status: UploadStatus) -> UploadStatus:
        """Keep the origin's answer; any advance ends an outage."""
        if status.offset > self._done or status.version != self._version:
            self._recover()
        self._done, self._version = status.offset, status.version
        waits = status.state is UploadState.WAITING
        self._tell(RemoteProgress(self._version, status.offset, self._source.size, waits=waits))
        return status

    def _recover(self) -> None:
        self._failures, self._lost_since = 0, None

    def _tell(self, progress: RemoteProgress) -> None:
        self._on_progress(progress)

    async def _noted(self, offset: int) -> AsyncGenerator[bytes, None]:
        """Yield the chunks of a request, and tell how far they are."""
        async with aclosing(self._source.chunks(offset)) as chunks:
            async for chunk in chunks:
                yield chunk
                offset += len(chunk)
                self._tell(RemoteProgress(self._version, offset, self._source.size))

    async def _forget(self, patience: float = 0.0) -> None:
        """Make the origin forget the upload.

        A failure is only logged, since the origin forgets idle uploads by itself (``UploadBounds``).

        Args:
            patience: seconds of repeated requests to an unreachable origin.
        """
        if self._upload is None:
            return
        deadline = self._clock() + patience
        for failures in itertools.count():
            failure = await self._discard(self._upload)
            if failure is None:
                return
            passes = isinstance(failure, PeerError) and _may_pass(failure)
            if not passes or self._clock() >= deadline:
                log.info("the origin keeps the record of this upload for now: %s", failure)
                return
            await asyncio.sleep(_BACKOFF.spread(failures, self._random))

    async def _discard(self, upload: str) -> ShardcastError | None:
        """Have the origin forget the upload, and return the error of a failure."""
        server = self._client.server
        try:
            async with asyncio.timeout(_FAREWELL_SECONDS):
                await self._client.discard(upload)
        except UploadUnknown:
            log.debug("%s has forgotten the upload already", server, extra=about(server=server))
        except TimeoutError:
            return ServerStalled(server, f"no answer within {_FAREWELL_SECONDS:g} s")
        except ShardcastError as error:
            return error
        return None


def _may_pass(error: PeerError) -> bool:
    """Return whether a failure may pass by itself: an origin out of reach or busy, or a wrong answer."""
    if isinstance(error, CannotAsk):
        return False
    return isinstance(error, (ServerUnreachable, ServerStalled, ServerBusy)) or type(error) is BadAnswer
