"""The origin that runs on a data directory, as its Unix socket describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shardcast.control.client import connect, node_errors
from shardcast.errors import NoNode
from shardcast.json_text import parse_json
from shardcast.protocol.wire import RUNNING_PATH

_ANSWER_SECONDS = 10.0
"""Seconds for the answer, which an origin has at once."""
_MAX_ANSWER = 1 << 20
"""Bytes of an answer: options and variables of a process."""


@dataclass(frozen=True, slots=True)
class RunningOrigin:
    """An origin that runs.

    Attributes:
        url: where it listens.
        keep: number of versions that it keeps.
        parent: process whose end ends it; None for one that no program started.
        namespace: namespace in which that id counts.
        options: of its command, as the program gave them; None where only a person can start it again.
        variables: environment variables that set others of its options.
    """

    url: str
    keep: int
    parent: int | None = None
    namespace: str = ""
    options: tuple[str, ...] | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def port(self) -> int:
        """The TCP port that it listens on."""
        return int(self.url.rsplit(":", 1)[1])


def find_origin(data_dir: Path) -> RunningOrigin | None:
    """Return the origin that runs on a data directory.

    Returns:
        None where none runs, or one of an earlier shardcast, or a node of another role.

    Raises:
        NodeFailed: an origin runs there, and does not answer.
        LocalDiskError: the socket belongs to another user.
    """
    try:
        connection = connect(data_dir)
    except NoNode:
        return None
    try:
        with node_errors(f"the origin of {data_dir} does not say how it runs; does it end?"):
            connection.sock.settimeout(_ANSWER_SECONDS)
            connection.request("GET", RUNNING_PATH)
            response = connection.answer()
            if response.status != 200:
                return None
            return _parsed(parse_json(response.text(_MAX_ANSWER)))
    finally:
        connection.close()


def _parsed(values: Mapping[str, Any]) -> RunningOrigin:
    """Return the origin that an answer describes.

    Raises:
        ValueError, LookupError, TypeError: the answer makes no sense.
    """
    parent, options = values.get("parent"), values.get("options")
    return RunningOrigin(
        str(values["url"]),
        int(values["keep"]),
        None if parent is None else int(parent),
        str(values.get("namespace", "")),
        None if options is None else tuple(map(str, options)),
        {str(name): str(value) for name, value in dict(values.get("variables", {})).items()},
    )
