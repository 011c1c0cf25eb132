"""The origin of a data directory, reached through its Unix socket: hand it a payload to broadcast.

Blocking, with nothing but the standard library, so that it serves from any thread, inside a running
event loop and after a fork.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shardcast.distribution import Withdrawal, is_version
from shardcast.errors import LocalDiskError, NodeFailed, NoNode, ShardcastError, UsageError, from_wire
from shardcast.feed import check_reason
from shardcast.manifest import check_metadata
from shardcast.store.data_dir import socket_name
from shardcast.wire import PIN_PATH, PUBLISH_PATH, UNPIN_PATH, WITHDRAW_PATH

_CONNECT_SECONDS = 5.0
_SILENCE_SECONDS = 60.0
"""The origin says how far it is several times a second."""


class ControlConnection(http.client.HTTPConnection):
    """HTTP over the data directory's Unix socket."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__("localhost", timeout=_SILENCE_SECONDS)
        self._data_dir = data_dir

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_CONNECT_SECONDS)
        try:
            with socket_name(self._data_dir) as name:
                self.sock.connect(name)
        except BaseException:
            self.sock.close()
            raise
        self.sock.settimeout(_SILENCE_SECONDS)


def publish(
    data_dir: Path,
    path: Path,
    shard_size: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    copy: bool = True,
) -> Iterator[Mapping[str, Any]]:
    """Hand a payload to the origin; yields what it says: ``{"version": …}`` first, then ``{"progress":
    {"done": …, "size": …}}``, at last ``{"complete": …}``.

    Raises:
        NoNode: none runs there.
        NodeFailed: it ended meanwhile, or said nothing any more.
        UsageError: the metadata is no JSON object, or is too long.
        ShardcastError: publishing failed; of the type that it failed with there.
    """
    check_metadata(metadata or {})
    connection = connect(data_dir)
    body = {"path": str(path.absolute()), "shard_size": shard_size, "metadata": metadata, "copy": copy}
    try:
        with node_errors(f"the origin of {data_dir} went away while it published {path}"):
            connection.request("POST", PUBLISH_PATH, json.dumps(body), {"Content-Type": "application/json"})
            for said in answers(connection, data_dir):
                yield said
                if "complete" in said:
                    return
        raise NodeFailed(f"the origin of {data_dir} ended while it published {path}")
    finally:
        connection.close()


def change_pin(data_dir: Path, version: str, keep: bool) -> None:
    """Pin a version, or (``keep`` false) unpin it.

    Raises:
        NoNode: none runs there.
        NodeFailed: it ended meanwhile.
        VersionNotOffered: the version is not complete there, or not pinned.
        LocalDiskError: it could not be written down.
    """
    connection = connect(data_dir)
    try:
        with node_errors(f"the node of {data_dir} went away"):
            body = json.dumps({"version": version})
            connection.request(
                "POST", PIN_PATH if keep else UNPIN_PATH, body, {"Content-Type": "application/json"}
            )
            for _ in answers(connection, data_dir):
                return
    finally:
        connection.close()


def withdraw(data_dir: Path, version: str, reason: str = "") -> Withdrawal:
    """Take a version of the origin back.

    Raises:
        NoNode: none runs there.
        NodeFailed: the origin ended meanwhile.
        UsageError: ``version`` is no version's name, ``reason`` does not fit, or no origin runs there.
        VersionNotOffered: the version is not there.
        LocalDiskError: the withdrawal could not be written down.
    """
    if not is_version(version):
        raise UsageError(f"{version!r} is not a version; write v1, v2, …")
    body = json.dumps({"version": version, "reason": check_reason(reason)})
    connection = connect(data_dir)
    try:
        with node_errors(f"the origin of {data_dir} went away; is {version} still on its list?"):
            connection.request("POST", WITHDRAW_PATH, body, {"Content-Type": "application/json"})
            done = next(answers(connection, data_dir))["done"]
            return Withdrawal(str(done["version"]), str(done["digest"]), str(done["reason"]))
    except NoNode as error:
        raise UsageError(
            f"{error}: only the origin of {version} withdraws it; name its data directory"
        ) from error
    finally:
        connection.close()


@contextmanager
def node_errors(message: str) -> Iterator[None]:
    """Turn a connection that breaks, or an answer that makes no sense, into ``NodeFailed``.

    Raises:
        NodeFailed: with this message.
        ShardcastError: the node reported it. ``LocalDiskError``, which is an ``OSError``, passes too.
    """
    try:
        yield
    except ShardcastError:
        raise
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, StopIteration) as error:
        raise NodeFailed(message) from error


def connect(data_dir: Path) -> ControlConnection:
    """A connection to the origin.

    Raises:
        NoNode: none runs there.
        LocalDiskError: it is somebody else's.
    """
    connection = ControlConnection(data_dir)
    try:
        connection.connect()
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
        raise NoNode(f"no origin runs on {data_dir}") from error
    except PermissionError as error:
        raise LocalDiskError(f"no permission to use the origin's socket in {data_dir}") from error
    return connection


def answers(connection: ControlConnection, data_dir: Path) -> Iterator[Mapping[str, Any]]:
    """The lines of an answer.

    Raises:
        ShardcastError: the origin refused, or said what went wrong.
        OSError, http.client.HTTPException, ValueError: it went away.
    """
    response = connection.getresponse()
    if response.status != 200:
        if response.status == 404:
            raise NoNode(f"what runs on {data_dir} is no origin")
        text = response.read(1000).decode(errors="replace").strip()
        raise NodeFailed(f"the origin of {data_dir} refused: {text}")
    for line in response:
        said = json.loads(line)
        if "error" in said:
            raise from_wire(said["error"])
        yield said
