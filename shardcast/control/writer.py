"""A version written like a file: its shards go out while the rest is still being made."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from shardcast.control.client import answers, connect, is_published, node_errors
from shardcast.control.pipe import PATIENCE, PORTION, PipeWriter
from shardcast.errors import NodeFailed, TransferFailed
from shardcast.protocol.manifest import check_metadata
from shardcast.protocol.wire import STREAM_PATH


class BroadcastWriter(io.RawIOBase):
    """Bytes on their way to the origin of a data directory. Leaving the block completes the version, an
    exception in it gives it up, everywhere::

        with shardcast.open_broadcast("step-1200.safetensors") as out:
            torch.save(model, out)

    For ``async with`` there is ``write_async``. One thread at a time writes.

    Attributes:
        version: the version's name, ``v7``.
    """

    def __init__(
        self,
        data_dir: Path,
        name: str,
        shard_size: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Raises:
            NoNode: none runs on the data directory.
            NodeFailed: it went away.
            UsageError: the shard size or the metadata is no good.
        """
        super().__init__()
        self._ended = True  # until it has begun
        self._complete = False
        self._confirmed = False
        check_metadata(metadata or {})
        self._data_dir = data_dir
        self._gathered = bytearray()
        self._written = 0
        self._pipe: PipeWriter | None = None
        self.version = "the version"
        self._connection = connect(data_dir)
        said = {"name": name, "shard_size": shard_size, "metadata": metadata, "confirm": True}
        with self._told():
            self._connection.begin(STREAM_PATH, said)
            self._said: Iterator[Mapping[str, Any]] = answers(self._connection, data_dir)
            begun = next(self._said)
            self.version = str(begun["version"])
            self._pipe = PipeWriter(str(begun["pipe"]), self.version, data_dir)
            self._connection.sock.settimeout(PATIENCE)
        self._ended = False

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        """Bytes written so far."""
        return self._written

    def write(self, data: Any, /) -> int:
        """Hand over the next bytes; waits while the origin is slower.

        Raises:
            ShardcastError: publishing failed, and why.
            ValueError: it was completed or given up.
        """
        if self._ended:
            raise ValueError(f"{self.version} takes no more bytes: it was completed or given up")
        view = memoryview(data).cast("B")
        self._written += len(view)
        if len(self._gathered) + len(view) < PORTION:
            self._gathered += view
        else:
            self.flush()
            self._hand_over(view)
        return len(view)

    async def write_async(self, data: Any) -> int:
        """``write``, without keeping the event loop waiting."""
        return await asyncio.to_thread(self.write, data)

    def flush(self) -> None:
        """Hand over what was gathered."""
        if self._gathered and not self._ended:
            gathered, self._gathered = self._gathered, bytearray()
            self._hand_over(gathered)

    def complete(self) -> str:
        """That was all: wait until the version is complete; returns its name.

        Raises:
            ShardcastError: publishing failed, and why.
        """
        if self._ended and not self._complete:
            raise TransferFailed(f"{self.version} was given up, and can't be completed")
        if not self._ended:
            self.flush()
            self._ended = True
            try:
                with self._told():
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
        for said in self._said:
            if "ready" in said:
                self._confirmed = True
                self._connection.confirm()
            if "complete" in said:
                return
        raise NodeFailed(f"the origin of {self._data_dir} ended while it published {self.version}")

    def abort(self) -> None:
        """Give the version up."""
        self._ended = True
        self._connection.close()
        if self._pipe:
            self._pipe.abort()

    def close(self) -> None:
        """Without ``complete`` before it, this gives the version up."""
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
        with self._told():
            assert self._pipe
            try:
                self._pipe.write(data)
            except BrokenPipeError:
                for _ in self._said:  # it says why it takes no more
                    pass
                raise

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            with node_errors(f"the origin of {self._data_dir} went away while it published {self.version}"):
                yield
        except BaseException:
            self.abort()
            raise
