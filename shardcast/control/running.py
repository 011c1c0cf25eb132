"""The origin running on a data directory, described through its Unix socket."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shardcast.constants import ENVIRONMENT_PREFIX
from shardcast.control.client import connect, node_errors
from shardcast.errors import NoNode
from shardcast.json_text import parse_json
from shardcast.protocol.wire import RUNNING_PATH
from shardcast.store.special_files import socket_path

_ANSWER_SECONDS = 10.0
"""Maximum seconds for the answer; an origin answers at once."""
_MAX_ANSWER = 1 << 20
"""Bytes of an answer: options and variables of a process."""
_PEER = struct.Struct("3i")
"""Process, user and group of the other end of a Unix socket (unix(7))."""


@dataclass(frozen=True, slots=True)
class RunningOrigin:
    """A running origin.

    Attributes:
        url: the origin's URL.
        keep: number of versions kept.
        parent: process whose end also ends the origin; None without one.
        namespace: process namespace of ``parent``.
        options: of the origin's command, as given by the program; None if only a person or another user can
            start the origin again.
        variables: environment variables ``SHARDCAST_…`` of other options.
    """

    url: str
    keep: int
    parent: int | None = None
    namespace: str = ""
    options: tuple[str, ...] | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def port(self) -> int:
        """The origin's TCP port."""
        return urlsplit(self.url).port or 0


def find_origin(data_dir: Path) -> RunningOrigin | None:
    """Return the origin running on a data directory.

    Returns:
        None without one, for an origin of an earlier shardcast, and for a node of another role.

    Raises:
        NodeFailed: an origin runs there, but does not answer.
        LocalDiskError: the socket belongs to another user.
    """
    try:
        connection = connect(data_dir)
    except NoNode:
        return None
    try:
        with node_errors(f"the origin of {data_dir} does not say how it runs; does it end?"):
            connection.sock.settimeout(_ANSWER_SECONDS)
            is_own = _is_own(connection.sock, data_dir)
            connection.request("GET", RUNNING_PATH)
            response = connection.answer()
            if response.status != 200:
                return None
            running = _parsed(parse_json(response.text(_MAX_ANSWER)))
            return running if is_own else replace(running, options=None, variables={})
    finally:
        connection.close()


def _is_own(sock: socket.socket, data_dir: Path) -> bool:
    """Return whether a program of this user listens at the other end.

    In a directory writable by others, another user's program could answer, with a command of its choice for
    this user to run.
    """
    if hasattr(socket, "SO_PEERCRED"):
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        owner: int = _PEER.unpack(credentials)[1]
    else:
        owner = socket_path(data_dir).lstat().st_uid
    return owner == os.geteuid()


def _parsed(values: Mapping[str, Any]) -> RunningOrigin:
    """Return the origin described by an answer.

    Raises:
        ValueError, LookupError, TypeError: the answer is malformed.
    """
    parent, options = values.get("parent"), values.get("options")
    told = {str(name): str(value) for name, value in dict(values.get("variables", {})).items()}
    variables = {name: value for name, value in told.items() if name.startswith(ENVIRONMENT_PREFIX)}
    words = None if options is None else tuple(map(str, options))
    if any("\0" in text for pair in variables.items() for text in pair) or "\0" in "".join(words or ()):
        raise ValueError("NUL in a command")  # where it would begin a further variable
    url = str(values["url"])
    if not urlsplit(url).port:
        raise ValueError(f"{url!r} has no port")
    return RunningOrigin(
        url,
        int(values["keep"]),
        None if parent is None else int(parent),
        str(values.get("namespace", "")),
        words,
        variables,
    )
