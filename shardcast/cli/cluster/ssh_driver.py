"""Nodes on other machines: ssh with tmux or systemd."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Sequence

from shardcast.cli.cluster.drivers import End, NodeError, NodeState, last_line
from shardcast.cli.cluster.network import ClusterNode

SSH = ("ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "--")
SSH_SECONDS = 60.0

# The pane outlives the node, with the log; the exit code is in a variable of the session. (tmux could keep a
# dead pane, but may lose the last output and the exit code.)
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
    """Return the words, with a semicolon at the end of a word escaped."""
    return [word[:-1] + r"\;" if word.endswith(";") else word for word in words]  # else tmux's own separator


def systemd_words(words: Sequence[str]) -> list[str]:
    """Return the words, with each ``$`` doubled."""
    return [word.replace("$", "$$") for word in words]  # else a variable of the user manager's


def tmux_state(code: int, output: str) -> NodeState:
    """Return the state in tmux's answer; absent if tmux knows no such session."""
    shown = re.search(r"^exit=(\d*)$", output, re.MULTILINE)
    if code != 0 or shown is None:
        return NodeState("absent")
    return NodeState("ended", int(shown[1])) if shown[1] else NodeState("running")


def systemd_state(code: int, output: str) -> NodeState:
    """Return the state in systemd's answer.

    Raises:
        NodeError: the node's systemd user manager does not answer.
    """
    if code != 0:
        raise NodeError("its systemd user manager does not answer; look there with `systemctl --user status`")
    shown = dict(line.partition("=")[::2] for line in output.splitlines())
    if shown.get("SubState") == "exited" or shown.get("ActiveState") == "failed":
        return NodeState("ended", int(shown.get("ExecMainStatus") or 1))
    return NodeState("absent" if shown.get("ActiveState") == "inactive" else "running")


class SshDriver:
    """Nodes on other machines: one ssh command an act, in the words of tmux or of systemd."""

    def __init__(self, driver: str) -> None:
        systemd = driver == "systemd-run"
        self.scripts = SYSTEMD if systemd else TMUX
        self.escape = systemd_words if systemd else tmux_words
        self.read_state = systemd_state if systemd else tmux_state

    def arguments(self, act: str, node: ClusterNode, words: Sequence[str] = (), lines: int = 0) -> list[str]:
        """Return the ssh command of an act."""
        find = run = ""
        if words:  # looked up where PATH is the login's, not that of a tmux server started long ago
            name = shlex.quote(words[0])
            find = f"node=$(command -v {name}) || {{ echo {name}: not found, see --bin-dir >&2; exit 127; }}"
            run = f'"$node" {shlex.join(self.escape(words[1:]))}'
        script = self.scripts[act].format(unit=node.unit, find=find, run=run, lines=lines)
        return [*SSH, node.target, script]

    def ask(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run an ssh command, and return the result, also after a failure of the command on the node.

        Raises:
            NodeError: ssh failed or took too long, or the node lacks the program.
        """
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
        """Run an ssh command, and return the output.

        Raises:
            NodeError: as for ``ask``, or the command failed on the node.
        """
        done = self.ask(arguments)
        if done.returncode != 0:
            raise NodeError(last_line(done.stderr.splitlines()) or f"exit code {done.returncode}")
        return done.stdout

    def state(self, node: ClusterNode) -> NodeState:
        """Return a node's state."""
        done = self.ask(self.arguments("status", node))
        return self.read_state(done.returncode, done.stdout)

    def launch(self, node: ClusterNode, words: Sequence[str]) -> None:
        """Start a node with a command."""
        self.do(self.arguments("start", node, words))

    def log(self, node: ClusterNode, lines: int) -> list[str]:
        """Return the last lines of a node's log."""
        text = self.do(self.arguments("logs", node, lines=lines))
        said = [line for line in text.splitlines() if line.strip()]  # a pane is as high as a screen
        return said[-lines:]

    def end(self, node: ClusterNode, how: End) -> None:
        """End a node, or remove the leftovers of an ended one."""
        self.do(self.arguments(how, node))

    def preview(self, act: str, node: ClusterNode, words: Sequence[str], lines: int) -> str:
        """Return the command of an act, for people."""
        return shlex.join(self.arguments(act, node, words, lines))
