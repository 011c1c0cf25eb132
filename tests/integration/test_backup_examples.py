"""The nightly backups of examples/: systemd's unit and cron's lines, run as they stand against a server."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import processes

EXAMPLES = Path(__file__).parents[2] / "examples"
SERVICE, TIMER, CRON = (EXAMPLES / f"shardcast-backup.{kind}" for kind in ("service", "timer", "cron"))
FOLDER = "/srv/data"
"""The folder that the examples save."""
PROGRAM = "/usr/local/bin/shardcast-backup"


@dataclass(frozen=True)
class Machine:
    """A machine with a folder that is registered.

    Attributes:
        place: where everything of it lies.
        folder: the folder, in which a script is to be run before a backup.
    """

    place: Path
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """The variables of its user, whose commands are found as if they were installed."""
        return {
            "HOME": str(self.place),
            "XDG_CONFIG_HOME": str(self.place / "config"),
            "XDG_CACHE_HOME": str(self.place / "cache"),
            "PATH": f"{self.place / 'bin'}:/usr/bin:/bin",
        }

    def snapshots(self) -> list[str]:
        """Return the ids of the folder's snapshots, and their tags."""
        words = ("snapshots", "--dir", str(self.folder))
        done = processes.run("backup", *words, env=self.environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path, tmp_path / "data")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "shardcast-backup"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m shardcast backup "$@"\n')
    logger = tmp_path / "bin" / "logger"
    logger.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >>{shlex.quote(str(tmp_path / "logged"))}\n')
    machine.folder.mkdir()
    (machine.folder / "file.txt").write_text("of the day")
    before = machine.folder / "before-backup"
    before.write_text(f"#!/bin/sh\necho dumped >{shlex.quote(str(machine.folder / 'dump.sql'))}\n")
    for script in (program, logger, before):
        script.chmod(0o755)
    store = ("--store_dir", str(tmp_path / "store"))
    with processes.node("backup", "start", *store, "--host", "127.0.0.1", "--port", "0") as server:
        invitation = processes.run("backup", "invite", *store).stdout.strip()
        words = ("--dir", str(machine.folder), "--url", server.url, "--invitation", invitation)
        done = processes.run("backup", "register", *words, env=machine.environment)
        assert done.returncode == 0, done.stderr
        yield machine


def service_words() -> list[str]:
    """Return the command of the unit, as systemd reads it."""
    text = SERVICE.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.search(r"^ExecStart=(.+)$", text, re.MULTILINE)
    assert found
    return [word.replace("$$", "$") for word in shlex.split(found[1])]


def cron_commands() -> dict[str, str]:
    """Return the commands of cron's lines, by the name of each."""
    lines = CRON.read_text(encoding="utf-8").splitlines()
    commands = [line.split(maxsplit=5)[5] for line in lines if line[:1].isdigit()]
    return {shlex.split(command)[1]: command for command in commands}


def run_shell(machine: Machine, command: str) -> subprocess.CompletedProcess[str]:
    """Run a line of cron's, on the folder of the machine."""
    words = ["sh", "-c", command.replace(FOLDER, str(machine.folder))]
    env = processes.environment(**machine.environment)
    return subprocess.run(words, env=env, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
def test_systemd_accepts_the_service_and_the_timer(tmp_path: Path) -> None:
    for unit in (SERVICE, TIMER):  # only the program need not be installed
        text = unit.read_text(encoding="utf-8").replace(PROGRAM, "/bin/true")
        (tmp_path / unit.name).write_text(text, encoding="utf-8")
    words = ["systemd-analyze", "verify", "--man=no", SERVICE.name, TIMER.name]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_service_saves_the_folder_between_its_hooks(machine: Machine) -> None:
    program, group, *words = service_words()
    assert (program, group) == (PROGRAM, "backup")
    words = [word.replace(FOLDER, str(machine.folder)) for word in words]
    done = processes.run("backup", group, *words, env=machine.environment)
    assert done.returncode == 0, done.stderr
    snapshot = done.stdout.strip()
    assert f"snapshot: {snapshot}\n" in done.stderr
    (line,) = machine.snapshots()
    assert snapshot in line and "nightly" in line
    names = processes.run("backup", "ls", "latest", "--dir", str(machine.folder), env=machine.environment)
    assert "dump.sql" in names.stdout


def test_the_lines_of_cron_save_forget_and_check(machine: Machine) -> None:
    commands = cron_commands()
    assert list(commands) == ["backup", "forget", "check"]
    for command in commands.values():
        assert "%" not in command
        done = run_shell(machine, command)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
    (line,) = machine.snapshots()
    logged = (machine.place / "logged").read_text()
    assert logged.startswith("-t backup snapshot: ") and logged.split()[-1] in line


def test_a_failing_script_before_saves_nothing_and_is_logged(machine: Machine) -> None:
    (machine.folder / "before-backup").write_text("#!/bin/sh\nexit 3\n")
    done = run_shell(machine, cron_commands()["backup"])
    assert done.returncode == 1
    assert "ended with exit code 3" in done.stderr
    assert machine.snapshots() == []
