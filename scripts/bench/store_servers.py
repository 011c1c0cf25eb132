"""Servers that keep blobs, ours and hashserver, and the client that both get."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import peers
from harness import Run, Skipped
from nodes import own_seconds
from places import Payload, Place, Places
from processes import Running, program_words, run_command, running, shardcast_words, taken_by

_SELDOM = 10.0
_PREFIXES = [f"{number:02x}" for number in range(256)]


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs, and its directory, whose layout is by prefix."""

    process: Running
    address: str
    root: Path

    def file(self, digest: str) -> Path:
        """Return the path of a blob."""
        return self.root / digest[:2] / digest

    def ask(self, what: str, *words: str, method: str = "") -> Run:
        """Run the client; CPU and memory are the server's."""
        first = [what, method] if method else [what]
        client = program_words("blob_client", *first, self.address, *words)
        with taken_by(self.process) as taken:
            ended = run_command(client, look=_SELDOM)  # nobody else shall use the processor meanwhile
        return Run(own_seconds(ended), taken[0].cpu_seconds, taken[0].peak_memory)


@contextlib.contextmanager
def ours(root: Path, writable: bool = True) -> Iterator[Server]:
    """Run our hash server over a directory."""
    options = ["--host", "127.0.0.1", "--port", "0", *(["--writable"] if writable else [])]
    with running(shardcast_words("store", "serve", str(root), *options)) as process:
        yield Server(process, process.url().removeprefix("http://"), root)


@contextlib.contextmanager
def archive(root: Path) -> Iterator[Server]:
    """Run our archive over a directory."""
    options = ["--host", "127.0.0.1", "--port", "0"]
    with running(shardcast_words("archive", "serve", str(root), *options)) as process:
        yield Server(process, process.url().removeprefix("http://"), root)


@contextlib.contextmanager
def hashserver(root: Path, writable: bool = True) -> Iterator[Server]:
    """Run the real one over a directory, as its command does.

    Raises:
        Skipped: it isn't installed.
    """
    folder, port = peers.folder("hashserver"), peers.free_port()
    options = ["--port", str(port), *(["--writable"] if writable else [])]
    # -I: its own packages, and those of this environment only where it has none.
    words = [sys.executable, "-I", *program_words("hash_server", str(folder), str(root), *options)[1:]]
    with running(words) as process:
        process.wait_for(lambda: peers.listens(port), "listening")
        yield Server(process, f"127.0.0.1:{port}", root)


def keep(payload: Payload, root: Path) -> None:
    """Put a payload into a directory as a blob, by a hard link."""
    (root / payload.sha256[:2]).mkdir(parents=True, exist_ok=True)
    (root / payload.sha256[:2] / payload.sha256).hardlink_to(payload.path)


def keep_all(payload: Payload, length: int, root: Path) -> None:
    """Put a payload into a directory, cut into blobs of this length."""
    lay_out(root)
    data = payload.path.read_bytes()
    for start in range(0, len(data), length):
        blob = data[start : start + length]
        digest = hashlib.sha256(blob).hexdigest()
        (root / digest[:2] / digest).write_bytes(blob)


def keep_names(count: int, root: Path) -> None:
    """Put so many empty blobs into a directory, with the names that ``programs/blob_client.py`` asks for."""
    lay_out(root)
    place = str(root)
    for number in range(count):
        digest = hashlib.sha256(b"%d" % number).hexdigest()
        os.mknod(f"{place}/{digest[:2]}/{digest}", stat.S_IFREG | 0o444)


def lay_out(root: Path) -> None:
    """Make a directory of the prefix layout."""
    for prefix in _PREFIXES:
        (root / prefix).mkdir(parents=True, exist_ok=True)
    (root / ".HASHSERVER_PREFIX").write_text("1\n")


def with_names(places: Places, count: int) -> Place:
    """Return the place that has room for so many files, in memory if it can be.

    Raises:
        Skipped: none has.
    """
    for place in (places.memory, places.disk):
        if os.statvfs(place.root).f_favail > 2 * count:
            return place
    raise Skipped(f"no place has room for {count} files")
