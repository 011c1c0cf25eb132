"""Hash servers, ours and hashserver 1.0.2, as real processes; and requests to them."""

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
    """What came back; ``cut`` where it ended before its end."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: bool = False

    def json(self) -> object:
        return json.loads(self.body)


def ask(
    port: int,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 30,
) -> Answer:
    """One request over a connection of its own."""
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
    """What a server says of a list of checksums."""
    answer = ask(port, "GET", path, json.dumps(digests).encode())
    assert answer.status == 200, answer
    return answer.json()


class Later:
    """A request that is under way in a thread."""

    def __init__(self, port: int, method: str, path: str, body: bytes | None = None) -> None:
        self._answer: Answer | None = None

        def work() -> None:
            self._answer = ask(port, method, path, body)

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    @property
    def under_way(self) -> bool:
        return self._thread.is_alive()

    def answer(self, timeout: float = 30) -> Answer:
        self._thread.join(timeout)
        assert self._answer is not None, "no answer"
        return self._answer


@dataclass
class Ended:
    """How a command ended that was to serve."""

    code: int
    said: str


@contextlib.contextmanager
def started(
    words: list[str], env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[Running]:
    """Start a server and wait until it listens, or has ended; killed at the end if it still runs."""
    process = subprocess.Popen(
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
    """A server; ``port`` is 0 where it doesn't listen."""

    process: subprocess.Popen[str]
    port: int = 0
    said: str = ""
    up: threading.Event = field(default_factory=threading.Event)

    def read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if found := _UP.search(line):
                self.port = int(found[1])
                self.up.set()
        self.up.set()

    def ended(self, timeout: float = 30) -> Ended:
        """Wait until it has ended."""
        code = self.process.wait(timeout)
        self.up.wait(5)
        return Ended(code, self.said)


def ours(*words: str) -> list[str]:
    return processes.command("store", "serve", *words)


def theirs(folder: Path, *words: str) -> list[str]:
    return [sys.executable, "-I", "-c", HASHSERVER, str(folder), *words]


@contextlib.contextmanager
def serving(*words: str, env: Mapping[str, str] | None = None) -> Iterator[Running]:
    """Our hash server on a free port."""
    with started(ours(*words), env) as running:
        assert running.port, running.said
        yield running


def wait(condition: object, what: str, timeout: float = 20) -> None:
    """Wait until ``condition()`` is true."""
    assert callable(condition)
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


class Upload:
    """A PUT whose body comes as the test says."""

    def __init__(self, port: int, digest: str, length: int, *headers: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        lines = [f"PUT /{digest} HTTP/1.1", "Host: x", f"Content-Length: {length}", *headers]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def status(self) -> int:
        data = b""
        while b"\r\n\r\n" not in data:
            more = self.socket.recv(4096)
            assert more, data
            data += more
        return int(data.split(b" ")[1])

    def close(self) -> None:
        self.socket.close()


@contextlib.contextmanager
def uploading(port: int, digest: str, length: int, *headers: str) -> Iterator[Upload]:
    upload = Upload(port, digest, length, *headers)
    try:
        yield upload
    finally:
        upload.close()
