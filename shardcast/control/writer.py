"""A version written like a file: its shards are sent while the program makes the rest."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from shardcast.control.client import connect, is_published, node_errors, request_lines
from shardcast.control.pipe import PATIENCE, PORTION, PipeWriter
from shardcast.errors import NodeFailed, TransferFailed
from shardcast.protocol.manifest import check_metadata
from shardcast.protocol.wire import STREAM_PATH

_CLOSED = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOENT, errno.ENXIO})
"""Errors of the pipe and of the connection after the origin has closed its ends."""


class BroadcastWriter(io.RawIOBase):
    """A file whose bytes are published as a version of an origin.

    Leaving the block completes the version; an exception in the block aborts the version, on every node::

        with shardcast.open_broadcast("step-1200.pt") as out:
            torch.save(model, out)

    For ``async with`` there is ``write_async``. One thread at a time writes.

    Attributes:
        version: the version's name, ``v7``.
        shard_size: bytes of a shard; None if unknown.
    """

    def __init__(
        self,
        data_dir: Path,
        name: str,
        shard_size: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        as_folder: bool = False,
    ) -> None:
        """Open a version at the origin of a data directory.

        Args:
            data_dir: the data directory.
            name: the payload's name.
            shard_size: bytes of a shard; None for the origin's own.
            metadata: JSON object for the version.
            as_folder: whether files of a folder are written, one by one.

        Raises:
            NoNode: no origin runs on the data directory.
            NodeFailed: the origin went away, or is an earlier one without such folders.
            UsageError: the shard size or the metadata make no sense.
        """
        super().__init__()
        self._ended = True  # until the origin has opened the version
        self._complete = False
        self._confirmed = False
        check_metadata(metadata or {})
        self._data_dir = data_dir
        self._gathered = bytearray()
        self._written = 0
        self._pipe: PipeWriter | None = None
        self._lines: Iterator[Mapping[str, Any]] = iter(())
        self.version = "the version"
        self.shard_size: int | None = None
        self._connection = connect(data_dir)
        request = {"name": name, "shard_size": shard_size, "metadata": metadata, "confirm": True}
        if as_folder:
            request["folder"] = True
        with self._abort_on_error():
            self._connection.start_request(STREAM_PATH, request)
            self._lines = request_lines(self._connection, data_dir)
            opened = next(self._lines)
            self.version = str(opened["version"])
            if as_folder and opened.get("folder") is not True:
                raise NodeFailed(
                    f"the origin of {data_dir} is one of an earlier shardcast, which takes no folders file "
                    "by file; start it again with this one, or broadcast the folder whole"
                )
            size = opened.get("shard_size")
            self.shard_size = size if type(size) is int and size > 0 else None
            self._pipe = PipeWriter(str(opened["pipe"]), self.version, data_dir)
            self._connection.sock.settimeout(PATIENCE)
        self._ended = False

    def writable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the bytes written so far."""
        return self._written

    def write(self, data: Any, /) -> int:
        """Publish the next bytes; waits while the origin is slower.

        Raises:
            ShardcastError: publishing failed, and why.
            ValueError: the version was completed or aborted.
        """
        if self._ended:
            raise ValueError(f"{self.version} takes no more bytes: the version is complete or was aborted")
        view = memoryview(data).cast("B")
        self._written += len(view)
        if len(self._gathered) + len(view) < PORTION:
            self._gathered += view
        else:
            self.flush()
            self._hand_over(view)
        return len(view)

    async def write_async(self, data: Any) -> int:
        """Like ``write``, in a thread, without blocking the event loop."""
        return await asyncio.to_thread(self.write, data)

    def flush(self) -> None:
        """Send the buffered bytes.

        Raises:
            ShardcastError: publishing failed, and why.
        """
        if self._gathered and not self._ended:
            gathered, self._gathered = self._gathered, bytearray()
            self._hand_over(gathered)

    def complete(self) -> str:
        """Wait until the version is complete, after all bytes are written, and return the version's name.

        Raises:
            ShardcastError: publishing failed, with the reason.
        """
        if self._ended and not self._complete:
            raise TransferFailed(f"{self.version} was aborted, and cannot be completed")
        if not self._ended:
            self.flush()
            self._ended = True
            try:
                with self._abort_on_error():
                    assert self._pipe
                    self._pipe.close()
                    self._connection.send_line({"end": self._written})
                    self._wait_until_complete()
            except NodeFailed:
                if not self._confirmed or not is_published(self._data_dir, self.version):
                    raise
            self._complete = True
            self._connection.close()
        return self.version

    def _wait_until_complete(self) -> None:
        """Read the answer to its end, and confirm when the origin asks.

        Raises:
            NodeFailed: the origin ended.
        """
        for line in self._lines:
            if "ready" in line:
                self._confirmed = True
                self._connection.confirm()
            if "complete" in line:
                return
        raise NodeFailed(f"the origin of {self._data_dir} ended while it published {self.version}")

    def abort(self) -> None:
        """Abort the version."""
        self._ended = True
        self._connection.close()
        if self._pipe:
            self._pipe.abort()

    def close(self) -> None:
        """Close the file; abort an incomplete version."""
        if not self._ended:
            self.abort()
        super().close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.complete()
        finally:
            self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.__exit__, kind, error, trace)

    def _hand_over(self, data: bytearray | memoryview) -> None:
        """Write bytes to the pipe.

        Raises:
            ShardcastError: publishing failed, and why.
        """
        with self._abort_on_error():
            assert self._pipe
            self._pipe.write(data)

    @contextlib.contextmanager
    def _abort_on_error(self) -> Iterator[None]:
        """Abort if the block raises, and turn errors of an ended node into ``NodeFailed``."""
        try:
            with node_errors(f"the origin of {self._data_dir} went away while it published {self.version}"):
                try:
                    yield
                except OSError as error:
                    if error.errno in _CLOSED:
                        for _ in self._lines:  # raises the error for which the origin closed its end
                            pass
                    raise
        except BaseException:
            self.abort()
            raise
