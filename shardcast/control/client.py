"""Requests to the node of a data directory, through its Unix socket: publish, pin, withdraw.

Blocking, with the standard library only: usable from any thread, inside a running event loop and after a
fork.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from shardcast.constants import DISTRIBUTION_FILE
from shardcast.errors import (
    LocalDiskError,
    NodeFailed,
    NoNode,
    ShardcastError,
    UsageError,
    VersionAborted,
    from_wire,
)
from shardcast.json_text import parse_json
from shardcast.peer.bounded_answers import BoundedResponse, Connection
from shardcast.protocol.distribution import Withdrawal, is_version, parse
from shardcast.protocol.feed import check_reason
from shardcast.protocol.manifest import check_metadata
from shardcast.protocol.wire import CONFIRMED_PREFIX, PIN_PATH, PUBLISH_PATH, UNPIN_PATH, WITHDRAW_PATH
from shardcast.store.special_files import short_socket_path, socket_path

_CONNECT_SECONDS = 5.0
"""Seconds for the node to accept a connection."""
_SILENCE_SECONDS = 60.0
"""Seconds without a line after which the node counts as stuck; a node reports progress several times a
second."""


class ControlConnection(Connection):
    """HTTP over the data directory's Unix socket."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__("localhost", timeout=_SILENCE_SECONDS)
        self._data_dir = data_dir

    def connect(self) -> None:
        """Connect to the socket.

        Raises:
            OSError: no node listens, or the node does not accept.
        """
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_CONNECT_SECONDS)
        try:
            with short_socket_path(socket_path(self._data_dir)) as name:
                self.sock.connect(name)
        except BaseException:
            self.sock.close()
            raise
        self.sock.settimeout(_SILENCE_SECONDS)

    def start_request(self, path: str, body: Mapping[str, Any]) -> None:
        """Send a request with the first line of its body; the body stays open."""
        self.putrequest("POST", path)
        self.putheader("Transfer-Encoding", "chunked")
        self.endheaders()
        self.send_line(body)

    def send_line(self, line: Mapping[str, Any]) -> None:
        """Send the next line of the body.

        Raises:
            http.client.NotConnected: the connection was closed.
        """
        if self.sock is None:  # http.client would connect again, and end a request that it never began
            raise http.client.NotConnected
        data = json.dumps(line).encode() + b"\n"
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def confirm(self) -> None:
        """Send the last line of the body: this caller is still waiting.

        From then on the caller waits for the answer without bound.
        """
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
    exclude: Sequence[str] = (),
    mtimes: bool = True,
    checksum: bool = False,
    take_request: Callable[[ChangeRequest], object] = lambda _: None,
) -> Iterator[Mapping[str, Any]]:
    """Publish a payload through the origin, and yield the lines of the answer.

    ``{"version": …}`` comes first, then ``{"progress": {"done": …, "size": …}}`` repeatedly, at last
    ``{"complete": …}``. After an error the version is not published, and will not be. ``take_request`` gets
    the request; another thread may cancel the request.

    Raises:
        NoNode: no origin runs on the data directory.
        NodeFailed: the origin ended meanwhile, or fell silent.
        VersionAborted: the request was cancelled.
        UsageError: the metadata are no JSON object, or too long.
        ShardcastError: publishing failed; of the type reported by the origin.
    """
    check_metadata(metadata or {})
    body = {
        "path": str(path.absolute()),
        "shard_size": shard_size,
        "metadata": metadata,
        "copy": copy,
        "exclude": list(exclude),
        "mtimes": mtimes,
        "checksum": checksum,
    }
    version = ""
    with closing(ChangeRequest(data_dir, PUBLISH_PATH, body)) as asking:
        take_request(asking)
        try:
            with node_errors(f"the origin of {data_dir} went away while it published {path}"):
                for line in asking.lines():
                    version = str(line.get("version", version))
                    yield line
                    if "complete" in line:
                        return
            raise NodeFailed(f"the origin of {data_dir} ended while it published {path}")
        except NodeFailed as error:
            if asking.cancelled:
                raise VersionAborted(f"{version or path} was cancelled: nothing was published") from error
            if not asking.confirmed or not is_published(data_dir, version):
                raise
    yield {"complete": version}


def change_pin(data_dir: Path, version: str, pinned: bool) -> None:
    """Pin a version, or unpin it if ``pinned`` is false.

    Raises:
        NoNode: no node runs on the data directory.
        NodeFailed: the node ended meanwhile.
        VersionNotOffered: the version is not complete there, or not pinned.
        LocalDiskError: the pin cannot be written.
    """
    asking = ChangeRequest(data_dir, PIN_PATH if pinned else UNPIN_PATH, {"version": version})
    with closing(asking), node_errors(f"the node of {data_dir} went away"):
        next(asking.lines())


def withdraw(data_dir: Path, version: str, reason: str = "") -> Withdrawal:
    """Withdraw a version of the origin.

    Raises:
        NodeFailed: the origin ended meanwhile.
        UsageError: ``version`` is no version's name, ``reason`` does not fit, or no origin runs on the data
            directory.
        VersionNotOffered: the version is not there.
        LocalDiskError: the withdrawal can't be written down.
    """
    if not is_version(version):
        raise UsageError(f"{version!r} is not a version; write v1, v2, …")
    asking = ChangeRequest(data_dir, WITHDRAW_PATH, {"version": version, "reason": check_reason(reason)})
    gone = f"the origin of {data_dir} went away; is {version} still on its list?"
    try:
        with closing(asking), node_errors(gone):
            done = next(asking.lines())["done"]
            return Withdrawal(str(done["version"]), str(done["digest"]), str(done["reason"]))
    except NoNode as error:
        raise UsageError(
            f"{error}: only the origin of {version} can withdraw it; name the origin's data directory"
        ) from error


class ChangeRequest:
    """A request for a change, made by the node only after this caller's confirmation.

    Before the confirmation a caller may leave: nothing was done, and nothing will be. Afterwards the caller
    waits for as long as the node keeps the connection open; a caller that left then would not know the
    outcome.

    Attributes:
        confirmed: whether this caller has confirmed.
        cancelled: whether ``cancel`` was called before the confirmation.
    """

    def __init__(self, data_dir: Path, path: str, body: Mapping[str, Any]) -> None:
        """Connect to the node.

        Raises:
            NoNode: no node runs on the data directory.
            NodeFailed: the node does not answer.
            LocalDiskError: the socket belongs to another user.
        """
        self.confirmed = self.cancelled = False
        self._deciding = threading.Lock()  # of two threads: either the change is confirmed or cancelled
        self._data_dir = data_dir
        self._path = path
        self._body = body
        self._connection = connect(data_dir)

    def lines(self) -> Iterator[Mapping[str, Any]]:
        """Yield the lines of the answer, and confirm the change when the node asks.

        Raises:
            ShardcastError: the node refused, or reports a failure.
            OSError, http.client.HTTPException, ValueError: the node went away.
        """
        self._connection.start_request(CONFIRMED_PREFIX + self._path, self._body)
        response = self._connection.answer()
        if (
            response.status == 404
        ):  # a node of an earlier version, which asks for no confirmation, or of another role
            self._connection.close()
            self._connection = connect(self._data_dir)
            headers = {"Content-Type": "application/json"}
            self._connection.request("POST", self._path, json.dumps(self._body), headers)
            response = self._connection.answer()
        for line in response_lines(response, self._data_dir):
            if "ready" in line:
                self._decide_to_confirm()
                self._connection.confirm()
            else:
                yield line

    def _decide_to_confirm(self) -> None:
        """Set ``confirmed``; from now on ``cancel`` does nothing.

        Raises:
            NodeFailed: another thread has cancelled the change.
        """
        with self._deciding:
            if self.cancelled:
                raise NodeFailed("the request was cancelled")
            self.confirmed = True

    def cancel(self) -> None:
        """Break off the request from another thread, unless the change is confirmed already."""
        with self._deciding:
            if self.confirmed:
                return
            self.cancelled = True
        sock = self._connection.sock
        if sock:
            with contextlib.suppress(OSError):  # the origin has closed it
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; an unconfirmed change is not made."""
        self._connection.close()


def is_published(data_dir: Path, version: str) -> bool:
    """Return whether a data directory lists a version, after the end of its node; False without a list."""
    try:
        distribution = parse((data_dir / DISTRIBUTION_FILE).read_bytes())
    except (OSError, ValueError):
        return False
    listings = distribution.settle(distribution).listings
    return any(listing.version == version for listing in listings)


@contextmanager
def node_errors(message: str) -> Iterator[None]:
    """Turn a broken connection or a malformed answer into ``NodeFailed``.

    Raises:
        NodeFailed: with this message, and a note where the node merely fell silent.
        ShardcastError: reported by the node. ``LocalDiskError``, also an ``OSError``, passes too.
    """
    try:
        yield
    except ShardcastError:
        raise
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, StopIteration) as error:
        note = " (nothing came in time; it may hang)" if isinstance(error, TimeoutError) else ""
        raise NodeFailed(f"{message}{note}") from error


def connect(data_dir: Path) -> ControlConnection:
    """Return a connection to the node.

    Raises:
        NoNode: no node runs on the data directory.
        NodeFailed: the node does not answer.
        LocalDiskError: the socket belongs to another user.
    """
    connection = ControlConnection(data_dir)
    try:
        connection.connect()
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
        raise NoNode(f"no origin runs on {data_dir}") from error
    except ShardcastError:
        raise
    except PermissionError as error:
        raise LocalDiskError(
            f"no permission to use the socket in {data_dir}; run this as the user of its node"
        ) from error
    except (TimeoutError, BlockingIOError) as error:
        raise NodeFailed(f"the node of {data_dir} does not answer; is it stopped?") from error
    return connection


def request_lines(connection: ControlConnection, data_dir: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the lines of the answer to a sent request.

    Raises:
        ShardcastError: the node refused, or reports a failure. OSError, http.client.HTTPException,
            ValueError: the connection broke.
    """
    yield from response_lines(connection.answer(), data_dir)


def response_lines(response: BoundedResponse, data_dir: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the lines of an answer whose head has arrived.

    Raises:
        NoNode: the node knows no such request (404), as one of another role.
        ShardcastError: the node refused, or reports a failure.
        OSError, http.client.HTTPException, ValueError: the node went away.
    """
    if response.status != 200:
        if response.status == 404:
            raise NoNode(f"the node on {data_dir} is no origin")
        raise NodeFailed(f"the origin of {data_dir} refused: {response.text(1000)}")
    for raw in response.lines():
        line = parse_json(raw)
        if "error" in line:
            raise from_wire(line["error"])
        yield line
