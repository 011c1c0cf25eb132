"""Shardcast from Python: an origin or a middle beside the caller's process, and a client in it.

The names, parameters and positions of shardcast 0.1.0 work unchanged.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

from shardcast.addresses import server_urls
from shardcast.constants import CHECK_INTERVAL, HTTP_PORT, MAX_DISTRIBUTION_FOLDERS
from shardcast.errors import NoServerReachable, NotInitialized, ShardcastError, VersionNotOffered
from shardcast.nodes.client import Client
from shardcast.nodes.lifetime import run
from shardcast.nodes.process import NodeProcess
from shardcast.peer.control import publish
from shardcast.peer.writer import BroadcastWriter
from shardcast.sharding import check_payload

log = logging.getLogger("shardcast")

T = TypeVar("T")
StrPath = str | os.PathLike[str]
Metadata = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BroadcastProgress:
    """How far a broadcast has come.

    Attributes:
        done: bytes cut, hashed and stored.
        size: bytes of the payload; None while it waits for an earlier broadcast.
    """

    done: int
    size: int | None


class Broadcast:
    """A broadcast under way.

    Attributes:
        version: its name, ``v7``.
    """

    def __init__(self, said: Iterator[Mapping[str, Any]]) -> None:
        self.version = str(next(said)["version"])
        self._progress = BroadcastProgress(0, None)
        self._error: BaseException | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._listen, args=(said,), name="shardcast", daemon=True).start()

    @property
    def progress(self) -> BroadcastProgress:
        """How far it has come."""
        return self._progress

    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._ended.is_set()

    def result(self, timeout: float | None = None) -> str:
        """Wait until the version is complete and return its name.

        Raises:
            TimeoutError: it wasn't within ``timeout`` seconds; it goes on.
            ShardcastError: it failed.
        """
        if not self._ended.wait(timeout):
            raise TimeoutError(f"{self.version} is not complete after {timeout:g} s; it goes on")
        if self._error:
            raise self._error
        return self.version

    def _listen(self, said: Iterator[Mapping[str, Any]]) -> None:
        try:
            for line in said:
                if "progress" in line:
                    self._progress = BroadcastProgress(line["progress"]["done"], line["progress"]["size"])
        except BaseException as error:  # noqa: BLE001  it is raised where the result is asked for
            self._error = error
        finally:
            self._ended.set()


class OriginServer:
    """An origin in a child process, which ends with this one."""

    def __init__(
        self,
        data_dir: StrPath,
        port: int = HTTP_PORT,
        max_distribution_folders: int = MAX_DISTRIBUTION_FOLDERS,
    ) -> None:
        """Start it and wait until it listens; port 0 picks a free one.

        Raises:
            DataDirInUse: another process works on the data directory.
            LocalDiskError: it can't be used.
            NodeFailed: the port is taken, or the process could not start.
        """
        self.data_dir = str(Path(data_dir).absolute())
        options = ["--data-dir", self.data_dir, "--port", str(port), "--keep", str(max_distribution_folders)]
        self._process = NodeProcess("origin", options)
        self.port = int(self._process.url.rsplit(":", 1)[1])

    @property
    def url(self) -> str:
        """Where it listens."""
        return self._process.url

    @overload
    def broadcast(
        self,
        file_path: StrPath,
        shard_size: int | None = ...,
        wait: Literal[True] = ...,
        metadata: Metadata | None = ...,
        copy: bool = ...,
    ) -> str: ...
    @overload
    def broadcast(
        self,
        file_path: StrPath,
        shard_size: int | None = ...,
        *,
        wait: Literal[False],
        metadata: Metadata | None = ...,
        copy: bool = ...,
    ) -> Broadcast: ...
    def broadcast(
        self,
        file_path: StrPath,
        shard_size: int | None = None,
        wait: bool = True,
        metadata: Metadata | None = None,
        copy: bool = True,
    ) -> str | Broadcast:
        """Publish a file as the next version; see ``shardcast.broadcast``.

        Raises:
            PayloadMissing: there is no such file.
            LocalDiskError: it can't be read or stored.
            NodeFailed: the origin has ended.
        """
        path = Path(file_path).absolute()
        check_payload(path)
        handle = Broadcast(publish(Path(self.data_dir), path, shard_size, metadata, copy))
        return handle.result() if wait else handle

    def open_broadcast(
        self, name: str, shard_size: int | None = None, metadata: Metadata | None = None
    ) -> BroadcastWriter:
        """Publish what is written to it as the next version; see ``shardcast.open_broadcast``."""
        return BroadcastWriter(Path(self.data_dir), name, shard_size, metadata)

    def shutdown(self) -> None:
        """End the origin; what it published stays in the data directory."""
        self._process.stop()


class MiddleNode:
    """A middle in a child process, which ends with this one."""

    def __init__(
        self,
        upstream_servers: Sequence[str],
        data_dir: StrPath,
        port: int = HTTP_PORT,
        check_interval: float = CHECK_INTERVAL,
    ) -> None:
        """Start it and wait until it listens. Upstreams that don't tell it of versions by themselves (old
        ones) are asked every ``check_interval`` seconds.

        Raises:
            UsageError: one of the upstreams is not an address.
            DataDirInUse, LocalDiskError, NodeFailed: as for ``OriginServer``.
        """
        self.upstream_servers = server_urls(upstream_servers)
        self.data_dir = str(Path(data_dir).absolute())
        self.check_interval = check_interval
        options = ["--upstream", ",".join(self.upstream_servers), "--data-dir", self.data_dir]
        options += ["--port", str(port), "--check-interval", str(check_interval)]
        self._process = NodeProcess("middle", options)
        self.port = int(self._process.url.rsplit(":", 1)[1])

    @property
    def url(self) -> str:
        """Where it listens."""
        return self._process.url

    def shutdown(self) -> None:
        """End the middle; what it keeps stays in the data directory."""
        self._process.stop()


class ClientNode:
    """Downloads versions; the blocking form of ``Client``."""

    def __init__(self, servers: Sequence[str], output_dir: StrPath = "./downloads") -> None:
        """
        Raises:
            UsageError: one of the servers is not an address, or there is none.
        """
        self.servers = server_urls(servers)
        self.output_dir = str(Path(output_dir).absolute())

    def list_available_versions(self) -> dict[str, str]:
        """The versions on offer, oldest first, each with ``<digest>|<number of shards>``; empty while
        there is nothing, also while no server can be reached yet, which is logged."""

        async def read() -> dict[str, str]:
            async with Client(self.servers, self.output_dir) as client:
                return {one.version: one.value for one in await client.listings()}

        try:
            return _wait_for(read())
        except NoServerReachable as error:
            log.warning("%s", error)
            return {}

    def download_version(self, version: str, output_file: StrPath | None = None) -> str | None:
        """Download a version (``v3`` or ``latest``) and return the path of the verified file; None while
        no server offers it.

        Raises:
            ShardcastError: it is offered and could not be had; the type tells why.
        """

        async def download() -> str:
            async with Client(self.servers, self.output_dir) as client:
                output = None if output_file is None else os.fspath(output_file)
                return str((await client.download(version, output)).path)

        try:
            return _wait_for(download())
        except VersionNotOffered as error:
            log.info("%s", error)
            return None


def _wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a thread of its own, so that it also works inside a running event loop."""
    outcome: list[T] = []
    failure: list[BaseException] = []
    under_way: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

    async def body() -> T:
        task = asyncio.current_task()
        assert task
        under_way.append((asyncio.get_running_loop(), task))
        return await work

    def target() -> None:
        try:
            outcome.append(run(body()))
        except BaseException as error:  # noqa: BLE001  it is raised in the caller's thread
            failure.append(error)

    thread = threading.Thread(target=target, name="shardcast", daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:  # the caller was interrupted: end the work, keep what arrived
        for loop, task in under_way:
            loop.call_soon_threadsafe(task.cancel)
        thread.join()
        raise
    if failure:
        raise failure[0]
    return outcome[0]


# The one origin of this process. A forked child sees it, can broadcast through it, and never ends it.
_lock = threading.Lock()
_origin: OriginServer | None = None


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def initialize(
    data_dir: StrPath = "./data",
    port: int = HTTP_PORT,
    max_distribution_folders: int = MAX_DISTRIBUTION_FOLDERS,
) -> None:
    """Start an origin beside this process; a second call warns and changes nothing.

    Raises:
        DataDirInUse, LocalDiskError, NodeFailed: as for ``OriginServer``.
    """
    global _origin
    with _lock:
        if _origin is not None:
            log.warning("shardcast is already initialized with %s; nothing was changed", _origin.data_dir)
            return
        _origin = OriginServer(data_dir, port, max_distribution_folders)
        atexit.register(shutdown)


@overload
def broadcast(
    file_path: StrPath,
    shard_size: int | None = ...,
    wait: Literal[True] = ...,
    metadata: Metadata | None = ...,
    copy: bool = ...,
) -> str: ...
@overload
def broadcast(
    file_path: StrPath,
    shard_size: int | None = ...,
    *,
    wait: Literal[False],
    metadata: Metadata | None = ...,
    copy: bool = ...,
) -> Broadcast: ...
def broadcast(
    file_path: StrPath,
    shard_size: int | None = None,
    wait: bool = True,
    metadata: Metadata | None = None,
    copy: bool = True,
) -> str | Broadcast:
    """Publish a file as the next version, in shards of ``shard_size`` bytes (50 000 000).

    From any thread, inside a running event loop, and from a forked worker. Returns the version's name when
    it is complete, or at once, with ``wait=False``, a handle: ``.version``, ``.done()``,
    ``.result(timeout)``, ``.progress``. ``metadata``, a JSON object, goes with the version. Without
    ``copy`` the file itself is served, linked or cloned into the data directory: write no more to it; a
    file that changes all the same has its version retired.

    Raises:
        NotInitialized: ``initialize`` was not called.
        PayloadMissing: there is no such file.
        LocalDiskError: it can't be read or stored.
        NodeFailed: the origin has ended.
    """
    origin = _origin
    if origin is None:
        raise NotInitialized("call shardcast.initialize() before shardcast.broadcast()")
    if wait:
        return origin.broadcast(file_path, shard_size, metadata=metadata, copy=copy)
    return origin.broadcast(file_path, shard_size, wait=False, metadata=metadata, copy=copy)


def open_broadcast(
    name: str, shard_size: int | None = None, metadata: Metadata | None = None
) -> BroadcastWriter:
    """A file to write the next version to; ``name`` is what the version's file is called. Its shards go out
    as soon as they are full. Leaving the ``with`` block completes the version, an exception in it gives it
    up, everywhere::

        with shardcast.open_broadcast("step-1200.safetensors", metadata={"step": 1200}) as out:
            torch.save(model, out)

    Raises:
        NotInitialized: ``initialize`` was not called.
        NodeFailed: the origin has ended.
    """
    origin = _origin
    if origin is None:
        raise NotInitialized("call shardcast.initialize() before shardcast.open_broadcast()")
    return origin.open_broadcast(name, shard_size, metadata)


def shutdown() -> None:
    """End the origin that ``initialize`` started; also done when the interpreter exits."""
    global _origin
    with _lock:
        origin, _origin = _origin, None
        if origin is not None:
            atexit.unregister(shutdown)
            origin.shutdown()


__all__ = [
    "Broadcast",
    "BroadcastProgress",
    "ClientNode",
    "MiddleNode",
    "OriginServer",
    "ShardcastError",
    "broadcast",
    "initialize",
    "open_broadcast",
    "shutdown",
]
