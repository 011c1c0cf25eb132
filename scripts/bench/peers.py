"""Peers that scripts/peers installs, as commands and servers."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from harness import Skipped
from places import Payload
from processes import Ended, Running, program_words, run_command, running

_INSTALLED = Path(__file__).resolve().parents[2] / ".peers"
OLD = ("0.1.0", "0.3.2")
TOOLS = ("aria2c", "curl", "nginx", "restic", "borg", "rsync")
PACKAGES = ("libtorrent", "hashserver")


def folder(name: str) -> Path:
    """Return the folder of a peer.

    Raises:
        Skipped: it isn't installed.
    """
    found = _INSTALLED / name
    if not (found / ".installed").exists():
        raise Skipped(f"not installed: scripts/peers install {name}")
    return found


def tool(name: str) -> str:
    """Return the path of one of ``TOOLS``.

    Raises:
        Skipped: there is none.
    """
    try:
        return str(folder(name) / "bin" / name)
    except Skipped:
        found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
        if not found:
            raise
        return found


def versions() -> dict[str, str]:
    """Return the installed versions of the peers, by name."""
    found = {}
    for name in OLD:
        with contextlib.suppress(Skipped):
            folder(f"shardcast-{name}")
            found[f"shardcast {name}"] = name
    for name in TOOLS:
        with contextlib.suppress(Skipped, OSError):
            word = {"nginx": "-v", "restic": "version"}.get(name, "--version")
            done = subprocess.run([tool(name), word], capture_output=True, text=True, check=False)
            number = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
            found[name] = number[0] if number else "?"
    for name in PACKAGES:
        with contextlib.suppress(Skipped):
            for distribution in metadata.distributions(name=name, path=[str(folder(name))]):
                found[name] = distribution.version
    return found


# ── Old shardcasts ────────────────────────────────────────────────────────────────────────────────


class OldShardcast:
    """A published shardcast.

    Each of its processes has a copy of the package, beside which it keeps temporary files under fixed names.
    """

    def __init__(self, version: str) -> None:
        """Take the package.

        Raises:
            Skipped: it isn't installed, or misses what it needs.
        """
        self.version = version
        self._folder = folder(f"shardcast-{version}")
        # It looks there alone, and would install what it misses.
        if version.startswith("0.3") and not shutil.which("wget", path="/bin:/usr/bin"):
            raise Skipped("its client runs wget, which is not in /usr/bin")

    def words(self, place: Path, *words: str) -> list[str]:
        """Return the command of a role that runs in ``place``, a folder of the process's own."""
        if not (place / "shardcast").exists():
            shutil.copytree(self._folder / "shardcast", place / "shardcast")
        return [sys.executable, "-I", *program_words("node", str(place), *words)[1:]]

    def client(self, place: Path, *words: str) -> Ended:
        """Run its client's command to its end."""
        return run_command(self.words(place, "client", *words), cwd=place)

    @contextlib.contextmanager
    def origin(self, data_dir: Path, place: Path) -> Iterator[Running]:
        """Run its origin over a data directory, which it serves as it finds it."""
        with running(self.words(place, "origin", str(data_dir)), cwd=place, told=True) as process:
            process.url()
            yield process


def lay_out_old(version: str, data_dir: Path, payload: Payload, place: Path) -> None:
    """Lay our data directory out in ``place`` as an old shardcast does, of hard links."""
    (place / "v1").mkdir(parents=True)
    shards = sorted((data_dir / "v1").glob("shard_*.bin"), key=lambda shard: (len(shard.name), shard.name))
    digits = 5 if version.startswith("0.3") else 3
    for number, shard in enumerate(shards, 1):
        (place / "v1" / f"shard_{number:0{digits}d}.bin").hardlink_to(shard)
    listed = payload.sha256
    if version.startswith("0.3"):
        listed = payload.blake3
        (place / "data1.bin").write_bytes(os.urandom(1 << 20))
    (place / "distribution.txt").write_text(f"v1: {listed}|{len(shards)}\n")


# ── nginx ─────────────────────────────────────────────────────────────────────────────────────────

_NGINX = """
{user}daemon off;
worker_processes auto;
worker_rlimit_nofile 8192;
pid {place}/pid;
error_log stderr;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    default_type application/octet-stream;
    client_body_temp_path {place}/body;
    proxy_temp_path {place}/proxy;
    fastcgi_temp_path {place}/fastcgi;
    uwsgi_temp_path {place}/uwsgi;
    scgi_temp_path {place}/scgi;
    server {{
        listen {listen};
        {serve}
    }}
}}
"""


@contextlib.contextmanager
def nginx(root: Path, place: Path) -> Iterator[tuple[Running, str]]:
    """Run nginx over a folder, and yield the process and its URL."""
    port = free_port()
    with running_nginx(nginx_words(place, f"127.0.0.1:{port}", f"root {root};")) as process:
        process.wait_for(lambda: listens(port), "listening")
        yield process, f"http://127.0.0.1:{port}"


def nginx_words(place: Path, listen: str, serve: str) -> list[str]:
    """Return the command of nginx as Debian sets it up: a worker a core, sendfile.

    Args:
        place: a folder for its files.
        listen: its ``listen`` setting.
        serve: settings of its only server.
    """
    user = "" if os.getuid() else "user root;\n"
    settings = place / "nginx.conf"
    settings.write_text(_NGINX.format(user=user, place=place, listen=listen, serve=serve))
    return [tool("nginx"), "-p", str(place), "-c", str(settings), "-e", "stderr"]


def running_nginx(words: Sequence[str]) -> contextlib.AbstractContextManager[Running]:
    """Run nginx; its workers outlive a killed master, but not one that gets SIGTERM."""
    return running(words, death=signal.SIGTERM)


# ── rsync ─────────────────────────────────────────────────────────────────────────────────────────

_RSYNC = """
{user}use chroot = no
address = 127.0.0.1
[model]
path = {root}
"""


@contextlib.contextmanager
def rsync_daemon(root: Path, place: Path) -> Iterator[tuple[Running, str]]:
    """Run an rsync daemon over a folder, with its settings in ``place``; yield the process and its URL."""
    port = free_port()
    settings = place / "rsyncd.conf"
    user = "" if os.getuid() else "uid = root\ngid = root\n"  # else it reads as nobody
    settings.write_text(_RSYNC.format(user=user, root=root))
    words = [tool("rsync"), "--daemon", "--no-detach", f"--config={settings}", f"--port={port}"]
    with running(words) as process:
        process.wait_for(lambda: listens(port), "listening")
        yield process, f"rsync://127.0.0.1:{port}/model/"


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def listens(port: int) -> bool:
    """Return whether a process listens on a port."""
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
