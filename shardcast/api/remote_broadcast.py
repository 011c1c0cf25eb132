"""Handle of a broadcast to an origin elsewhere, in this process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from shardcast.access.client_access import ClientAccess
from shardcast.addresses import server_url
from shardcast.api.background import Background
from shardcast.api.broadcasting import BroadcastProgress, describe_progress
from shardcast.api.progress_calls import called_in_thread
from shardcast.errors import VersionAborted
from shardcast.folders.survey import SurveyRules
from shardcast.nodes.folder_source import FolderSource, announcement, is_sendable_folder, open_source
from shardcast.nodes.payload_sources import FileSource
from shardcast.nodes.progress_reports import ProgressReports
from shardcast.nodes.remote_broadcast import RemoteProgress, broadcast_to
from shardcast.progress import OnProgress, Progress, RecentRate
from shardcast.protocol.manifest import check_metadata


class RemoteBroadcast:
    """Handle of a running broadcast to an origin elsewhere; ``await`` gives the result, too.

    Attributes:
        server: URL of the origin.
    """

    def __init__(
        self,
        path: Path,
        server: str,
        shard_size: int | None,
        metadata: Mapping[str, Any] | None,
        *,
        live: bool,
        access: ClientAccess,
        exclude: Sequence[str] = (),
        mtimes: bool = True,
        on_progress: OnProgress | bool | None = None,
    ) -> None:
        """Start to send a file or a folder, in a thread.

        Args:
            path: the file or folder.
            server: address of the origin.
            shard_size: bytes of a shard; None for the origin's own.
            metadata: JSON object published with the version.
            live: whether the version opens at once and grows.
            access: token and certificate for the origin, and requirements of its TLS.
            exclude: patterns of paths in a folder to leave out.
            mtimes: whether to publish the times of a folder's files.
            on_progress: called with the progress, in a thread; its exception ends the broadcast. True for a
                bar.

        Raises:
            UsageError: the address or the metadata make no sense, or the address must be https.
            PayloadMissing: the file does not exist.
            LocalDiskError: the file can't be read.
        """
        self.server = server_url(server)
        access.check_server(self.server)
        check_metadata(metadata or {})
        is_sendable_folder(path, SurveyRules(tuple(exclude), mtimes))
        self._told, self._rate = RemoteProgress(None, 0, None), RecentRate()
        self._calling = set[int]()
        reports = ProgressReports(called_in_thread(on_progress, self._calling), self._look)
        opening = partial(open_source, path, exclude=exclude, mtimes=mtimes, shard_size=shard_size)
        sending = self._send(opening, shard_size, dict(metadata or {}), live=live, access=access)
        self._work = Background(reports.beside(sending, lambda _: self._look()))

    async def _send(
        self,
        opening: Callable[[], FileSource | FolderSource],
        shard_size: int | None,
        metadata: dict[str, Any],
        *,
        live: bool,
        access: ClientAccess,
    ) -> str:
        """Send the payload, and return the version's name."""
        with opening() as source:
            request = announcement(source, shard_size, metadata, live=live)
            return await broadcast_to(
                self.server,
                source,
                request,
                access=access,
                on_progress=self._tell,
                on_complete=self._complete,
            )

    def __repr__(self) -> str:
        version = f" of {self.version}" if self.version else ""
        state = ", ended" if self.done() else ""
        return f"<RemoteBroadcast{version} to {self.server}, {describe_progress(self.progress)}{state}>"

    def _tell(self, progress: RemoteProgress) -> None:
        self._told = progress

    def _look(self) -> Progress:
        """Return the progress for the caller's function."""
        told = self._told
        rate = self._rate.observe(time.monotonic(), told.done) or 0.0
        return Progress(told.version, told.done, told.size, rate)

    def _complete(self, version: str) -> None:
        size = self._told.size
        self._told = RemoteProgress(version, size or 0, size)

    @property
    def version(self) -> str | None:
        """Name of the version, ``v7``; None until the origin has answered with it.

        A live broadcast gets the name at the start, any other at the end.
        """
        return self._told.version

    @property
    def progress(self) -> BroadcastProgress:
        """Bytes sent, and the total."""
        return BroadcastProgress(self._told.done, self._told.size)

    def done(self) -> bool:
        """Return whether the broadcast has ended, with success or without.

        Returns:
            True once ``result`` would not wait.
        """
        return self._work.wait(0)

    def result(self, timeout: float | None = None) -> str:
        """Wait until the version is complete.

        Args:
            timeout: maximum seconds to wait; None for no maximum.

        Returns:
            The version's name.

        Raises:
            TimeoutError: the broadcast goes on after ``timeout`` seconds.
            UploadRefused: the origin accepts no uploads, or not this one.
            IntegrityError: the origin received other bytes; nothing was published.
            PayloadChanged: the file changed while being sent; nothing was published.
            LocalDiskError: the file can't be read.
            PeerError: the origin refuses the token, or could not be reached for too long.
            VersionAborted: ``cancel`` was called.
            BaseException: the progress function raised it, and so ended the broadcast.
        """
        if timeout is not None and not self._work.wait(timeout):
            raise TimeoutError(f"the broadcast to {self.server} goes on after {timeout:g} s")
        try:
            return self._work.result()
        except asyncio.CancelledError:
            raise VersionAborted(f"the broadcast to {self.server} was cancelled") from None

    def add_done_callback(self, callback: Callable[[RemoteBroadcast], object]) -> None:
        """Call a function with this handle once the broadcast has ended, with success or without.

        The function is called in a thread of the library, or at once if the broadcast has ended. Its
        exceptions are logged.

        Args:
            callback: the function.
        """
        self._work.ended.add_callback(lambda: callback(self), f"the broadcast to {self.server}")

    def __await__(self) -> Generator[Any, None, str]:
        """Wait for the result in an event loop; a cancelled waiting leaves the broadcast running."""
        return self._await_result().__await__()

    async def _await_result(self) -> str:
        """Return the result without blocking the event loop."""
        await self._work.ended.reached()
        return self.result()

    def cancel(self) -> None:
        """Stop sending, unless the version is complete, and wait for the end.

        A live version is aborted. Of another version, the origin keeps the arrived bytes for a day:
        broadcasting the same file again resumes there. If the progress function calls ``cancel``, ``cancel``
        does not wait.
        """
        # The function waiting for its own end would wait for ever.
        if threading.get_ident() in self._calling:
            self._work.request_cancel()
        else:
            self._work.cancel()
