"""Nodes as processes of this machine, each with a record, a log and data in a folder."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from shardcast.cli.cluster.drivers import End, NodeError, NodeState
from shardcast.cli.cluster.network import ROLES, ClusterNode
from shardcast.json_text import parse_json

# sh outlives the node to record the exit code: a signal to the group ends the node, and sh waits for the end.
WRAPPER = 'trap : TERM INT HUP; "$@"; echo $? >"$0"'


@dataclass(frozen=True)
class NodeRecord:
    """Record of a local node; ``began`` tells the process from a later one with the same pid."""

    port: int
    pid: int = 0
    began: str = ""


def beginning(pid: int) -> str | None:
    """Return when the process ``pid`` began, as exactly as the system says; None when none runs."""
    if Path("/proc/self/stat").exists():
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if state in ("Z", "X") else f"{boot} {fields[18]}"
    shown = subprocess.run(
        ["ps", "-o", "stat=", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    state, _, began = shown.stdout.strip().partition(" ")
    return None if not began or state.startswith("Z") else began.strip()


class LocalDriver:
    """Nodes as processes of this machine, each with record, log and data in a folder of ``state_dir``."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir.absolute()

    def folder(self, node: ClusterNode) -> Path:
        """Return a node's folder."""
        return self.state_dir / node.name

    def place(self, nodes: Sequence[ClusterNode], base_port: int | None) -> list[ClusterNode]:
        """Return the nodes on 127.0.0.1: servers with their recorded ports or new ones, clients with 0."""
        ports = [self.record(node).port for node in nodes]
        candidates = itertools.count(base_port) if base_port else free_ports()
        fresh = (port for port in candidates if port not in ports)
        return [
            replace(
                node,
                target="",
                address="127.0.0.1",
                port=port or (0 if node.role == "client" else next(fresh)),
                data_dir=str(self.folder(node) / "data"),
            )
            for node, port in zip(nodes, ports, strict=True)
        ]

    def started(self) -> list[ClusterNode]:
        """Return all nodes ever started here, in the order of their roles."""
        names = [path.parent.name.partition("-") for path in self.state_dir.glob("*-*/node.json")]
        known = sorted((ROLES.index(r), int(n)) for r, _, n in names if r in ROLES and n.isdecimal())
        return [ClusterNode(ROLES[role], "", "", number=number) for role, number in known]

    def record(self, node: ClusterNode) -> NodeRecord:
        """Return a node's record; one with port and pid 0 for a node never started.

        Raises:
            NodeError: the record is damaged.
        """
        path = self.folder(node) / "node.json"
        try:
            record = NodeRecord(**parse_json(path.read_bytes()))
            if [type(value) for value in asdict(record).values()] != [int, int, str]:
                raise TypeError
        except FileNotFoundError:
            return NodeRecord(0)
        except (ValueError, TypeError):
            raise NodeError(f"{path} is damaged; end the process it names, if any, and remove it") from None
        return record

    def write(self, node: ClusterNode, record: NodeRecord) -> None:
        """Write a node's record."""
        path = self.folder(node) / "node.json"
        path.with_suffix(".new").write_text(json.dumps(asdict(record)))
        path.with_suffix(".new").replace(path)

    def state(self, node: ClusterNode) -> NodeState:
        """Return a node's state."""
        record = self.record(node)
        if not record.pid:
            return NodeState("absent")
        if beginning(record.pid) == record.began:
            return NodeState("running")
        try:
            return NodeState("ended", int((self.folder(node) / "exit").read_text()))
        except (OSError, ValueError):
            return NodeState("ended")

    def launch(self, node: ClusterNode, words: Sequence[str]) -> None:
        """Start a node with a command."""
        if shutil.which(words[0]) is None:
            raise NodeError(f"{words[0]}: not found; install shardcast, or say where it is with --bin-dir")
        folder = self.folder(node)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "exit").unlink(missing_ok=True)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                ["sh", "-c", WRAPPER, str(folder / "exit"), *words],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        # A process already ended has no beginning; "" never equals a process's.
        self.write(node, NodeRecord(node.port, process.pid, beginning(process.pid) or ""))

    def log(self, node: ClusterNode, lines: int) -> list[str]:
        """Return the last lines of a node's log."""
        try:
            with (self.folder(node) / "log").open(encoding="utf-8", errors="replace") as log:
                return [line.rstrip("\n") for line in deque(log, maxlen=lines)]
        except FileNotFoundError:
            raise NodeError(f"no log in {self.folder(node)}: it was never started") from None

    def end(self, node: ClusterNode, how: End) -> None:
        """End a node, or remove the leftovers of an ended one."""
        record = self.record(node)
        if how == "clear":
            self.write(node, NodeRecord(record.port))
        elif self.state(node).kind == "running":  # asked again, so that nobody else's process is ended
            with contextlib.suppress(ProcessLookupError):
                os.killpg(record.pid, signal.SIGKILL if how == "kill" else signal.SIGTERM)

    def preview(self, act: str, node: ClusterNode, words: Sequence[str], lines: int) -> str:
        """Return the command of an act, for people."""
        pid, log = self.record(node).pid, self.folder(node) / "log"
        return {
            "start": f"{shlex.join(words)} >{shlex.quote(str(log))} 2>&1 &",
            "status": f"ps -p {pid}" if pid else f"# {node.name} was not started",
            "stop": f"kill -TERM -- -{pid}" if pid else f"# {node.name} was not started",
            "logs": shlex.join(["tail", "-n", str(lines), str(log)]),
        }[act]


def free_ports() -> Iterable[int]:
    """Yield free ports of 127.0.0.1, each another one."""
    with contextlib.ExitStack() as held:
        while True:
            bound = held.enter_context(socket.socket())
            bound.bind(("127.0.0.1", 0))
            yield bound.getsockname()[1]
