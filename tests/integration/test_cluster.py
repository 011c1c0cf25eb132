"""scripts/cluster: whole networks as local processes, and over an ssh that is a stand-in."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from shardcast.cli.main import cluster_main
from tests.support import processes

CLUSTER = Path(__file__).parents[2] / "scripts" / "cluster"
NODES = "trainer|origin\nuser@site-a|middle\nuser@site-b|middle|port=8001\nuser@gpu|client\n"


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def nodes_file(directory: Path, text: str) -> str:
    path = directory / "nodes.txt"
    path.write_text(text)
    return str(path)


@dataclass
class Cluster:
    """``scripts/cluster`` with the commands of this environment, in a directory of its own."""

    directory: Path

    @property
    def bin_dir(self) -> Path:
        return self.directory / "bin"

    @property
    def state_dir(self) -> Path:
        return self.directory / "state"

    def run(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(CLUSTER), *words],
            env=processes.environment(**env),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def local(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        own = ["--local", "--state-dir", str(self.state_dir), "--bin-dir", str(self.bin_dir)]
        return self.run(*words, *own, **env)

    def nodes_file(self, text: str) -> str:
        return nodes_file(self.directory, text)

    def record(self, name: str) -> dict[str, object]:
        record: dict[str, object] = json.loads((self.state_dir / name / "node.json").read_text())
        return record

    def pid(self, name: str) -> int:
        pid = self.record(name)["pid"]
        assert isinstance(pid, int)
        return pid

    def data_dir(self, name: str) -> Path:
        return self.state_dir / name / "data"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    for role in ("origin", "middle", "client"):
        text = f'#!/bin/sh\nexec {shlex.join(processes.command(role))} "$@"\n'
        executable(made.bin_dir / f"shardcast-{role}", text)
    yield made
    if made.state_dir.exists():
        stopped = made.local("stop")
        assert stopped.returncode == 0, stopped.stderr


def asked(*words: str, ip_addr_list: str = "") -> subprocess.CompletedProcess[str]:
    """The same within this process: for what only reads its input, and starts nothing."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, processes.environment(IP_ADDR_LIST=ip_addr_list), clear=True),
        mock.patch.object(sys, "argv", ["cluster", *words]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cluster_main()
        except SystemExit as end:
            code = end.code
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def texts(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """What was said of each node, after its name, place and server."""
    return {line.split()[0]: line.rsplit("  ", 1)[-1].strip() for line in done.stdout.splitlines()}


def wait_for_client(run: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Wait until client-1 has ended, and well."""
    said: dict[str, str] = {}

    def ended() -> bool:
        said.update(texts(run("status")))
        return said["client-1"] != "running"

    processes.wait_until(ended, 60, "the client")
    assert said["client-1"] == "done", run("logs").stdout


def runs(pid: int) -> bool:
    if not Path("/proc/self/stat").exists():
        return subprocess.run(["ps", "-p", str(pid)], capture_output=True, check=False).returncode == 0
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


# ── On this machine ───────────────────────────────────────────────────────────────────────────────


def test_started_network_delivers_a_file(cluster: Cluster, tmp_path: Path) -> None:
    nodes = cluster.nodes_file(NODES)
    started = cluster.local("start", nodes, "--middle-options=--check-interval 1")
    assert (started.returncode, set(texts(started).values())) == (0, {"started"}), started
    assert cluster.local("status", nodes).returncode == 0  # the client waits for the first version

    payload = tmp_path / "model.bin"
    payload.write_bytes(random.Random(7).randbytes(3_000_000))
    done = processes.run(
        "broadcast", str(payload), "--data-dir", str(cluster.data_dir("origin-1")), "--shard-size", "1MB"
    )
    assert (done.returncode, done.stdout.strip()) == (0, "v1"), done.stderr
    digest = hashlib.sha256(payload.read_bytes()).hexdigest()
    for name in ("middle-1", "middle-2"):
        url = f"http://127.0.0.1:{cluster.record(name)['port']}/distribution.txt"
        processes.wait_until(lambda url=url: digest in fetched(url), what=f"v1 on {name}")

    again = cluster.local("start", nodes)
    assert again.returncode == 0, again
    assert texts(again) == {
        "origin-1": "already running",
        "middle-1": "already running",
        "middle-2": "already running",
        "client-1": texts(again)["client-1"],  # running; where it is done, it starts once more
    }
    wait_for_client(cluster.local)
    outputs = list(cluster.data_dir("client-1").iterdir())
    assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in outputs] == [digest]
    assert cluster.local("status").returncode == 0
    logs = cluster.local("logs", "--lines", "5")
    assert logs.returncode == 0
    assert {line.split()[0] for line in logs.stdout.splitlines()} >= {"origin-1", "middle-1", "middle-2"}

    pids = [cluster.pid(name) for name in ("origin-1", "middle-1", "middle-2")]
    stopped = cluster.local("stop", nodes)
    assert (stopped.returncode, texts(stopped)["origin-1"]) == (0, "stopped"), stopped
    assert not any(runs(pid) for pid in pids)
    assert [(cluster.state_dir / name / "exit").read_text() for name in ("origin-1", "middle-1")] == [
        "0\n"
    ] * 2
    assert set(texts(cluster.local("stop")).values()) == {"not running"}
    assert cluster.local("status").returncode == 1


def fetched(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError:
        return ""  # it has nothing to list yet


def test_node_keeps_port_and_first_gets_base_port(cluster: Cluster) -> None:
    cluster.local("start", IP_ADDR_LIST="a b")
    port = cluster.record("origin-1")["port"]
    cluster.local("stop", "--role", "origin")
    assert texts(cluster.local("status")) == {"origin-1": "not running", "middle-1": "running"}
    cluster.local("start", IP_ADDR_LIST="a b")
    assert cluster.record("origin-1")["port"] == port
    new = ("--local", "--state-dir", str(cluster.directory / "new"), "--base-port", "9100", "--dry-run")
    row = asked("start", *new, ip_addr_list="a,b\nc")
    assert [f"--port {port}" in line for port, line in enumerate(row.stdout.splitlines(), 9100)] == [True] * 3


def test_recycled_pid_is_not_killed(cluster: Cluster) -> None:
    cluster.local("start", IP_ADDR_LIST="a")
    record = cluster.record("origin-1")
    cluster.local("stop")
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        path = cluster.state_dir / "origin-1" / "node.json"
        path.write_text(json.dumps({**record, "pid": stranger.pid}))
        assert texts(cluster.local("stop")) == {"origin-1": "not running"}
        assert stranger.poll() is None
        path.write_text(json.dumps({**record, "pid": stranger.pid}))
        assert texts(cluster.local("start", IP_ADDR_LIST="a")) == {"origin-1": "started"}
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait(10)


def test_killed_node_is_down_and_restarts(cluster: Cluster) -> None:
    cluster.local("start", IP_ADDR_LIST="a")
    os.killpg(cluster.pid("origin-1"), signal.SIGKILL)
    processes.wait_until(lambda: not runs(cluster.pid("origin-1")), what="its end")
    status = cluster.local("status")
    assert (status.returncode, texts(status)) == (1, {"origin-1": "was killed"})
    assert texts(cluster.local("start", IP_ADDR_LIST="a")) == {"origin-1": "started"}


def test_failed_start_reports_reason(cluster: Cluster) -> None:
    executable(cluster.bin_dir / "shardcast-middle", "#!/bin/sh\necho the disk is full >&2\nexit 6\n")
    done = cluster.local("start", IP_ADDR_LIST="a b")
    assert done.returncode == 1
    assert texts(done)["origin-1"] == "started"
    assert texts(done)["middle-1"] == "did not start, ended with exit code 6: the disk is full"
    assert texts(cluster.local("status"))["middle-1"] == "ended with exit code 6"


def test_node_ignoring_sigterm_is_killed_with_its_children(cluster: Cluster) -> None:
    child = cluster.directory / "child"
    text = f"#!/bin/sh\ntrap '' TERM\nsleep 60 & echo $! >{child}\necho Listening on\nwait\n"
    executable(cluster.bin_dir / "shardcast-origin", text)
    cluster.local("start", IP_ADDR_LIST="a")
    stopped = cluster.local("stop", "--grace", "1")
    assert stopped.returncode == 0, stopped.stderr
    assert texts(stopped) == {"origin-1": "killed, as it did not end within 1 s"}
    processes.wait_until(lambda: not runs(int(child.read_text())), what="the end of its child")


def test_client_runs_the_given_command(cluster: Cluster) -> None:
    nodes = cluster.nodes_file("a|middle\nb|client\n")
    asked = ("--upstream", "http://trainer:8000", "--role", "client")
    done = cluster.local("start", nodes, *asked, "--client-command", "echo 'to {servers}' in={data_dir}")
    assert done.returncode == 0, done
    wait_for_client(cluster.local)
    logs = cluster.local("logs", "--role", "client").stdout
    assert logs.split(maxsplit=1)[1].startswith("to 127.0.0.1:"), logs
    assert logs.endswith(f"in={cluster.data_dir('client-1')}\n")


def test_stop_and_status_without_any_start(cluster: Cluster) -> None:
    assert cluster.local("stop").returncode == 0
    assert not cluster.state_dir.exists()
    status = cluster.local("status")
    assert (status.returncode, status.stdout) == (1, "")
    assert "no node in" in status.stderr


def test_damaged_record_error_says_what_to_do(cluster: Cluster) -> None:
    folder = cluster.state_dir / "origin-1"
    folder.mkdir(parents=True)
    for text in ("", "[]", '{"port": "x"}', '{"port": 1, "pid": "1", "began": ""}', "\xff", "{" * 100_000):
        (folder / "node.json").write_text(text, encoding="latin-1")
        done = cluster.local("stop")
        assert done.returncode == 1
        assert "is damaged" in done.stderr
        assert "Traceback" not in done.stderr
    shutil.rmtree(cluster.state_dir)


def test_missing_commands_error_says_where_to_get_them(cluster: Cluster) -> None:
    done = cluster.run(
        "start", "--local", "--state-dir", str(cluster.state_dir), "--bin-dir", "/nowhere", IP_ADDR_LIST="a"
    )
    assert done.returncode == 1
    assert "/nowhere/shardcast-origin: not found; install shardcast" in done.stdout


# ── What is asked for ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no nodes"),
        ("# nobody\n\n", "no nodes"),
        ("a", "write user@host|role"),
        ("a|orgin", "write user@host|role"),
        ("a|middle", "no origin"),
        ("|origin", "'' is not a host"),
        ("user@|origin", "is not a host"),
        ("@a|origin", "is not a host"),
        ("a b|origin", "is not a host"),
        ("-oProxyCommand=touch x|origin", "is not a host"),
        ("-oProxyCommand=x@a|origin", "is not a host"),
        ("a;reboot|origin", "is not a host"),
        ("$(reboot)|origin", "is not a host"),
        ("http://a|origin", "is not a host"),
        ("fe80:::1|origin", "is not a host"),
        ("a:22|origin", "a node's port is a field"),
        ("a|origin|port=0", "'0' is not a port"),
        ("a|origin|port=65536", "is not a port"),
        ("a|origin|port=٣", "is not a port"),
        ("a|origin|port=1|port=2", "twice"),
        ("a|origin|port", "is not a field"),
        ("a|origin|colour=red", "is not a field"),
        ("a|origin|data_dir=", "is not a field"),
        ("a|origin|data_dir=x\x07y", "is not a field"),
        ("a|origin|address=b c", "is not a host"),
        ("a|origin\nb|client|port=1", "a client does not listen"),
        ("a|origin\nu@a|middle", "origin-1 and middle-1 are both on port 8000 of a"),
    ],
)
def test_malformed_nodes_file_is_refused(tmp_path: Path, text: str, said: str) -> None:
    done = asked("start", nodes_file(tmp_path, text), "--dry-run")
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_malformed_line_is_named_in_the_error(tmp_path: Path) -> None:
    path = nodes_file(tmp_path, "a|origin\n\nb|middle|port=x\n")
    assert f"{path}, line 3, 'b|middle|port=x': 'x' is not a port" in asked("status", path).stderr


def test_unreadable_nodes_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path, why in (("missing", "No such file"), (".", "Is a directory"), ("binary", "not UTF-8")):
        done = asked("start", str(tmp_path / path))
        assert done.returncode == 2
        assert "can't read the nodes file" in done.stderr
        assert why in done.stderr


def commands(done: subprocess.CompletedProcess[str]) -> list[list[str]]:
    """Where each command of a dry run goes, and the words that its node is given there."""
    found = []
    for line in done.stdout.splitlines():
        *_, target, script = shlex.split(line)
        words = shlex.split(script)
        found.append([target, *words[words.index("$node") + 1 :]])
    return found


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.1 10.0.0.2 10.0.0.3",
        "10.0.0.1,10.0.0.2, 10.0.0.3,",
        "10.0.0.1\n10.0.0.2\n\n10.0.0.3\n",
        '("10.0.0.1" "10.0.0.2" "10.0.0.3")',
        " ( '10.0.0.1'  10.0.0.2:8000 \"10.0.0.3\" ) ",
    ],
)
def test_ip_addr_list_describes_the_network(text: str) -> None:
    done = asked("start", "--dry-run", "--middles", "1", ip_addr_list=text)
    assert done.returncode == 0, done.stderr
    origin, middle, client = commands(done)
    assert origin == ["10.0.0.1", "--data-dir", "shardcast/origin-8000", "--port", "8000"]
    assert middle[0] == "10.0.0.2"
    assert middle[-2:] == ["--upstream", "10.0.0.1:8000"]
    assert client == [
        "10.0.0.3", "--servers", "10.0.0.2:8000", "--version", "latest", "--wait", "--output-dir",
        "shardcast/client-1",
    ]  # fmt: skip


def test_ip_addr_list_assigns_roles_in_order() -> None:
    all_middles = asked("start", "--dry-run", ip_addr_list="root@a:9000 [::1]:9001 ::2")
    origin, boxed, bare = commands(all_middles)
    assert (origin[0], origin[-1]) == ("root@a", "9000")
    assert (boxed[0], boxed[4:]) == ("::1", ["9001", "--host", "::", "--upstream", "a:9000"])
    assert bare[0] == "::2"
    no_middle = asked("start", "--dry-run", "--middles", "0", ip_addr_list="a [::1] c")
    assert [line[1:3] for line in commands(no_middle)[1:]] == [["--servers", "a:8000"]] * 2


@pytest.mark.parametrize(
    "text", ["", " , ", '("a" "b"', "a b)", '"a', "a http://b", "a b;c", "()", "a -b", "a b:0"]
)
def test_malformed_ip_addr_list_is_refused(text: str) -> None:
    done = asked("start", "--dry-run", ip_addr_list=text)
    assert (done.returncode, done.stdout) == (2, "")
    assert "IP_ADDR_LIST" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [[], ["begin"], ["start", "--middles", "-1"], ["start", "--base-port", "0"], ["start", "--role", "boss"],
     ["start", "--client-command", "a 'b"], ["start", "--client-command", ""], ["logs", "--lines", "x"],
     ["start", "--local", "--dry-run", "--base-port", "65535"]],
)  # fmt: skip
def test_bad_usage_is_refused(words: list[str]) -> None:
    done = asked(*words, ip_addr_list="a b")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


NASTY = "it's; $(touch gone) `touch gone` \\; $HOME #{pane_pid} && touch gone;".replace(" #", "#")


@pytest.mark.parametrize("driver", ["tmux", "systemd-run"])
def test_special_characters_in_values_are_escaped(tmp_path: Path, driver: str) -> None:
    nodes = nodes_file(tmp_path, f"a|origin|data_dir={NASTY}  # the origin\n")
    done = asked("start", nodes, "--dry-run", "--driver", driver, "--bin-dir", "/o p")
    _, _, value, *_ = commands(done)[0]
    assert value == (NASTY[:-1] + "\\;" if driver == "tmux" else NASTY.replace("$", "$$"))


# ── Over ssh ──────────────────────────────────────────────────────────────────────────────────────

# Writes down how it was called, and does what was asked in a home directory for each host.
SSH = """#!/bin/sh
printf '%s\\n' "$@" >"$SSH_CALLS/$$"
while [ "$1" != -- ]; do shift; done
[ "$2" != user@unreachable ] || { echo "ssh: connect to host unreachable: No route to host" >&2; exit 255; }
mkdir -p "$SSH_HOMES/$2" && cd "$SSH_HOMES/$2" || exit 255
exec env -i HOME="$PWD" PATH="$PATH" TMUX_TMPDIR="$PWD" XDG_RUNTIME_DIR="$PWD" sh -c "$3"
"""

# A server, as far as the drivers see one; what it was called with is in its log.
SERVER = """#!/bin/sh
trap 'echo bye; exit 0' TERM
echo "Listening on http://0.0.0.0"
for word; do printf '<%s>\\n' "$word"; done
while :; do sleep 0.05; done
"""


@dataclass
class Ssh:
    cluster: Cluster

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.cluster.run(
            *words,
            "--bin-dir",
            str(self.cluster.bin_dir),
            PATH=f"{self.cluster.directory / 'path'}:{os.environ['PATH']}",
            SSH_CALLS=str(self.calls_dir),
            SSH_HOMES=str(self.homes),
        )

    @property
    def calls_dir(self) -> Path:
        return self.cluster.directory / "calls"

    @property
    def homes(self) -> Path:
        return self.cluster.directory / "h"

    def calls(self) -> list[list[str]]:
        return [call.read_text().splitlines() for call in self.calls_dir.iterdir()]


@pytest.fixture
def ssh(cluster: Cluster) -> Iterator[Ssh]:
    executable(cluster.directory / "path" / "ssh", SSH)
    for role in ("origin", "middle"):
        executable(cluster.bin_dir / f"shardcast-{role}", SERVER)
    executable(cluster.bin_dir / "shardcast-client", "#!/bin/sh\necho fetched\n")
    made = Ssh(cluster)
    made.calls_dir.mkdir()
    yield made
    for home in made.homes.glob("*"):
        env = {**os.environ, "TMUX_TMPDIR": str(home)}
        subprocess.run(["tmux", "-L", "shardcast", "kill-server"], env=env, capture_output=True, check=False)


@pytest.mark.skipif(not shutil.which("tmux"), reason="no tmux here")
def test_tmux_over_ssh_starts_and_stops_nodes(ssh: Ssh) -> None:
    nodes = ssh.cluster.nodes_file(
        f"trainer|origin|data_dir={NASTY}\n"
        "user@a|middle|port=8001\nuser@b|middle|address=10.0.0.2\nuser@gpu|client\n"
    )
    started = ssh.run("start", nodes)
    assert started.returncode == 0, started
    assert set(texts(started).values()) <= {"started", "done"}
    options = ["-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "--"]
    assert all(call[:6] == options for call in ssh.calls())
    assert {call[6] for call in ssh.calls()} == {"trainer", "user@a", "user@b", "user@gpu"}

    wait_for_client(lambda *words: ssh.run(*words, nodes))
    status = ssh.run("status", nodes)
    assert (status.returncode, texts(status)["origin-1"]) == (0, "running")
    logs = ssh.run("logs", nodes).stdout
    assert f"<{NASTY}>" in logs
    assert "middle-1   <trainer:8000>" in logs
    assert "client-1   fetched" in logs
    assert list(ssh.homes.rglob("gone")) == []

    assert texts(ssh.run("start", nodes, "--role", "middle")) == dict.fromkeys(
        ["middle-1", "middle-2"], "already running"
    )
    stopped = ssh.run("stop", nodes)
    assert (stopped.returncode, texts(stopped)["middle-2"]) == (0, "stopped"), stopped
    assert set(texts(ssh.run("stop", nodes)).values()) == {"not running"}
    assert ssh.run("status", nodes).returncode == 1


@pytest.mark.skipif(not shutil.which("tmux"), reason="no tmux here")
def test_unreachable_node_does_not_delay_others(ssh: Ssh) -> None:
    nodes = ssh.cluster.nodes_file("trainer|origin\nuser@unreachable|middle\nuser@a|middle\n")
    done = ssh.run("start", nodes)
    assert done.returncode == 1
    assert texts(done)["origin-1"] == texts(done)["middle-2"] == "started"
    assert "No route to host" in done.stdout.splitlines()[1]
    (ssh.cluster.bin_dir / "shardcast-middle").unlink()
    ssh.run("stop", nodes)
    assert "shardcast-middle: not found, see --bin-dir" in ssh.run("start", nodes).stdout.splitlines()[2]


@pytest.mark.skipif(not shutil.which("tmux"), reason="no tmux here")
def test_failing_and_hanging_nodes_are_reported_over_ssh(ssh: Ssh) -> None:
    executable(ssh.cluster.bin_dir / "shardcast-origin", SERVER.replace("'echo bye; exit 0'", "''"))
    executable(ssh.cluster.bin_dir / "shardcast-middle", "#!/bin/sh\necho the disk is full >&2\nexit 6\n")
    nodes = ssh.cluster.nodes_file("trainer|origin\nuser@a|middle\n")
    started = texts(ssh.run("start", nodes))
    assert started["origin-1"] == "started"
    assert started["middle-1"] == "did not start, ended with exit code 6: the disk is full"
    assert texts(ssh.run("status", nodes))["middle-1"] == "ended with exit code 6"
    stopped = ssh.run("stop", nodes, "--grace", "1")
    assert stopped.returncode == 0
    assert texts(stopped) == {"origin-1": "killed, as it did not end within 1 s", "middle-1": "not running"}
    assert set(texts(ssh.run("status", nodes)).values()) == {"not running"}


# A user manager of one unit that keeps its state in a file.
SYSTEMD_RUN = """#!/bin/sh
printf '%s\\n' "$@" >systemd-run.called
echo "active running" >unit
echo "Listening on http://0.0.0.0" >journal
"""
SYSTEMCTL = """#!/bin/sh
echo "$*" >>systemctl.called
case "$2" in
    show) read -r active sub <unit || { active=inactive; sub=dead; }
          printf 'ActiveState=%s\\nSubState=%s\\nExecMainStatus=0\\n' "$active" "$sub" ;;
    stop) rm unit ;;
esac 2>/dev/null
"""


def test_systemd_run_over_ssh_starts_and_stops_nodes(ssh: Ssh) -> None:
    path = ssh.cluster.directory / "path"
    executable(path / "systemd-run", SYSTEMD_RUN)
    executable(path / "systemctl", SYSTEMCTL)
    executable(path / "journalctl", "#!/bin/sh\ncat journal\n")
    nodes = ssh.cluster.nodes_file("user@a|origin|data_dir=/x y\nuser@b|client\n")
    for text in ("started", "already running"):
        done = ssh.run("start", nodes, "--driver", "systemd-run")
        assert (done.returncode, set(texts(done).values())) == (0, {text}), done
    called = (ssh.homes / "user@a" / "systemd-run.called").read_text().splitlines()
    assert called[:2] == ["--user", "--quiet"]
    assert called[called.index("--unit") + 1] == "shardcast-origin-8000"
    assert "--collect" in called
    assert called[-5:] == [
        str(ssh.cluster.bin_dir / "shardcast-origin"),
        "--data-dir",
        "/x y",
        "--port",
        "8000",
    ]

    (ssh.homes / "user@b" / "unit").write_text("active exited\n")
    status = ssh.run("status", nodes, "--driver", "systemd-run")
    assert (status.returncode, texts(status)) == (0, {"origin-1": "running", "client-1": "done"})
    stopped = ssh.run("stop", nodes, "--driver", "systemd-run")
    assert (stopped.returncode, texts(stopped)) == (0, {"origin-1": "stopped", "client-1": "not running"})
    assert (
        "--user stop --no-block shardcast-origin-8000"
        in (ssh.homes / "user@a" / "systemctl.called").read_text()
    )
    assert ssh.run("status", nodes, "--driver", "systemd-run").returncode == 1


def test_missing_ssh_is_reported(cluster: Cluster, tmp_path: Path) -> None:
    done = cluster.run("status", cluster.nodes_file("a|origin\n"), PATH=str(tmp_path))
    assert (done.returncode, texts(done)) == (1, {"origin-1": "ssh: No such file or directory"})
