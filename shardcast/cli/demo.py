"""``shardcast demo``: a whole network on this machine, from a file to six verified copies."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click

from shardcast.cli import options
from shardcast.errors import IntegrityError, LocalDiskError, NodeFailed
from shardcast.json_text import parse_json
from shardcast.nodes.child_process import NodeProcess, deferred_interrupts, start_command
from shardcast.sharding.publishing import check_payload
from shardcast.sizes import format_rate, format_size

_SIZE = 300_000_000
"""Bytes of the demo's own file, made if none is given."""
_COPIES = 7
"""Copies of the file on the disk: the file itself, and those of the origin, two middles and three clients."""
_MIDDLES, _CLIENTS = 2, 3
_STEP_TIMEOUT = 600.0
"""Maximum seconds of a step, on the slowest disk."""
_LOG_PREFIX = re.compile(r"^\d\d:\d\d:\d\d +(INFO|WARNING|ERROR) +")
_COLOURS = {"origin": "green", "middle": "yellow", "client": "cyan", "demo": "white"}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("path", required=False, type=click.Path(path_type=Path, readable=False))
@options.json_option
@options.logging_options
def demo(path: Path | None, as_json: bool) -> None:
    """Broadcast PATH through an origin, two middles and three clients, all on this machine.

    Without PATH, a file of some 300 MB is made. The demo ends by itself and leaves nothing behind.
    """
    options.start_logging()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up then, too
    for name in ("TOKENS", "CERTIFICATE", "KEY", "CLIENT_CA"):
        os.environ.pop(f"SHARDCAST_{name}", None)  # its nodes are here alone, and its clients show nothing
    if path and stat.S_ISDIR(check_payload(path).st_mode):
        raise click.UsageError(f"{path} is a folder, and the demo broadcasts a file")
    with tempfile.TemporaryDirectory(prefix="shardcast-demo-") as folder:
        results = _Demo(Path(folder), options.is_quiet()).run(path)
    if as_json:
        click.echo(json.dumps(results))


@dataclass
class _Demo:
    """A run of the demo, with all its files in one folder."""

    folder: Path
    quiet: bool
    started: float = field(default_factory=time.monotonic)

    def run(self, path: Path | None) -> dict[str, Any]:
        """Broadcast the file, and compare the copies.

        Args:
            path: the file; None to make one of random bytes.

        Returns:
            The result in the form of the JSON output.

        Raises:
            LocalDiskError: there is too little room for the copies.
            NodeFailed: a process failed.
            IntegrityError: the copies differ.
        """
        payload = path.absolute() if path else self._make_payload()
        size = payload.stat().st_size
        free = shutil.disk_usage(self.folder).free
        if free < (_COPIES - 1) * size:
            raise LocalDiskError(
                f"the demo needs {format_size((_COPIES - 1) * size)} in {self.folder.parent}, and "
                f"{format_size(free)} are free; set TMPDIR to a folder with more room"
            )
        with contextlib.ExitStack() as stack:
            origin = stack.enter_context(self._node("origin", "origin", []))
            middles = [
                stack.enter_context(
                    self._node(f"middle {n}", "middle", ["--upstream", origin.url, "--check-interval", "1"])
                )
                for n in range(1, _MIDDLES + 1)
            ]
            version = self._broadcast(payload)
            for middle in middles:
                middle.wait_for(f"{version} is complete")
            servers = [middle.url for middle in middles]
            clients = [
                stack.enter_context(self._client(f"client {n}", payload.name, servers))
                for n in range(1, _CLIENTS + 1)
            ]
            releases = [client.wait() for client in clients]
        digests = self._sha256sum([payload, *(client.output for client in clients)])
        self._show(payload, size, digests, releases)
        return {"file": str(payload), "size": size, "sha256": digests[0], "clients": releases}

    def log(self, source: str, text: str) -> None:
        """Print a line of a process, with the seconds since the start; nothing with ``--quiet``."""
        if not self.quiet:
            elapsed = click.style(f"{time.monotonic() - self.started:6.2f} s", dim=True)
            name = click.style(f"{source:<9}", fg=_COLOURS.get(source.split()[0]), bold=True)
            click.echo(f"{elapsed}  {name} {text}", err=True)

    def _make_payload(self) -> Path:
        """Make a file of random bytes, and return the path."""
        self.log("demo", f"making a file of {format_size(_SIZE)} of random bytes")
        payload = self.folder / "checkpoint.bin"
        with payload.open("wb") as file:
            for _ in range(_SIZE // 1_000_000):
                file.write(os.urandom(1_000_000))
        return payload

    @contextlib.contextmanager
    def _node(self, name: str, role: str, options: list[str]) -> Iterator[_Node]:
        """Run a listening node until the end of the block."""
        options = ["--data-dir", str(self.folder / name.replace(" ", "")), *options]
        with _stopped_at_end(
            lambda: _Node(name, role, [*options, "--host", "127.0.0.1", "--port", "0"], self.log)
        ) as node:
            node.wait_until_listening()
            yield node

    def _client(self, name: str, file: str, servers: list[str]) -> contextlib.AbstractContextManager[_Client]:
        """Run a client to download the latest version, at most until the end of the block."""
        output = self.folder / name.replace(" ", "") / file
        return _stopped_at_end(lambda: _Client(name, output, servers, self.log))

    def _broadcast(self, payload: Path) -> str:
        """Publish the file through the origin, and return the version's name."""
        from shardcast.control.client import publish

        version = ""
        self.log("demo", f"$ shardcast broadcast {payload.name}")
        for message in publish(self.folder / "origin", payload):
            version = str(message.get("version", version))
        return version

    def _sha256sum(self, files: list[Path]) -> list[str]:
        """Return the files' digests, computed by another program than ours.

        Raises:
            NodeFailed: ``sha256sum`` failed.
            IntegrityError: the digests differ.
        """
        self.log("demo", "$ sha256sum the file and the copies")
        try:
            done = subprocess.run(["sha256sum", *map(str, files)], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise NodeFailed(f"sha256sum could not check the copies: {error}") from error
        digests = [line.split()[0].lstrip("\\") for line in done.stdout.splitlines()]
        if len(set(digests)) != 1:
            raise IntegrityError(f"the copies differ: {', '.join(digests)}")
        return digests

    def _show(self, payload: Path, size: int, digests: list[str], releases: list[dict[str, Any]]) -> None:
        """Print a table of the clients: seconds, rate, bytes from each middle."""
        if self.quiet:
            return
        from rich.console import Console
        from rich.table import Table

        table = Table(title=f"{payload.name}: {format_size(size)}, sha256 {digests[0]}", title_justify="left")
        for column in ("", "seconds", "rate", "from the middles", "sha256sum"):
            table.add_column(column, justify="right" if column in ("seconds", "rate") else "left")
        for number, release in enumerate(releases, 1):
            sources = " + ".join(format_size(received) for received in release["received"].values())
            rate = format_rate(size / max(release["seconds"], 1e-3))
            table.add_row(f"client {number}", f"{release['seconds']:.2f}", rate, sources, "the same")
        Console(stderr=True).print(table)


class _Stoppable(Protocol):
    """A process of the demo."""

    def stop(self) -> None:
        """End the process and release the pipes."""


_Started = TypeVar("_Started", bound=_Stoppable)


@contextlib.contextmanager
def _stopped_at_end(start: Callable[[], _Started]) -> Iterator[_Started]:
    """Start a process, and stop it at the end of the block, even after an interrupt."""
    started: _Started | None = None
    try:
        # An interrupt between the fork and the assignment would leave a process without an owner.
        with deferred_interrupts():
            started = start()
        yield started
    finally:
        if started:
            started.stop()


class _ProcessLog:
    """The lines of a process on stderr, passed to ``log`` as they come."""

    def __init__(self, name: str, log: Any) -> None:
        self.name = name
        self.lines: list[str] = []
        self._log = log
        self._news = threading.Condition()

    def read(self, stream: Any) -> None:
        """Read the lines until the stream ends; runs in a thread."""
        for line in stream:
            text = _LOG_PREFIX.sub("", line.decode(errors="replace").rstrip())
            with self._news:
                self.lines.append(text)
                self._news.notify_all()
            self._log(self.name, text)

    def wait_for(self, text: str) -> None:
        """Wait until a line contains ``text``.

        Raises:
            NodeFailed: none did in time.
        """
        with self._news:
            if not self._news.wait_for(lambda: any(text in line for line in self.lines), _STEP_TIMEOUT):
                raise NodeFailed(f"{self.name} did not say {text!r} within {_STEP_TIMEOUT:g} s")


class _Node:
    """An origin or a middle in a process, with the log."""

    def __init__(self, name: str, role: str, options: list[str], log: Any) -> None:
        """Start the process.

        Raises:
            NodeFailed: the process could not start.
        """
        self._log = _ProcessLog(name, log)
        read, write = os.pipe()
        try:
            self._process = NodeProcess(role, options, log=write)
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        self._stream = os.fdopen(read, "rb")
        self._reader = threading.Thread(target=self._log.read, args=(self._stream,), daemon=True)
        self._reader.start()

    @property
    def url(self) -> str:
        """Base URL of the node."""
        return self._process.url

    def wait_until_listening(self) -> None:
        """Wait until the node serves.

        Raises:
            NodeFailed: the node could not start.
        """
        self._process.wait_until_listening()

    def wait_for(self, text: str) -> None:
        """Wait until a line of the node's log contains ``text``.

        Raises:
            NodeFailed: none did in time.
        """
        self._log.wait_for(text)

    def stop(self) -> None:
        """End the process, and read the rest of the log."""
        self._process.stop()
        self._reader.join(5)
        self._stream.close()


class _Client:
    """A running client command, with the log."""

    def __init__(self, name: str, output: Path, servers: list[str], log: Any) -> None:
        """Start the command."""
        self.name = name
        self.output = output
        self._log = log
        words = ["client", "--servers", ",".join(servers), "--version", "latest", "--json"]
        log(name, "$ shardcast-client --servers … --version latest")
        self._process = start_command(
            [*words, "--output-file", str(output)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._stderr = _ProcessLog(name, log)
        self._reader = threading.Thread(target=self._stderr.read, args=(self._process.stderr,), daemon=True)
        self._reader.start()

    def wait(self) -> dict[str, Any]:
        """Wait for the end of the command, and return the result.

        Raises:
            NodeFailed: the command failed.
        """
        assert self._process.stdout
        printed = self._process.stdout.read()
        code = self._process.wait()
        self._reader.join(5)
        if code:
            raise NodeFailed(f"{self.name} ended with exit code {code}: {' '.join(self._stderr.lines[-1:])}")
        release: dict[str, Any] = parse_json(printed)
        self._log(self.name, f"has {release['version']}, verified, after {release['seconds']:.2f} s")
        return release

    def stop(self) -> None:
        """End the command, if still running."""
        assert self._process.stdout and self._process.stderr
        self._process.kill()
        self._process.wait()
        self._reader.join(5)
        self._process.stdout.close()
        self._process.stderr.close()
