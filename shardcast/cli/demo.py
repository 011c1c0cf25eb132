"""``shardcast demo``: a whole network on this machine, from a file to six verified copies of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
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
from shardcast.nodes.child_process import NodeProcess, deferred_interrupts, start_command
from shardcast.sharding.publishing import check_payload
from shardcast.sizes import format_rate, format_size

_SIZE = 300_000_000
"""Bytes of the file that is made when none is given."""
_COPIES = 7
"""How often the demo has the file on the disk: itself, in the origin, two middles, and three clients."""
_MIDDLES, _CLIENTS = 2, 3
_PATIENCE = 600.0
"""Seconds for one step, on the slowest disk."""
_STAMP = re.compile(r"^\d\d:\d\d:\d\d +(INFO|WARNING|ERROR) +")
_COLOURS = {"origin": "green", "middle": "yellow", "client": "cyan", "demo": "white"}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("path", required=False, type=click.Path(path_type=Path, readable=False))
@options.json_option
@options.logging_options
def demo(path: Path | None, as_json: bool) -> None:
    """Broadcast PATH through an origin, two middles and three clients, all on this machine.

    Without PATH it makes a file of some 300 MB. It ends by itself and leaves nothing behind.
    """
    options.start_logging()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up then, too
    if path:
        check_payload(path)
    with tempfile.TemporaryDirectory(prefix="shardcast-demo-") as folder:
        results = _Demo(Path(folder), options.is_quiet()).run(path)
    if as_json:
        click.echo(json.dumps(results))


@dataclass
class _Demo:
    folder: Path
    quiet: bool
    begun: float = field(default_factory=time.monotonic)

    def run(self, path: Path | None) -> dict[str, Any]:
        payload = path.absolute() if path else self._make_payload()
        size = payload.stat().st_size
        room = shutil.disk_usage(self.folder).free
        if room < (_COPIES - 1) * size:
            raise LocalDiskError(
                f"the demo needs {format_size((_COPIES - 1) * size)} in {self.folder.parent}, and "
                f"{format_size(room)} are free; set TMPDIR to a folder with more room"
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
            for one in middles:
                one.wait_for(f"{version} is complete")
            servers = [middle.url for middle in middles]
            clients = [
                stack.enter_context(self._client(f"client {n}", payload.name, servers))
                for n in range(1, _CLIENTS + 1)
            ]
            releases = [client.wait() for client in clients]
        digests = self._sha256sum([payload, *(client.output for client in clients)])
        self._show(payload, size, digests, releases)
        return {"file": str(payload), "size": size, "sha256": digests[0], "clients": releases}

    def say(self, who: str, what: str) -> None:
        if not self.quiet:
            stamp = click.style(f"{time.monotonic() - self.begun:6.2f} s", dim=True)
            name = click.style(f"{who:<9}", fg=_COLOURS.get(who.split()[0]), bold=True)
            click.echo(f"{stamp}  {name} {what}", err=True)

    def _make_payload(self) -> Path:
        self.say("demo", f"making a file of {format_size(_SIZE)} of random bytes")
        payload = self.folder / "checkpoint.bin"
        with payload.open("wb") as file:
            for _ in range(_SIZE // 1_000_000):
                file.write(os.urandom(1_000_000))
        return payload

    @contextlib.contextmanager
    def _node(self, name: str, role: str, words: list[str]) -> Iterator[_Node]:
        words = ["--data-dir", str(self.folder / name.replace(" ", "")), *words]
        with _ending(
            lambda: _Node(name, role, [*words, "--host", "127.0.0.1", "--port", "0"], self.say)
        ) as node:
            node.wait_until_listening()
            yield node

    def _client(self, name: str, file: str, servers: list[str]) -> contextlib.AbstractContextManager[_Client]:
        output = self.folder / name.replace(" ", "") / file
        return _ending(lambda: _Client(name, output, servers, self.say))

    def _broadcast(self, payload: Path) -> str:
        from shardcast.control.client import publish

        version = ""
        self.say("demo", f"$ shardcast broadcast {payload.name}")
        for said in publish(self.folder / "origin", payload):
            version = str(said.get("version", version))
        return version

    def _sha256sum(self, files: list[Path]) -> list[str]:
        self.say("demo", "$ sha256sum the file and the copies")
        try:
            done = subprocess.run(["sha256sum", *map(str, files)], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise NodeFailed(f"sha256sum could not check the copies: {error}") from error
        digests = [line.split()[0].lstrip("\\") for line in done.stdout.splitlines()]
        if len(set(digests)) != 1:
            raise IntegrityError(f"the copies differ: {', '.join(digests)}")
        return digests

    def _show(self, payload: Path, size: int, digests: list[str], releases: list[dict[str, Any]]) -> None:
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
    def stop(self) -> None: ...


_Started = TypeVar("_Started", bound=_Stoppable)


@contextlib.contextmanager
def _ending(start: Callable[[], _Started]) -> Iterator[_Started]:
    """Start something, and stop it at the end; an interrupt at any moment leaves nothing running."""
    started: _Started | None = None
    try:
        with deferred_interrupts():
            started = start()
        yield started
    finally:
        if started:
            started.stop()


class _Said:
    """What a process says on stderr, told on as it comes."""

    def __init__(self, name: str, tell: Any) -> None:
        self.name = name
        self.lines: list[str] = []
        self._tell = tell
        self._news = threading.Condition()

    def read(self, stream: Any) -> None:
        for line in stream:
            text = _STAMP.sub("", line.decode(errors="replace").rstrip())
            with self._news:
                self.lines.append(text)
                self._news.notify_all()
            self._tell(self.name, text)

    def wait_for(self, text: str) -> None:
        with self._news:
            if not self._news.wait_for(lambda: any(text in line for line in self.lines), _PATIENCE):
                raise NodeFailed(f"{self.name} did not say {text!r} within {_PATIENCE:g} s")


class _Node:
    """An origin or a middle."""

    def __init__(self, name: str, role: str, words: list[str], tell: Any) -> None:
        self._said = _Said(name, tell)
        read, write = os.pipe()
        try:
            self._process = NodeProcess(role, words, log=write)
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        self._stream = os.fdopen(read, "rb")
        self._reader = threading.Thread(target=self._said.read, args=(self._stream,), daemon=True)
        self._reader.start()

    @property
    def url(self) -> str:
        return self._process.url

    def wait_until_listening(self) -> None:
        self._process.wait_until_listening()

    def wait_for(self, text: str) -> None:
        self._said.wait_for(text)

    def stop(self) -> None:
        self._process.stop()
        self._reader.join(5)
        self._stream.close()


class _Client:
    """A client command under way."""

    def __init__(self, name: str, output: Path, servers: list[str], tell: Any) -> None:
        self.name = name
        self.output = output
        self._tell = tell
        words = ["client", "--servers", ",".join(servers), "--version", "latest", "--json"]
        tell(name, "$ shardcast-client --servers … --version latest")
        self._process = start_command(
            [*words, "--output-file", str(output)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._said = _Said(name, tell)
        self._reader = threading.Thread(target=self._said.read, args=(self._process.stderr,), daemon=True)
        self._reader.start()

    def wait(self) -> dict[str, Any]:
        assert self._process.stdout
        printed = self._process.stdout.read()
        code = self._process.wait()
        self._reader.join(5)
        if code:
            raise NodeFailed(f"{self.name} ended with exit code {code}: {' '.join(self._said.lines[-1:])}")
        release: dict[str, Any] = json.loads(printed)
        self._tell(self.name, f"has {release['version']}, verified, after {release['seconds']:.2f} s")
        return release

    def stop(self) -> None:
        """End it, if it still runs."""
        assert self._process.stdout and self._process.stderr
        self._process.kill()
        self._process.wait()
        self._reader.join(5)
        self._process.stdout.close()
        self._process.stderr.close()
