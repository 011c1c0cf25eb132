"""The origin of a data directory, reached through its Unix socket: hand it a payload to broadcast.

Blocking, with nothing but the standard library, so that it serves from any thread, inside a running
event loop and after a fork.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from shardcast.constants import DISTRIBUTION_FILE
from shardcast.errors import LocalDiskError, NodeFailed, NoNode, ShardcastError, UsageError, from_wire
from shardcast.peer.heads import BoundedResponse, Connection
from shardcast.protocol.distribution import Withdrawal, is_version, parse
from shardcast.protocol.feed import check_reason
from shardcast.protocol.manifest import check_metadata
from shardcast.protocol.wire import CONFIRMED, PIN_PATH, PUBLISH_PATH, UNPIN_PATH, WITHDRAW_PATH
from shardcast.store.special_files import short_name, socket_path

_CONNECT_SECONDS = 5.0
_SILENCE_SECONDS = 60.0
"""The origin says how far it is several times a second."""


class ControlConnection(Connection):
    """HTTP over the data directory's Unix socket."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__("localhost", timeout=_SILENCE_SECONDS)
        self._data_dir = data_dir

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_CONNECT_SECONDS)
        try:
            with short_name(socket_path(self._data_dir)) as name:
                self.sock.connect(name)
        except BaseException:
            self.sock.close()
            raise
        self.sock.settimeout(_SILENCE_SECONDS)

    def begin(self, path: str, body: Mapping[str, Any]) -> None:
        """Send a request whose body stays open, with its first line."""
        self.putrequest("POST", path)
        self.putheader("Transfer-Encoding", "chunked")
        self.endheaders()
        self.send_line(body)

    def send_line(self, line: Mapping[str, Any]) -> None:
        """Send the next line of the body."""
        if self.sock is None:  # else it would connect anew, and end a request that it never began
            raise http.client.NotConnected
        data = json.dumps(line).encode() + b"\n"
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def confirm(self) -> None:
        """Say that this caller still waits, with the last line of the body. It then waits without bound."""
        if self.sock:
            self.sock.settimeout(None)
        self.send_line({"confirm": True})
        self.send(b"0\r\n\r\n")


def publish(
    data_dir: Path,
    path: Path,
    shard_size: int | None = None,
    *,
    metadata: Mapping[str, Any] | None = None,
    copy: bool = True,
) -> Iterator[Mapping[str, Any]]:
    """Hand a payload to the origin; yields what it says: ``{"version": …}`` first, then ``{"progress":
    {"done": …, "size": …}}``, at last ``{"complete": …}``. An error means that the version is not published,
    and will not be.

    Raises:
        NoNode: none runs there.
        NodeFailed: it ended meanwhile, or said nothing any more.
        UsageError: the metadata is no JSON object, or is too long.
        ShardcastError: publishing failed; of the type that it failed with there.
    """
    check_metadata(metadata or {})
    body = {"path": str(path.absolute()), "shard_size": shard_size, "metadata": metadata, "copy": copy}
    version = ""
    with closing(Asking(data_dir, PUBLISH_PATH, body)) as asking:
        try:
            with node_errors(f"the origin of {data_dir} went away while it published {path}"):
                for said in asking.lines():
                    version = str(said.get("version", version))
                    yield said
                    if "complete" in said:
                        return
            raise NodeFailed(f"the origin of {data_dir} ended while it published {path}")
        except NodeFailed:
            if not asking.confirmed or not is_published(data_dir, version):
                raise
    yield {"complete": version}


def change_pin(data_dir: Path, version: str, keep: bool) -> None:
    """Pin a version, or (``keep`` false) unpin it.

    Raises:
        NoNode: none runs there.
        NodeFailed: it ended meanwhile.
        VersionNotOffered: the version is not complete there, or not pinned.
        LocalDiskError: it could not be written down.
    """
    asking = Asking(data_dir, PIN_PATH if keep else UNPIN_PATH, {"version": version})
    with closing(asking), node_errors(f"the node of {data_dir} went away"):
        next(asking.lines())


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
    asking = Asking(data_dir, WITHDRAW_PATH, {"version": version, "reason": check_reason(reason)})
    gone = f"the origin of {data_dir} went away; is {version} still on its list?"
    try:
        with closing(asking), node_errors(gone):
            done = next(asking.lines())["done"]
            return Withdrawal(str(done["version"]), str(done["digest"]), str(done["reason"]))
    except NoNode as error:
        raise UsageError(
            f"{error}: only the origin of {version} withdraws it; name its data directory"
        ) from error


class Asking:
    """A request for a change, which the node makes only once this caller has confirmed that it still waits.

    Until it is confirmed, leaving means that nothing was done, and nothing will be. From then on the answer
    is waited for as long as the node has the connection open, however long that is: a caller that left then
    would not know what became of it.

    Attributes:
        confirmed: whether this caller has said that it waits.
    """

    def __init__(self, data_dir: Path, path: str, body: Mapping[str, Any]) -> None:
        """
        Raises:
            NoNode: none runs there.
            NodeFailed: it does not answer.
            LocalDiskError: it is somebody else's.
        """
        self.confirmed = False
        self._data_dir = data_dir
        self._path = path
        self._body = body
        self._connection = connect(data_dir)

    def lines(self) -> Iterator[Mapping[str, Any]]:
        """Yield the lines of the answer, and confirm the change where that is asked for.

        Raises:
            ShardcastError: the node refused, or reports what went wrong.
            OSError, http.client.HTTPException, ValueError: it went away.
        """
        self._connection.begin(CONFIRMED + self._path, self._body)
        response = self._connection.answer()
        if response.status == 404:  # a node of an earlier version, or of another role
            self._connection.close()
            self._connection = connect(self._data_dir)
            headers = {"Content-Type": "application/json"}
            self._connection.request("POST", self._path, json.dumps(self._body), headers)
            response = self._connection.answer()
        for said in read_lines(response, self._data_dir):
            if "ready" in said:
                self.confirmed = True
                self._connection.confirm()
            else:
                yield said

    def close(self) -> None:
        self._connection.close()


def is_published(data_dir: Path, version: str) -> bool:
    """Return whether the list of a data directory has a version, when its node has gone."""
    try:
        found = parse((data_dir / DISTRIBUTION_FILE).read_bytes())
    except (OSError, ValueError):
        return False
    return any(one.version == version for one in found.settled(found).listings)


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
        NodeFailed: it does not answer.
        LocalDiskError: it is somebody else's.
    """
    connection = ControlConnection(data_dir)
    try:
        connection.connect()
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
        raise NoNode(f"no origin runs on {data_dir}") from error
    except ShardcastError:
        raise
    except PermissionError as error:
        raise LocalDiskError(f"no permission to use the origin's socket in {data_dir}") from error
    except (TimeoutError, BlockingIOError) as error:
        raise NodeFailed(f"the node of {data_dir} does not answer; is it stopped?") from error
    return connection


def answers(connection: ControlConnection, data_dir: Path) -> Iterator[Mapping[str, Any]]:
    """The lines of an answer.

    Raises:
        ShardcastError: the origin refused, or said what went wrong.
        OSError, http.client.HTTPException, ValueError: it went away.
    """
    yield from read_lines(connection.answer(), data_dir)


def read_lines(response: BoundedResponse, data_dir: Path) -> Iterator[Mapping[str, Any]]:
    """The same of an answer that has begun."""
    if response.status != 200:
        if response.status == 404:
            raise NoNode(f"what runs on {data_dir} is no origin")
        raise NodeFailed(f"the origin of {data_dir} refused: {response.text(1000)}")
    for line in response.lines():
        said = json.loads(line)
        if "error" in said:
            raise from_wire(said["error"])
        yield said
