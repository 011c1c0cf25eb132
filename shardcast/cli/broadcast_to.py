"""``shardcast broadcast --to``: send a file or stdin to an origin elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shardcast.access.client_access import ClientAccess
from shardcast.cli.pipes import read_some
from shardcast.cli.progress import Display
from shardcast.cli.streams import input_descriptor
from shardcast.fair_limit import FairLimit
from shardcast.nodes.folder_source import announcement, open_source
from shardcast.nodes.payload_sources import PayloadSource, StreamSource
from shardcast.nodes.remote_broadcast import RemoteProgress, broadcast_to
from shardcast.nodes.runtime import run
from shardcast.protocol.uploads import UploadRequest


@dataclass(frozen=True)
class RemoteOrigin:
    """An origin elsewhere, and settings for sending a payload.

    Attributes:
        url: URL of the origin.
        shard_size: bytes of a shard; None for the origin's own.
        live: whether the version opens at once and grows.
        access: tokens shown to the origin, and TLS required of the origin.
        uploads: limit of sent bytes; None for no limit.
        metadata: JSON object of the version.
    """

    url: str
    shard_size: int | None
    live: bool
    access: ClientAccess
    uploads: FairLimit | None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SentPath:
    """A file or a folder to send.

    Attributes:
        path: the file or folder.
        exclude: patterns of the paths to leave out of a folder.
        mtimes: whether times of a folder's files are published.
    """

    path: Path
    exclude: tuple[str, ...] = ()
    mtimes: bool = True


def send_path(
    payload: SentPath, origin: RemoteOrigin, display: Display, answer: Callable[[str], None]
) -> None:
    """Send a file or a folder, show the progress, and ``answer`` the name of the complete version.

    Raises:
        ShardcastError: as for ``broadcast_to``.
    """
    shard_size = origin.shard_size
    with open_source(
        payload.path, exclude=payload.exclude, mtimes=payload.mtimes, shard_size=shard_size
    ) as source:
        request = announcement(source, shard_size, dict(origin.metadata), live=origin.live)
        run(_send(source, request, origin, display, answer))


def send_stdin(name: str, origin: RemoteOrigin, display: Display, answer: Callable[[str], None]) -> None:
    """Send stdin under a name; see ``send_path``.

    Raises:
        ShardcastError: as ``broadcast_to`` does.
    """
    descriptor = input_descriptor()
    request = UploadRequest(name, None, origin.shard_size, dict(origin.metadata), origin.live)

    async def send() -> None:
        source = StreamSource(name, lambda max_bytes: read_some(descriptor, max_bytes))
        try:
            await _send(source, request, origin, display, answer)
        finally:
            await source.close()

    run(send())


async def _send(
    source: PayloadSource,
    request: UploadRequest,
    origin: RemoteOrigin,
    display: Display,
    answer: Callable[[str], None],
) -> None:
    """Send a payload to an origin."""
    await broadcast_to(
        origin.url,
        source,
        request,
        access=origin.access,
        uploads=origin.uploads,
        on_progress=_Shown(request.name, display).show,
        on_complete=answer,
    )


class _Shown:
    """The progress of a payload, on a display."""

    def __init__(self, name: str, display: Display) -> None:
        self._name = name
        self._display = display

    def show(self, progress: RemoteProgress) -> None:
        """Show the progress."""
        what = f"{progress.version} {self._name}" if progress.version else self._name
        detail = "published by the origin" if progress.cut else "sent"
        if progress.waits:
            detail = "waiting for an earlier broadcast"
        self._display.show(what, progress.done, progress.size, detail)
