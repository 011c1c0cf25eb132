"""Backups and restores in real terminals: one line of progress, and Ctrl-C ends each command in words."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from shardcast.cli.exit_codes import DONE
from tests.support import processes
from tests.support.terminals import INTERRUPTED, WIDTHS, Terminal, terminal

SIZE = 6_000_000
FIRST_PART = 20_000_000
"""Bytes of stdin from which some chunks are cut before the end."""
KEPT = "Interrupted. The server keeps what was sent; the next backup goes on."
SOON = 20.0
"""Seconds in which a command ends after Ctrl-C, whatever its server does."""


@dataclass
class Saved:
    """A folder with a snapshot at a slow server.

    Attributes:
        node: the server.
        folder: the folder.
    """

    node: processes.Node
    folder: Path


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Saved]:
    place = tmp_path_factory.mktemp("backup")
    store, work = ("--store_dir", str(place / "store")), place / "work"
    work.mkdir()
    for number in range(3):
        (work / f"{number}").write_bytes(os.urandom(SIZE // 3))
    start = ("backup", "start", *store, "--host", "127.0.0.1", "--port", "0", "--upload-limit", "500kB")
    with pytest.MonkeyPatch.context() as patch, processes.node(*start) as node:
        patch.setenv("XDG_CONFIG_HOME", str(place / "config"))
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        invitation = processes.run("backup", "invite", *store).stdout.strip()
        words = ("--dir", str(work), "--url", node.url, "--invitation", invitation)
        assert processes.run("backup", "register", *words).returncode == DONE
        assert processes.run("backup", "backup", "--dir", str(work)).returncode == DONE
        yield Saved(node, work)


def is_shown(word: str, lines: list[str]) -> bool:
    """Return whether the progress of some bytes is on the screen."""
    return any(line.startswith(word) and "MB" in line for line in lines)


def begin_backup(shown: Terminal) -> None:
    """Give a backup of stdin some bytes, and wait for its progress; stdin does not end."""
    assert shown.process.stdin
    shown.process.stdin.write(bytes(FIRST_PART))
    shown.process.stdin.flush()
    shown.read_until(lambda lines: is_shown("backup ", lines), one_line=True)


def without_spaces(text: str) -> str:
    """Return a text as it is wherever a terminal breaks its lines."""
    return "".join(text.split())


@pytest.mark.parametrize("width", WIDTHS)
def test_backup_is_one_line_and_says_what_an_interruption_leaves(saved: Saved, width: int) -> None:
    with terminal(width, "backup", "backup", "--dir", str(saved.folder), "--stdin") as shown:
        begin_backup(shown)
        assert ("sent" in shown.lines[0]) == (width > 40)
        shown.process.send_signal(signal.SIGINT)
        assert shown.end() == INTERRUPTED
    assert without_spaces("".join(shown.lines)) == without_spaces(KEPT)


@pytest.mark.parametrize("width", WIDTHS)
def test_restore_is_one_line_and_says_how_to_go_on(saved: Saved, tmp_path: Path, width: int) -> None:
    words = ("latest", "--dir", str(saved.folder), "--dest", str(tmp_path / "back"))
    with terminal(width, "backup", "restore", *words) as shown:
        shown.read_until(lambda lines: is_shown("restore ", lines), one_line=True)
        assert ("files" in shown.lines[0]) == (width > 40)
        shown.process.send_signal(signal.SIGINT)
        assert shown.end() == INTERRUPTED
    told = f"Interrupted. {tmp_path / 'back'} keeps what is there by now; the same command goes on."
    assert without_spaces("".join(shown.lines)) == without_spaces(told)


@pytest.mark.parametrize("command", ["backup --stdin", "restore latest --dest", "check --read-data"])
def test_ctrl_c_ends_a_command_whose_server_stalls(saved: Saved, tmp_path: Path, command: str) -> None:
    words = [*command.split(), *([str(tmp_path / "back")] if command.endswith("--dest") else [])]
    with terminal(80, "backup", *words, "--dir", str(saved.folder)) as shown:
        if "--stdin" in words:
            begin_backup(shown)
        else:
            shown.read_until(lambda lines: bool(lines))
        saved.node.process.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            shown.process.send_signal(signal.SIGINT)
            assert shown.end() == INTERRUPTED
            assert time.monotonic() - began < SOON
        finally:
            saved.node.process.send_signal(signal.SIGCONT)
    assert any(line.startswith("Interrupted.") for line in shown.lines)
    assert "Traceback" not in "".join(shown.lines)
