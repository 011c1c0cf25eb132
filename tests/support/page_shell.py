"""Runs the blocks of a page as a reader does: shell commands in a folder, Python in an interpreter."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import processes
from tests.support.pages import ROOT

STAYS = re.compile(
    r"^shardcast-(origin|middle|backup start)\b| --follow | --watch\b"
    r"|^python examples/(train\.py|checkpoint_folder\.py publish)\b"
)
"""Commands that run until they are told to end."""
CTRL_C = re.compile(r"^python | --watch\b")
"""Commands that a person ends in their terminal."""
SERVES = re.compile(r"^shardcast-(origin|middle|backup)\b")
"""Commands that say where they listen."""
CONTINUED = re.compile(r" *\\\n *")
EXIT_CODE = re.compile(r"exit code (\d+)")
"""What a comment of a block says of a command that fails on purpose."""
VARIABLES = "# variables\n"
"""First line of a block that each terminal begins with."""
TOP_LEVEL = """
import ast, asyncio, inspect, pathlib
code = compile({text!r}, {name!r}, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
if __name__ == "__main__":
    running = eval(code)
    if inspect.iscoroutine(running):
        async def run():
            await running
        asyncio.run(run())
"""
"""A program that runs a block in which coroutines are awaited, as an interactive interpreter does."""
DEADLINE = 60.0
"""Seconds for a block to end."""


@dataclass(frozen=True)
class Staying:
    """A command that stays.

    Attributes:
        line: the command.
        process: its process.
        out: file of its stdout.
        err: file of its stderr.
    """

    line: str
    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    @property
    def told(self) -> str:
        """All that it has written."""
        return self.out.read_text() + self.err.read_text()

    def has_begun(self) -> bool:
        """Return whether it serves, or has written its first result; raise where it has ended instead."""
        text, sign = (self.told, "Listening on") if SERVES.search(self.line) else (self.out.read_text(), "\n")
        assert sign in text or self.process.poll() is None, f"{self.line}: ended\n{self.told}"
        return sign in text


class PageShell:
    """Runs blocks in a folder, with replacements for hosts, ports and paths."""

    def __init__(self, folder: Path, replacements: Mapping[str, str], **variables: str) -> None:
        """Run in ``folder``, with these replacements of regular expressions and environment variables."""
        self.folder = folder
        self.staying: list[Staying] = []
        self._replacements = replacements
        self._variables = ""
        programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        self._env = processes.environment(PATH=programs, PYTHONPATH=str(ROOT), **variables)

    def run(self, block: str) -> str:
        """Run a block of shell commands, and return the stdout; commands that stay go on when they serve."""
        block = self._replaced(block)
        if block.startswith(VARIABLES):
            self._variables = block
            return ""
        return "".join(self._start(part) if STAYS.search(part) else self._run(part) for part in parts(block))

    def run_python(self, block: str, before: str = "") -> str:
        """Run a block of Python after the lines of ``before``, and return the stdout."""
        text = before + self._replaced(block)
        done = self._end([sys.executable, "-c", TOP_LEVEL.format(text=text, name="block")], text)
        assert done.returncode == 0, f"{text}\n{done.stderr}"
        return done.stdout

    def end(self) -> None:
        """End the commands that stay as their users do, the newest first; all end well."""
        for one in reversed(self.staying):
            one.process.send_signal(signal.SIGINT if CTRL_C.search(one.line) else signal.SIGTERM)
            code = one.process.wait(30)
            assert code == (130 if "--watch" in one.line else 0), f"{one.line}: {code}\n{one.told}"
            assert "Traceback" not in one.told

    def kill(self) -> None:
        """Kill the commands that still run."""
        for one in self.staying:
            one.process.kill()
            one.process.wait(10)

    def _replaced(self, text: str) -> str:
        """Return a text with this run's hosts, ports and paths."""
        for pattern, replacement in self._replacements.items():
            text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
        return text

    def _run(self, script: str) -> str:
        """Run a script to its end, with the exit code that it names, or success."""
        done = self._end(["bash", "-e", "-c", self._variables + script], script)
        named = EXIT_CODE.search(script)
        assert done.returncode == (int(named[1]) if named else 0), f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _end(self, words: list[str], text: str) -> subprocess.CompletedProcess[str]:
        """Run a program to its end without a traceback; kill it, and all that it began, at the deadline."""
        pipe = subprocess.PIPE
        with subprocess.Popen(
            words, cwd=self.folder, env=self._env, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        ) as process:
            try:
                stdout, stderr = process.communicate(timeout=DEADLINE)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        assert "Traceback" not in stderr, f"{text}\n{stderr}"
        return subprocess.CompletedProcess(words, process.returncode, stdout, stderr)

    def _start(self, line: str) -> str:
        """Start a command that stays, and return its stdout once it has begun."""
        out, err = (self.folder / f".terminal-{len(self.staying)}.{kind}" for kind in ("out", "err"))
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                ["bash", "-c", f"{self._variables}exec {line}"],
                cwd=self.folder, env=self._env, stdout=stdout, stderr=stderr,
            )  # fmt: skip
        started = Staying(line, process, out, err)
        self.staying.append(started)
        processes.wait_until(started.has_begun, DEADLINE, what=line)
        return out.read_text()


@contextmanager
def page_shell(folder: Path, replacements: Mapping[str, str], **variables: str) -> Iterator[PageShell]:
    """Run blocks in ``folder`` within the block, at whose end no command is left."""
    shell = PageShell(folder, replacements, **variables)
    try:
        yield shell
        shell.end()
    finally:
        shell.kill()


def parts(block: str) -> Iterator[str]:
    """Yield the parts of a block: each command that stays, and the scripts between them."""
    lines = CONTINUED.sub(" ", block).splitlines()
    if not any(map(STAYS.search, lines)):
        yield block
        return
    script: list[str] = []
    for line in lines:
        if not STAYS.search(line):
            script.append(line)
            continue
        if script:
            yield "\n".join(script)
        script = []
        yield line
    if script:
        yield "\n".join(script)
