"""Drivers of a cluster's nodes: their common operations, and the state of a node."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from shardcast.cli.cluster.network import ClusterNode
from shardcast.errors import ShardcastError

End = Literal["stop", "kill", "clear"]  # SIGTERM · SIGKILL · remove what an ended node leaves


class NodeError(ShardcastError):
    """A node could not be reached, started or stopped."""


@dataclass(frozen=True)
class NodeState:
    """Whether a node runs, has ended, or is absent: never started, or cleared after its end."""

    kind: Literal["running", "ended", "absent"]
    code: int | None = None  # the exit code of one that ended, where it is known

    def __str__(self) -> str:
        ended = "was killed" if self.code is None else f"ended with exit code {self.code}"
        return {"running": "running", "ended": ended, "absent": "not running"}[self.kind]

    def is_up(self, node: ClusterNode) -> bool:
        """Return whether a server runs, or a client runs or has succeeded."""
        return self.kind == "running" or (node.role == "client" and self.code == 0)


class NodeDriver(Protocol):
    """Ways to look at nodes, to start and to end them.

    Each method except ``preview`` raises ``NodeError`` if the node can't be reached or the act fails.
    """

    def state(self, node: ClusterNode) -> NodeState:
        """Return a node's state."""

    def launch(self, node: ClusterNode, words: Sequence[str]) -> None:
        """Start a node with a command."""

    def log(self, node: ClusterNode, lines: int) -> list[str]:
        """Return the last lines of a node's log."""

    def end(self, node: ClusterNode, how: End) -> None:
        """Send SIGTERM (``stop``) or SIGKILL (``kill``); ``clear``: remove the leftovers of an ended node."""

    def preview(self, act: str, node: ClusterNode, words: Sequence[str], lines: int) -> str:
        """Return the command behind ``start``, ``status``, ``logs`` or ``stop``."""


def last_line(lines: Iterable[str]) -> str:
    """Return the last non-empty line."""
    return next((line.strip() for line in reversed([*lines]) if line.strip()), "")
