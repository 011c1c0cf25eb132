"""The progress of a backup on stderr, and the summary at the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from shardcast.sizes import format_rate, format_size

if TYPE_CHECKING:
    from shardcast.backup.client.saving import BackupProgress, BackupResult
    from shardcast.cli.progress import Display

_INTERVAL = 0.1
"""Seconds between two looks at the progress."""


@contextmanager
def shown_progress(display: Display, progress: BackupProgress) -> Iterator[None]:
    """Show the progress of a backup while the block runs."""
    ended = threading.Event()

    def show() -> None:
        while not ended.wait(_INTERVAL):
            done, detail = describe(progress)
            expected = progress.expected if progress.expected and progress.expected >= done else None
            display.show("backup", done, expected, detail)

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def describe(progress: BackupProgress) -> tuple[int, str]:
    """Return the bytes of the files so far, and a few words beside them."""
    counts, sent = progress.counts, progress.sender.sent_bytes if progress.sender else 0
    read = progress.reader.bytes if progress.reader else 0
    return max(
        counts.bytes, read
    ), f"{counts.files} files, {format_size(read)} read, {format_size(sent)} sent"


def summary(result: BackupResult) -> str:
    """Return the summary of a backup."""
    sums = result.sums
    parts = [
        f"{sums.files} files and {sums.folders} folders, {format_size(sums.bytes)}",
        f"{format_size(result.read_bytes)} read",
        f"{format_size(result.sent_bytes)} sent",
    ]
    if result.left_out:
        parts.append(f"{result.left_out} names left out")
    if result.sockets:
        parts.append(f"{result.sockets} sockets left out")
    if result.problems:
        parts.append(f"{result.problems} not saved whole")
    rate = format_rate(sums.bytes / max(result.seconds, 0.001))
    return f"saved {', '.join(parts)}, in {result.seconds:.1f} s ({rate})"
