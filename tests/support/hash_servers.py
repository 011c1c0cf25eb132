"""Hash servers, ours and hashserver 1.0.2, as real processes, and requests to them."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import processes

HASHSERVER = """
import sys

sys.path.insert(0, sys.argv.pop(1))
import hashserver

sys.argv[0] = "hashserver"
sys.exit(hashserver.main())
"""
"""Runs hashserver from its folder, whatever else this environment has."""
UVICORN = """
import sys

sys.path.insert(0, sys.argv.pop(1))
import uvicorn

sys.exit(uvicorn.main())
"""
_UP = re.compile(r"(?:running on|Listening on|Listening at:) http://[^:]+:(\d+)")


@dataclass(frozen=True)
class Answer:
    """Answer of a server; ``cut`` where the body ended before its announced length."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: bool = False

    def json(self) -> object:
        """Return the body, parsed."""
        return json.loads(self.body)


def request(
    port: int,
    method: str,
    path: str,
    body: bytes | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    timeout: float = 30,
) -> Answer:
    """Send a request, and return the answer, or the part of the answer that came."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body=body, headers=dict(headers or {}))
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        try:
            return Answer(answer.status, found, answer.read())
        except http.client.IncompleteRead as error:
            return Answer(answer.status, found, error.partial, cut=True)
        except ConnectionError:
            return Answer(answer.status, found, cut=True)
    finally:
        connection.close()


def listed(port: int, path: str, digests: list[str]) -> object:
    """Return the server's answer about a list of checksums."""
    answer = request(port, "GET", path, json.dumps(digests).encode())
    assert answer.status == 200, answer
    return answer.json()


class BackgroundRequest:
    """A request that runs in a thread."""

    def __init__(self, port: int, method: str, path: str, body: bytes | None = None) -> None:
        self._answer: Answer | None = None

        def work() -> None:
            self._answer = request(port, method, path, body)

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the answer has not come yet."""
        return self._thread.is_alive()

    def answer(self, timeout: float = 30) -> Answer:
        """Wait for the answer and return it."""
        self._thread.join(timeout)
        assert self._answer is not None, "no answer"
        return self._answer


@dataclass
class Ended:
    """End of a server's process: exit code and output."""

    code: int
    output: str


@contextlib.contextmanager
def started(
    words: list[str], env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[Running]:
    """Start a server, wait until it listens or has ended, and kill it at the end of the block."""
    process = processes.Popen(
        words,
        env=processes.environment(**(env or {})),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    running = Running(process)
    reader = threading.Thread(target=running.read, daemon=True)
    reader.start()
    try:
        running.up.wait(40)
        yield running
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        reader.join(5)
        assert process.stdout is not None
        process.stdout.close()


@dataclass
class Running:
    """Process of a server; ``port`` is 0 where it does not listen."""

    process: subprocess.Popen[str]
    port: int = 0
    output: str = ""
    up: threading.Event = field(default_factory=threading.Event)

    def read(self) -> None:
        """Read the output until it ends; the thread's function."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            if found := _UP.search(line):
                self.port = int(found[1])
                self.up.set()
        self.up.set()

    def ended(self, timeout: float = 30) -> Ended:
        """Wait until the process has ended."""
        code = self.process.wait(timeout)
        self.up.wait(5)
        return Ended(code, self.output)


def our_command(*words: str) -> list[str]:
    """Return the command that starts our hash server."""
    return processes.command("store", "serve", *words)


def hashserver_command(folder: Path, *words: str) -> list[str]:
    """Return the command that starts hashserver from its folder."""
    return [sys.executable, "-I", "-c", HASHSERVER, str(folder), *words]


def wait_until(condition: object, what: str, timeout: float = 20) -> None:
    """Wait until ``condition()`` is true, at most ``timeout`` seconds."""
    assert callable(condition)
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


class Upload:
    """A PUT whose body the test sends in parts."""

    def __init__(self, port: int, digest: str, length: int, *headers: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        lines = [f"PUT /{digest} HTTP/1.1", "Host: x", f"Content-Length: {length}", *headers]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())

    def send(self, data: bytes) -> None:
        """Send bytes of the body."""
        self.socket.sendall(data)

    def status(self) -> int:
        """Wait for the head of the answer, and return its status."""
        data = b""
        while b"\r\n\r\n" not in data:
            more = self.socket.recv(4096)
            assert more, data
            data += more
        return int(data.split(b" ")[1])

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()


@contextlib.contextmanager
def uploading(port: int, digest: str, length: int, *headers: str) -> Iterator[Upload]:
    """Open a PUT, and close its connection at the end of the block."""
    upload = Upload(port, digest, length, *headers)
    try:
        yield upload
    finally:
        upload.close()
