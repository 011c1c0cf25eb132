"""A client of servers that keep blobs, as cheap as can be, which takes bytes and does nothing with them.

    get HOST:PORT DIGEST SIZE HOW          one blob: discarded by the system, copied, or checked
    put HOST:PORT DIGEST FILE              a file as a blob
    many put|get HOST:PORT CONNECTIONS LENGTH FILE     the file, cut into blobs of LENGTH bytes
    pull HOST:PORT LENGTH FILE TIMES       these, in one pull of an archive, and again
    has HOST:PORT COUNT ASKED TIMES        which of ASKED blobs are there, and of others; see ``name``

Prints the seconds from the first request until the end of the last answer, over TIMES where that is told, as
JSON. Connections are made, and requests put together, before; what came is looked at after that. It fails
where it isn't what it should be.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import re
import resource
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

_BUFFER = memoryview(bytearray(256 << 10))
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_BLANK = b"\r\n\r\n"


def tell(seconds: float) -> None:
    """Print the wall and CPU seconds as JSON."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"seconds": seconds, "cpu_seconds": used.ru_utime + used.ru_stime}))


def connect(address: str) -> socket.socket:
    """Open a connection."""
    host, _, port = address.rpartition(":")
    plug = socket.create_connection((host, int(port)))
    plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return plug


def head(method: str, path: str, length: int | None = None) -> bytes:
    """Return the head of a request."""
    body = "" if length is None else f"Content-Length: {length}\r\n"
    return f"{method} {path} HTTP/1.1\r\nHost: blobs\r\n{body}\r\n".encode()


def answered(plug: socket.socket) -> bytes:
    """Return the first bytes of an answer: its whole head and perhaps more."""
    data = b""
    while _BLANK not in data:
        more = plug.recv(64 << 10)
        if not more:
            raise ConnectionError(f"cut off after {data!r}")
        data += more
    return data


# ── A large blob ──────────────────────────────────────────────────────────────────────────────────


def get(address: str, digest: str, size: str, how: str) -> None:
    """Fetch a blob, and print the seconds."""
    left, plug, hasher = int(size), connect(address), hashlib.sha256()
    flags = socket.MSG_TRUNC if how == "discarded" else 0  # nothing is copied then (tcp(7))
    started = time.monotonic()
    plug.sendall(head("GET", f"/{digest}"))
    before, _, data = answered(plug).partition(_BLANK)
    status = before.splitlines()[0]
    assert status.split()[1] == b"200", status
    hasher.update(data)
    left -= len(data)
    while left > 0:
        got = plug.recv_into(_BUFFER, 0, flags)
        if not got:
            raise ConnectionError(f"cut off {left} bytes before the end")
        left -= got
        if how == "checked":
            hasher.update(_BUFFER[:got])
    tell(time.monotonic() - started)
    assert left == 0, f"{-left} bytes too many"
    assert how != "checked" or hasher.hexdigest() == digest, "it has another digest"


def put(address: str, digest: str, path: str) -> None:
    """Send a file as a blob, and print the seconds."""
    plug = connect(address)
    with Path(path).open("rb") as file:
        started = time.monotonic()
        plug.sendall(head("PUT", f"/{digest}", Path(path).stat().st_size))
        plug.sendfile(file)
        status = answered(plug).splitlines()[0]
        tell(time.monotonic() - started)
    assert status.split()[1] == b"200", status


# ── Many small ones ───────────────────────────────────────────────────────────────────────────────


class Line:
    """A connection with requests that go out one after the other, and their answers."""

    def __init__(self, address: str, requests: Sequence[bytes]) -> None:
        self.plug = connect(address)
        self.plug.setblocking(False)
        self.answers: list[tuple[bytes, bytes]] = []
        self._requests = iter(requests)
        self._data = b""

    def ask(self) -> bool:
        """Send the next request; False where there are no more."""
        request = next(self._requests, None)
        if request is None:
            return False
        sent = self.plug.send(request)
        assert sent == len(request), "the system has no room for a request"
        return True

    def take(self) -> bool:
        """Take the bytes that came; return whether an answer is whole."""
        data = self.plug.recv(64 << 10)
        if not data:
            raise ConnectionError(f"cut off after {self._data!r}")
        self._data += data
        end = self._data.find(_BLANK)
        if end < 0:
            return False
        found = _LENGTH.search(self._data, 0, end)
        begin = end + len(_BLANK)
        if len(self._data) - begin < (int(found[1]) if found else 0):
            return False
        self.answers.append((self._data[:end], self._data[begin:]))
        self._data = b""
        return True


def cut(path: str, length: int) -> tuple[list[bytes], list[str]]:
    """Return the blobs in a file, and their digests."""
    whole = Path(path).read_bytes()
    blobs = [whole[start : start + length] for start in range(0, len(whole), length)]
    return blobs, [hashlib.sha256(one).hexdigest() for one in blobs]


def many(method: str, address: str, connections: str, length: str, path: str) -> None:
    """Send many requests over several connections, and print the seconds."""
    blobs, digests = cut(path, int(length))
    if method == "put":
        requests = [head("PUT", f"/{d}", len(b)) + b for b, d in zip(blobs, digests, strict=True)]
    else:
        requests = [head("GET", f"/{one}") for one in digests]
    count = int(connections)
    lines = [Line(address, requests[number::count]) for number in range(count)]
    busy = {line.plug.fileno(): line for line in lines}
    poll = select.epoll()
    for number in busy:
        poll.register(number, select.EPOLLIN)
    started = time.monotonic()
    for line in lines:
        if not line.ask():
            del busy[line.plug.fileno()]
    while busy:
        for number, _ in poll.poll():
            line = busy[number]
            if line.take() and not line.ask():
                del busy[number]
                poll.unregister(number)
    tell(time.monotonic() - started)
    for number, line in enumerate(lines):
        for (before, body), blob in zip(line.answers, blobs[number::count], strict=True):
            status = before.splitlines()[0]
            assert status.split()[1] == b"200", status
            assert method == "put" or body == blob, "it has another digest"


def pull(address: str, length: str, path: str, times: str) -> None:
    """Pull blobs, and print the seconds."""
    blobs, digests = cut(path, int(length))
    body = b"".join(bytes.fromhex(d) + struct.pack(">Q", len(b)) for b, d in zip(blobs, digests, strict=True))
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port))
    connection.connect()
    came: list[tuple[int, bytes]] = []
    started = time.monotonic()
    for _ in range(int(times)):
        connection.request("POST", "/v1/pull", body)
        answer = connection.getresponse()
        came.append((answer.status, answer.read()))
    tell((time.monotonic() - started) / len(came))
    expected = b"".join(bytes.fromhex(d) + b for b, d in zip(blobs, digests, strict=True))
    for status, data in came:
        assert status == 200, status
        assert data == expected, f"{len(data)} bytes came that are not these blobs"


# ── Which are there ───────────────────────────────────────────────────────────────────────────────


def name(number: int) -> str:
    """Return the digest for a number; those below COUNT exist."""
    return hashlib.sha256(str(number).encode()).hexdigest()


def asked(count: int, each: int, times: int) -> Iterator[tuple[bytes, list[bool]]]:
    """Yield lists of digests, half of which exist, and which do."""
    chance = random.Random(count)
    for _ in range(times):
        numbers = [chance.randrange(2 * count) for _ in range(each)]
        body = json.dumps([name(one) for one in numbers]).encode()
        yield body, [one < count for one in numbers]


def has(address: str, count: str, each: str, times: str) -> None:
    """Ask for lists of digests, check the answers, and print the seconds."""
    wanted = list(asked(int(count), int(each), int(times)))
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port))
    connection.connect()
    came: list[tuple[int, bytes]] = []
    started = time.monotonic()
    for body, _ in wanted:
        connection.request("GET", "/has", body)
        answer = connection.getresponse()
        came.append((answer.status, answer.read()))
    tell((time.monotonic() - started) / len(wanted))
    for (status, body), (_, there) in zip(came, wanted, strict=True):
        assert status == 200, status
        assert json.loads(body) == there, "it told of blobs that are not there, or not of all"


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    {"get": get, "put": put, "many": many, "pull": pull, "has": has}[what](*words)
