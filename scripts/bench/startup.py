"""Time that commands take to start: until they end, and until their first request arrives."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import peers
from harness import Aim, Case, Comparison, Failed, Run, Settings, Side, interleave
from processes import client_words, run_command, running

PATIENCE = 30.0
"""Seconds that a first request may take."""
Words = Callable[[str], Sequence[str]]
"""A client's command, for the URL of the server it shall ask."""


def compare(settings: Settings) -> Iterator[Comparison]:
    """Run the case's comparisons, and yield each as it is ready."""
    with settings.places.memory.folder("startup") as folder:
        old = old_client("0.1.0", folder)
        sides = [
            Side("ours, --help", lambda: whole(client_words("--help"))),
            Side("ours, first request", lambda: first_request(our_client(folder), folder)),
            Side("shardcast 0.1.0, --help", lambda: whole([*old("")[:-4], "--help"])),
            Side("shardcast 0.1.0, first request", lambda: first_request(old, folder)),
            Side("python, nothing", lambda: whole([sys.executable, "-c", ""])),
            Side("python, import aiohttp", lambda: whole([sys.executable, "-c", "import aiohttp"])),
        ]
        results = interleave(sides, settings.runs)
    by_name = {result.name: result for result in results}
    aims = [
        Aim("shardcast-client --help, s", by_name["ours, --help"].median(), most=0.25),
        Aim("until its first request, s", by_name["ours, first request"].median(), most=0.4),
    ]
    notes = ["first request: from the start of the process until a socket gets the first byte."]
    yield Comparison("Start-up", results, aims=aims, notes=notes)


def our_client(folder: Path) -> Words:
    """Return our client's command for a URL."""
    return lambda url: client_words("--servers", url, "--version", "latest", "--output-dir", str(folder))


def old_client(version: str, folder: Path) -> Words:
    """Return an old client's command for a URL."""

    def words(url: str) -> list[str]:
        shardcast = peers.OldShardcast(version)
        return shardcast.words(folder, "client", "--servers", url, "--version", "v1")

    return words


def whole(words: Sequence[str]) -> Run:
    """Measure a command from its start to its end."""
    ended = run_command(words)
    return Run(ended.seconds, ended.usage.cpu_seconds, ended.usage.peak_memory)


def first_request(words: Words, folder: Path) -> Run:
    """Measure a client until a server gets its first byte."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        door.settimeout(PATIENCE)
        with running(words(f"http://127.0.0.1:{door.getsockname()[1]}"), cwd=folder) as client:
            try:
                connection, _ = door.accept()
                with connection:
                    connection.settimeout(PATIENCE)
                    connection.recv(1)
            except TimeoutError as error:
                raise Failed(f"no request within {PATIENCE:g} s") from error
            seconds = time.monotonic() - client.started
            return Run(seconds, client.usage().cpu_seconds, client.usage().peak_memory)


CASE = Case("startup", "how long commands take to start, and until their first request", compare, quick=False)
