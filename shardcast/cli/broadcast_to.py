"""``shardcast broadcast --to``: send a file or stdin to an origin elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from shardcast.access.client_access import ClientAccess
from shardcast.cli.pipes import read_some
from shardcast.cli.progress import Display
from shardcast.cli.streams import input_descriptor
from shardcast.fair_limit import FairLimit
from shardcast.nodes.payload_sources import FileSource, StreamSource
from shardcast.nodes.remote_broadcast import RemoteProgress, broadcast_to
from shardcast.nodes.runtime import run
from shardcast.protocol.uploads import UploadRequest


def send_file(
    path: Path,
    server: str,
    shard_size: int | None,
    *,
    live: bool,
    access: ClientAccess,
    uploads: FairLimit | None,
    display: Display,
    answer: Callable[[str], None],
) -> None:
    """Send a file, and print the name of the version once it is complete.

    Args:
        path: the file.
        server: the URL of the origin.
        shard_size: bytes of a shard; None for the origin's own.
        live: whether the version opens at once and grows.
        access: what the origin is shown, and what is required of it.
        uploads: limit of the bytes that are sent; None for no limit.
        display: shows the progress.
        answer: prints the version.

    Raises:
        ShardcastError: as ``broadcast_to`` does.
    """
    with FileSource(path) as source:
        key = source.key(shard_size=shard_size, live=live)
        request = UploadRequest(source.name, source.size, shard_size, live=live, key=key)
        shown = _Shown(source.name, display)
        sending = broadcast_to(
            server,
            source,
            request,
            access=access,
            uploads=uploads,
            on_progress=shown.show,
            on_complete=answer,
        )
        run(sending)


def send_stdin(
    name: str,
    server: str,
    shard_size: int | None,
    *,
    live: bool,
    access: ClientAccess,
    uploads: FairLimit | None,
    display: Display,
    answer: Callable[[str], None],
) -> None:
    """Send stdin under a name, and print the name of the version once it is complete; see ``send_file``.

    Raises:
        ShardcastError: as ``broadcast_to`` does.
    """
    descriptor = input_descriptor()
    request = UploadRequest(name, None, shard_size, live=live)

    async def send() -> None:
        source = StreamSource(name, lambda max_bytes: read_some(descriptor, max_bytes))
        try:
            shown = _Shown(name, display)
            await broadcast_to(
                server,
                source,
                request,
                access=access,
                uploads=uploads,
                on_progress=shown.show,
                on_complete=answer,
            )
        finally:
            await source.close()

    run(send())


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
        self._display.show(what, progress.done, progress.size or 0, detail)
