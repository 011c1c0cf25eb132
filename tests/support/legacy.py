"""Published older shardcasts as real processes, and a server that shows what they get wrong.

A test module takes the fixtures by name: ``old = legacy.old``.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.client
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support import processes
from tests.support.commands import certified_environment

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

ROOT = Path(__file__).resolve().parents[2]

RUN = """
import sys, threading

folder, role, *words = sys.argv[1:]
sys.path.insert(0, folder)
import shardcast

assert shardcast.__file__.startswith(folder), shardcast.__file__

if role == "client":
    from shardcast.client_node import main

    sys.argv = ["shardcast-client", *words]
    sys.exit(main())
if role == "broadcast":
    data_dir, shard_size, *paths = words
    origin = shardcast.OriginServer(data_dir, 0)
    for path in paths:
        print(origin.broadcast(path, int(shard_size)))
    sys.exit()
if role == "origin":
    node = shardcast.OriginServer(words[0], 0)
else:
    data_dir, interval, *upstream = words
    node = shardcast.MiddleNode(upstream, data_dir, 0, int(interval))
print(f"Listening on http://127.0.0.1:{node.http_server.server_address[1]}", file=sys.stderr)
threading.Event().wait()
"""
"""Runs an old node from its folder on a port that the system picks: its own origin command can't
broadcast, and none of its commands tells which port 0 became."""

# The older ones heed a proxy, for 127.0.0.1 too; 0.3.x has settings of its own in SHARDCAST_*, which
# processes.environment leaves out.
DIRECTLY = {"no_proxy": "127.0.0.1,localhost", "NO_PROXY": "127.0.0.1,localhost"}


@functools.cache
def installed_peer(name: str) -> Path:
    """Return the folder of a published peer, installed if it is missing; skip where it can't be had."""
    peers = [sys.executable, str(ROOT / "scripts" / "peers")]
    install = [*peers, "install", "--quiet", name]
    made = subprocess.run(
        install, env=certified_environment(), capture_output=True, text=True, timeout=400, check=False
    )
    if made.returncode:
        pytest.skip(made.stderr.strip() or f"scripts/peers install {name} ended with {made.returncode}")
    found = subprocess.run([*peers, "path", name], capture_output=True, text=True, timeout=60, check=True)
    return Path(found.stdout.strip())


@dataclass(frozen=True)
class OldShardcast:
    """A published shardcast of one version, and its nodes as processes on 127.0.0.1."""

    folder: Path
    one_client_at_a_time: bool = False

    def _words(self, folder: Path, role: str, *words: str) -> list[str]:
        """Return the command that runs a role of the old package."""
        # -I: neither the working directory nor PYTHONPATH may put our package before theirs.
        return [sys.executable, "-I", "-c", RUN, str(folder), role, *words]

    @contextlib.contextmanager
    def _copy(self) -> Iterator[Path]:
        """Copy the package for one process.

        It keeps a temporary list beside its package, and its shards in the working directory, under names
        which two processes would share.
        """
        with tempfile.TemporaryDirectory(prefix="old-shardcast-") as place:
            shutil.copytree(self.folder / "shardcast", Path(place) / "shardcast")
            yield Path(place)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait until no other client of this version runs, in any process of the test run."""
        if not self.one_client_at_a_time or fcntl is None:
            yield
            return
        with self.folder.with_name(f".{self.folder.name}.client").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def broadcast(self, data_dir: Path, *payloads: Path, shard_size: int) -> list[str]:
        """Publish payloads with an old origin into a data directory, whether a node serves it or not."""
        done = subprocess.run(
            self._words(self.folder, "broadcast", str(data_dir), str(shard_size), *map(str, payloads)),
            env=processes.environment(**DIRECTLY),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    @contextlib.contextmanager
    def origin(self, data_dir: Path) -> Iterator[processes.Node]:
        """Run an old origin that serves a data directory."""
        with processes.started(self._words(self.folder, "origin", str(data_dir)), env=DIRECTLY) as running:
            assert running.url, f"did not listen:\n{running.log}"
            yield running

    @contextlib.contextmanager
    def middle(self, upstream: str, data_dir: Path, check_interval: int = 1) -> Iterator[processes.Node]:
        """Run an old middle below the servers in ``upstream`` (comma-separated URLs)."""
        with self._copy() as folder:
            words = self._words(folder, "middle", str(data_dir), str(check_interval), *upstream.split(","))
            with processes.started(words, env=DIRECTLY) as running:
                assert running.url, f"did not listen:\n{running.log}"
                yield running

    def client(self, *words: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run the old client's command to its end, whatever its exit code."""
        with self._turn(), self._copy() as folder:
            return subprocess.run(
                self._words(folder, "client", *words),
                env=processes.environment(**DIRECTLY),
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )

    @contextlib.contextmanager
    def running_client(self, *words: str) -> Iterator[processes.Node]:
        """Run the old client's command, and kill it at the end if it still runs."""
        with self._copy() as folder:
            words_of_client = self._words(folder, "client", *words)
            with processes.started(words_of_client, env=DIRECTLY, timeout=0) as running:
                yield running


@pytest.fixture(scope="session")
def old() -> OldShardcast:
    """Return shardcast 0.1.0, whose protocol ours keeps."""
    return OldShardcast(installed_peer("shardcast-0.1.0"))


@pytest.fixture(scope="session")
def newer_old() -> OldShardcast:
    """Return shardcast 0.3.2: five-digit shards, BLAKE3, and a client that runs wget."""
    # Its client looks there alone, and would install what it misses.
    if not all(shutil.which(tool, path="/bin:/usr/bin") for tool in ("which", "wget")):
        pytest.skip("shardcast 0.3.2's client needs wget in /usr/bin")
    # It measures a server through a file of a fixed name in /tmp.
    return OldShardcast(installed_peer("shardcast-0.3.2"), one_client_at_a_time=True)


def get(url: str, path: str = "") -> tuple[int, bytes]:
    """Return the status and body of one GET, without proxies or redirects."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
    try:
        connection.request("GET", f"{address.path}{path}" or "/")
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def listed(url: str) -> dict[str, str]:
    """Return a server's distribution list in its order: version to ``<digest>|<count>``."""
    try:
        status, body = get(url, "/distribution.txt")
    except (OSError, http.client.HTTPException):
        return {}
    if status != 200:
        return {}
    return {v: info for v, _, info in (line.partition(": ") for line in body.decode().splitlines())}


def sha256(path: Path) -> str:
    """Return the digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass
class PlainServer:
    """Static server over a data directory whose distribution list can be falsified.

    Attributes:
        url: base URL.
        lists: answers to the next requests of ``distribution.txt``.
        default_list: the answer when ``lists`` is used up; None for the file itself.
        requested: every requested path, in order.
    """

    url: str = ""
    lists: list[bytes] = field(default_factory=list)
    default_list: bytes | None = None
    requested: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def list_requests(self) -> int:
        """Number of requests of the list."""
        with self._lock:
            return self.requested.count("/distribution.txt")

    def falsified(self, path: str) -> bytes | None:
        """Note the request of a path, and return the body to answer with instead of the file's."""
        with self._lock:
            self.requested.append(path)
            if path != "/distribution.txt":
                return None
            return self.lists.pop(0) if self.lists else self.default_list


class _PlainHandler(SimpleHTTPRequestHandler):
    """Handler of HTTP/1.0 without Range, as the old server speaks it."""

    def __init__(self, plain: PlainServer, *words: object, directory: str) -> None:
        self.plain = plain
        super().__init__(*words, directory=directory)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """Answer the file, or the falsified list."""
        body = self.plain.falsified(self.path)
        if body is None:
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        """Note the request, and answer the head."""
        self.plain.falsified(self.path)
        super().do_HEAD()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""


@contextlib.contextmanager
def plain_server(data_dir: Path) -> Iterator[PlainServer]:
    """Run a static server over ``data_dir`` on a free port, in this process."""
    plain = PlainServer()
    handler: Callable[..., _PlainHandler] = partial(_PlainHandler, plain, directory=str(data_dir))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        plain.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.05), daemon=True)
        thread.start()
        try:
            yield plain
        finally:
            server.shutdown()
            thread.join(10)
