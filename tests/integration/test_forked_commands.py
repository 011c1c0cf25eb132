"""Commands forked off a server, beside those that have an interpreter of their own: no difference shows."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import fork_server, forked, processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nothing is forked elsewhere")

SAME = ("PPid", "Umask", "NSpgid", "NSsid", "SigBlk", "SigIgn", "SigCgt", "CapEff", "Seccomp")


def facts(process: subprocess.Popen[Any]) -> dict[str, object]:
    """What the system says of a process."""
    place = Path(f"/proc/{process.pid}")
    lines = dict(line.split(":\t", 1) for line in (place / "status").read_text().splitlines())
    files = [re.sub(r"\d+", "N", str(entry.readlink())) for entry in sorted((place / "fd").iterdir())]
    limits = (place / "limits").read_text()
    return {
        **{name: lines[name] for name in SAME},
        "files": [name.replace(str(place.parent), "") for name in files],
        "limits": limits,
        "directory": (place / "cwd").readlink(),
        "nice": os.getpriority(os.PRIO_PROCESS, process.pid),
        "processors": os.sched_getaffinity(process.pid),
    }


def is_forked(process: subprocess.Popen[Any]) -> bool:
    return b"tests.support.fork_server" in Path(f"/proc/{process.pid}/cmdline").read_bytes()


def test_forked_node_is_to_the_system_what_any_node_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = []
    for fork in (True, False):
        with processes.origin(tmp_path / "data", env={"SHARDCAST_KEEP_ALIVE": "7"}, fork=fork) as node:
            assert is_forked(node.process) == fork
            found.append(facts(node.process))
            assert node.stop() == 0
    assert found[0] == found[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_forked_node_ends_by_a_signal_as_any_node(number: signal.Signals, tmp_path: Path) -> None:
    codes = []
    for fork in (True, False):
        with processes.origin(tmp_path / "data", fork=fork) as node:
            node.process.send_signal(number)
            codes.append(node.process.wait(30))
    assert codes[0] == codes[1]


@pytest.mark.parametrize(
    ("words", "variables"),
    [
        (["--version"], {}),
        (["nonsense"], {}),
        (["origin", "--port", "x"], {}),
        (["client"], {"SHARDCAST_HTTP_TIMEOUT": "soon"}),
        (["client"], {"IP_ADDR_LIST": "ftp://a"}),
        (["broadcast", "none.bin"], {"SHARDCAST_DATA_DIR": "x"}),
        (["origin", "--help"], {"SHARDCAST_HTTP_PORT": "7", "SHARDCAST_SHARD_SIZE": "3MB"}),
    ],
)
def test_forked_command_says_what_any_command_says(
    words: list[str], variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []
    for _ in range(2):
        ended = processes.run(*words, env=variables, cwd=tmp_path)
        done.append((ended.returncode, ended.stdout, ended.stderr))
        monkeypatch.setenv(forked.EXEC_VARIABLE, "1")
    assert done[0] == done[1]


def test_missing_directory_is_an_error_of_the_start(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        processes.run("--version", cwd=tmp_path / "none")


READ = """
import importlib, os, sys
names, get = set(), type(os.environ).__getitem__
type(os.environ).__getitem__ = lambda self, name: names.add(name) or get(self, name)
for module in sys.argv[1:]:
    importlib.import_module(module)
print(*names)
"""


def test_imports_read_only_the_settings_by_which_servers_differ() -> None:
    """A command is forked off a server that has imported shardcast with the same ones."""
    done = subprocess.run(
        [sys.executable, "-c", READ, *fork_server.LOADED], capture_output=True, text=True, check=True
    )
    read = dict.fromkeys(done.stdout.split(), "")
    assert "SHARDCAST_HTTP_TIMEOUT" in read
    assert set(read) == {*forked.read_at_import(read), *forked.others(read)}
