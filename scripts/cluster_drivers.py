"""Drivers of nodes: ssh with tmux or systemd, or processes of this machine."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from cluster_network import ROLES, Node

SSH = ("ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "--")
SSH_SECONDS = 60.0
End = Literal["stop", "kill", "clear"]  # SIGTERM · SIGKILL · remove what an ended node leaves


class NodeError(Exception):
    """A node could not be reached, started or stopped."""


@dataclass(frozen=True)
class State:
    """State of a node."""

    kind: Literal["running", "ended", "absent"]
    code: int | None = None  # the exit code of one that ended, where it is known

    def __str__(self) -> str:
        ended = "was killed" if self.code is None else f"ended with exit code {self.code}"
        return {"running": "running", "ended": ended, "absent": "not running"}[self.kind]

    def is_up(self, node: Node) -> bool:
        """Return whether a server runs, or a client runs or has done its work."""
        return self.kind == "running" or (node.role == "client" and self.code == 0)


class Driver(Protocol):
    """Ways to look at nodes, to start and to end them."""

    def state(self, node: Node) -> State:
        """Return a node's state."""

    def launch(self, node: Node, words: Sequence[str]) -> None:
        """Start a node with a command."""

    def log(self, node: Node, lines: int) -> list[str]:
        """Return the last lines of a node's log."""

    def end(self, node: Node, how: End) -> None:
        """End a node, or remove what an ended one left."""

    def preview(self, act: str, node: Node, words: Sequence[str], lines: int) -> str:
        """Return the command behind ``start``, ``status``, ``logs`` or ``stop``."""


def last_line(lines: Iterable[str]) -> str:
    """Return the last line that is not empty."""
    return next((line.strip() for line in reversed([*lines]) if line.strip()), "")


# ── Over ssh ──────────────────────────────────────────────────────────────────────────────────────

# The pane stays when the node has ended, with its log, and its exit code in a variable of the session.
# (tmux would keep a dead pane itself, but can miss both what is written last and the exit code.)
IN_PANE = """sh -c 'trap : TERM INT; "$0" "$@"; tmux set-option @exit $?; exec cat >/dev/null'"""
OWN = "tmux -u -L shardcast"  # a server of our own, whatever else runs in tmux there
TMUX = {
    "start": "{find} && " + OWN + r" -f /dev/null start-server \; set-option -g history-limit 10000 \; "
    "new-session -d -x 250 -s {unit} " + IN_PANE + " {run}",
    "status": OWN + " list-panes -t ={unit}: -F 'exit=#{{@exit}}'",
    "logs": OWN + " capture-pane -p -J -S -{lines} -t ={unit}:",
    "stop": OWN + " run-shell -b -t ={unit}: 'kill -s TERM -- -#{{pane_pid}}'",
    "kill": OWN + " run-shell -b -t ={unit}: 'kill -s KILL -- -#{{pane_pid}}'",
    "clear": OWN + " kill-session -t ={unit}",
}
BUS = 'export XDG_RUNTIME_DIR="${{XDG_RUNTIME_DIR:-/run/user/$(id -u)}}" && '  # not every login sets it
SYSTEMD = {  # a client that ended well stays as an active unit, so that it is known to have
    "start": BUS
    + "{find} && systemd-run --user --quiet --collect -p RemainAfterExit=yes --unit {unit} {run}",
    "status": BUS + "systemctl --user show -p ActiveState -p SubState -p ExecMainStatus {unit}",
    "logs": BUS + "journalctl --user --unit {unit} --lines {lines} --no-pager --output cat",
    "stop": BUS + "systemctl --user stop --no-block {unit}",
    "kill": BUS + "systemctl --user kill --signal KILL {unit}",
    "clear": BUS + "systemctl --user stop {unit}",
}


def tmux_words(words: Sequence[str]) -> list[str]:
    """Return words so that tmux takes no semicolon for its own separator."""
    return [word[:-1] + r"\;" if word.endswith(";") else word for word in words]  # else tmux's own separator


def systemd_words(words: Sequence[str]) -> list[str]:
    """Return words so that systemd expands no variable in them."""
    return [word.replace("$", "$$") for word in words]  # else a variable of the user manager's


def tmux_state(code: int, output: str) -> State:
    """Read a state from tmux's answer."""
    shown = re.search(r"^exit=(\d*)$", output, re.MULTILINE)
    if code != 0 or shown is None:
        return State("absent")
    return State("ended", int(shown[1])) if shown[1] else State("running")


def systemd_state(code: int, output: str) -> State:
    """Read a state from systemd's answer."""
    if code != 0:
        raise NodeError("its systemd user manager does not answer; look there with `systemctl --user status`")
    shown = dict(line.partition("=")[::2] for line in output.splitlines())
    if shown.get("SubState") == "exited" or shown.get("ActiveState") == "failed":
        return State("ended", int(shown.get("ExecMainStatus") or 1))
    return State("absent" if shown.get("ActiveState") == "inactive" else "running")


class OverSsh:
    """Nodes on other machines: one ssh command an act, in the words of tmux or of systemd."""

    def __init__(self, driver: str) -> None:
        systemd = driver == "systemd-run"
        self.scripts = SYSTEMD if systemd else TMUX
        self.escape = systemd_words if systemd else tmux_words
        self.read_state = systemd_state if systemd else tmux_state

    def arguments(self, act: str, node: Node, words: Sequence[str] = (), lines: int = 0) -> list[str]:
        """Return the ssh command of an act."""
        find = run = ""
        if words:  # looked up where PATH is the login's, not that of a tmux server started long ago
            name = shlex.quote(words[0])
            find = f"node=$(command -v {name}) || {{ echo {name}: not found, see --bin-dir >&2; exit 127; }}"
            run = f'"$node" {shlex.join(self.escape(words[1:]))}'
        script = self.scripts[act].format(unit=node.unit, find=find, run=run, lines=lines)
        return [*SSH, node.target, script]

    def ask(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command, whatever its exit code."""
        try:
            done = subprocess.run(
                arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                timeout=SSH_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise NodeError(f"ssh: no answer within {SSH_SECONDS:g} s") from None
        if done.returncode in (127, 255):
            raise NodeError(last_line(done.stderr.splitlines()) or f"ssh: exit code {done.returncode}")
        return done

    def do(self, arguments: Sequence[str]) -> str:
        """Run a command, and return its output."""
        done = self.ask(arguments)
        if done.returncode != 0:
            raise NodeError(last_line(done.stderr.splitlines()) or f"exit code {done.returncode}")
        return done.stdout

    def state(self, node: Node) -> State:
        """Return a node's state."""
        done = self.ask(self.arguments("status", node))
        return self.read_state(done.returncode, done.stdout)

    def launch(self, node: Node, words: Sequence[str]) -> None:
        """Start a node with a command."""
        self.do(self.arguments("start", node, words))

    def log(self, node: Node, lines: int) -> list[str]:
        """Return the last lines of a node's log."""
        text = self.do(self.arguments("logs", node, lines=lines))
        said = [line for line in text.splitlines() if line.strip()]  # a pane is as high as a screen
        return said[-lines:]

    def end(self, node: Node, how: End) -> None:
        """End a node, or remove what an ended one left."""
        self.do(self.arguments(how, node))

    def preview(self, act: str, node: Node, words: Sequence[str], lines: int) -> str:
        """Return the command of an act, for people."""
        return shlex.join(self.arguments(act, node, words, lines))


# ── On this machine ───────────────────────────────────────────────────────────────────────────────

# sh outlives the node to write down its exit code: a signal to the group ends the node, and sh waits for it.
WRAPPER = 'trap : TERM INT HUP; "$@"; echo $? >"$0"'


@dataclass(frozen=True)
class Record:
    """Record of a local node; ``began`` tells its process from a later one with the same pid."""

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


class Local:
    """Nodes as processes of this machine, each with its record, log and data in a folder of ``state_dir``."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir.absolute()

    def folder(self, node: Node) -> Path:
        """Return a node's folder."""
        return self.state_dir / node.name

    def place(self, nodes: Sequence[Node], base_port: int | None) -> list[Node]:
        """Return the same nodes here: a port each on 127.0.0.1, which they keep from then on."""
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

    def started(self) -> list[Node]:
        """Return the nodes that were ever started here, in the order of their roles."""
        names = [path.parent.name.partition("-") for path in self.state_dir.glob("*-*/node.json")]
        known = sorted((ROLES.index(r), int(n)) for r, _, n in names if r in ROLES and n.isdecimal())
        return [Node(ROLES[role], "", "", number=number) for role, number in known]

    def record(self, node: Node) -> Record:
        """Return a node's record."""
        path = self.folder(node) / "node.json"
        try:
            record = Record(**json.loads(path.read_bytes()))
            if [type(value) for value in asdict(record).values()] != [int, int, str]:
                raise TypeError
        except FileNotFoundError:
            return Record(0)
        except (ValueError, TypeError):
            raise NodeError(f"{path} is damaged; end the process it names, if any, and remove it") from None
        return record

    def write(self, node: Node, record: Record) -> None:
        """Write a node's record."""
        path = self.folder(node) / "node.json"
        path.with_suffix(".new").write_text(json.dumps(asdict(record)))
        path.with_suffix(".new").replace(path)

    def state(self, node: Node) -> State:
        """Return a node's state."""
        record = self.record(node)
        if not record.pid:
            return State("absent")
        if beginning(record.pid) == record.began:
            return State("running")
        try:
            return State("ended", int((self.folder(node) / "exit").read_text()))
        except (OSError, ValueError):
            return State("ended")

    def launch(self, node: Node, words: Sequence[str]) -> None:
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
        # One that has ended by now has no beginning, and "" is never that of a process.
        self.write(node, Record(node.port, process.pid, beginning(process.pid) or ""))

    def log(self, node: Node, lines: int) -> list[str]:
        """Return the last lines of a node's log."""
        try:
            with (self.folder(node) / "log").open(encoding="utf-8", errors="replace") as log:
                return [line.rstrip("\n") for line in deque(log, maxlen=lines)]
        except FileNotFoundError:
            raise NodeError(f"no log in {self.folder(node)}: it was never started") from None

    def end(self, node: Node, how: End) -> None:
        """End a node, or remove what an ended one left."""
        record = self.record(node)
        if how == "clear":
            self.write(node, Record(record.port))
        elif self.state(node).kind == "running":  # asked again, so that nobody else's process is ended
            with contextlib.suppress(ProcessLookupError):
                os.killpg(record.pid, signal.SIGKILL if how == "kill" else signal.SIGTERM)

    def preview(self, act: str, node: Node, words: Sequence[str], lines: int) -> str:
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
