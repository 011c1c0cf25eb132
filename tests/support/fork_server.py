"""Program that has imported shardcast and becomes a command at each request of ``tests/support/forked.py``.

A command spends three quarters of its CPU time on imports. One that is forked off here has them done, and is
in all else what ``python -m shardcast`` starts: a child of the process that asks, with its own id, arguments,
environment, directory, standard streams, signals and end of the interpreter.
"""

from __future__ import annotations

import gc
import importlib
import io
import json
import os
import runpy
import signal
import socket
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

LENGTH = struct.Struct("!I")
"""Form of the length before a request."""
READY = b"."
"""What a server sends once it has imported all."""
LOADED = (
    "aiohttp.web", "rich.progress", "uvloop", "shardcast.blobs.server.hash_server",
    "shardcast.cli.blobs.gc", "shardcast.cli.blobs.objects", "shardcast.cli.blobs.serve",
    "shardcast.cli.blobs.verify", "shardcast.cli.broadcast", "shardcast.cli.client", "shardcast.cli.main",
    "shardcast.cli.middle", "shardcast.cli.origin", "shardcast.cli.pin", "shardcast.cli.withdraw",
    "shardcast.control.waiting", "shardcast.nodes.client", "shardcast.nodes.middle", "shardcast.nodes.origin",
    "shardcast.nodes.runtime",
)  # fmt: skip
"""Modules that a server imports: what the nodes and the commonest commands need."""
_LINK = 3
"""The descriptor of a server's socket, at which requests arrive."""


@dataclass(frozen=True)
class Request:
    """A request for a process.

    Attributes:
        parent: id of the process that asks.
        environment: the whole environment.
        words: arguments of the command; None for another server, which imports shardcast in that environment.
        umask: the umask.
        descriptors: a command's stdin, stdout, stderr and working directory; a server's socket.
    """

    parent: int
    environment: dict[str, str]
    words: list[str] | None
    umask: int
    descriptors: list[int]


def send(link: socket.socket, request: Request) -> int:
    """Send a request, and return the id of the new process."""
    body = {name: value for name, value in vars(request).items() if name != "descriptors"}
    data = json.dumps(body).encode()
    socket.send_fds(link, [LENGTH.pack(len(data))], request.descriptors)
    link.sendall(data)
    return int(link.recv(32))


def _receive(link: socket.socket) -> Request | None:
    """Return the next request; None at the end."""
    head, descriptors, *_ = socket.recv_fds(link, LENGTH.size, 4)
    if not head:
        return None
    with link.makefile("rb", buffering=0) as reader:
        data, (length,) = b"", LENGTH.unpack(head)
        while len(data) < length:
            data += reader.read(length - len(data))
    return Request(descriptors=descriptors, **json.loads(data))


def serve() -> Request | None:
    """Fork a process for each request until the other end is closed.

    Returns:
        In each forked process its request; None in the server, at the end.
    """
    with socket.socket(fileno=_LINK) as link:
        link.sendall(READY)
        while request := _receive(link):
            reader, writer = os.pipe()
            between = os.fork()  # ends at once, so that whoever asked adopts the process
            if not between:
                process = os.fork()
                if not process:
                    link.detach()
                    return request
                os.write(writer, b"%d" % process)
                os._exit(0)
            for descriptor in (writer, *request.descriptors):
                os.close(descriptor)
            os.waitpid(between, 0)
            link.sendall(os.read(reader, 32))
            os.close(reader)
    return None


def begin(request: Request) -> None:
    """Give this process the surroundings of its request, and no file that a new process would not have."""
    if request.words is None:
        os.dup2(request.descriptors[0], _LINK)
        first = _LINK + 1
    else:
        *streams, directory = request.descriptors
        os.fchdir(directory)
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
        first = _LINK
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))
    while os.getppid() != request.parent:
        time.sleep(0.0001)
    os.umask(request.umask)
    os.environ.clear()
    os.environ.update(request.environment)


def load() -> None:
    """Import shardcast as the environment is now: its settings are read at import."""
    _forget()
    try:
        for module in LOADED:
            importlib.import_module(module)
    except Exception as error:
        if type(error).__name__ != "UsageError":  # wrong settings, of which each command tells
            raise
        _forget()
    gc.collect()
    gc.freeze()  # the pages of what is loaded stay shared


def _forget() -> None:
    """Have shardcast imported anew."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "shardcast"]:
        del sys.modules[name]


def run(words: list[str]) -> None:
    """Run a command as ``python -m shardcast`` does."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.orig_argv[1:] = ["-m", "shardcast", *words]
    sys.argv[1:] = words
    sys.path[0] = str(Path.cwd())
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = _stream(number, getattr(sys, name))
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    runpy.run_module("shardcast", run_name="__main__", alter_sys=True)


def _stream(number: int, like: TextIO) -> TextIO:
    """Return a standard stream as an unbuffered interpreter (``PYTHONUNBUFFERED``) opens it."""
    binary: Any = io.FileIO(number, "w" if number else "r", closefd=False)
    if not number:
        binary = io.BufferedReader(binary)
    return io.TextIOWrapper(binary, like.encoding, like.errors, "\n", write_through=True)


def main() -> None:
    """Serve; in a forked process, be what was asked for."""
    load()
    while request := serve():
        begin(request)
        if request.words is not None:
            run(request.words)
            return
        load()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the tests
    os.dup2(int(sys.argv[1]), _LINK)
    main()
