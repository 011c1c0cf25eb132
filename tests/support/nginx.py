"""nginx as a process on 127.0.0.1, as Debian builds it: a static server, or a proxy with its defaults."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support import processes
from tests.support.legacy import installed_peer

_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@contextlib.contextmanager
def static(data_dir: Path) -> Iterator[str]:
    """Run nginx over a data directory, and yield its URL."""
    with _running(data_dir.with_name("nginx"), f"root {data_dir}; sendfile on;") as url:
        yield url


@contextlib.contextmanager
def proxy(upstream: str, place: Path, settings: str = "") -> Iterator[str]:
    """Run nginx as a proxy with its defaults, and yield its URL.

    Those are HTTP/1.0 to the upstream, a connection a request, answers buffered.

    Args:
        upstream: base URL of the server behind it.
        place: a folder to make for its files.
        settings: further settings of its ``location``.
    """
    with _running(place, f"location / {{ proxy_pass {upstream}; {settings} }}") as url:
        yield url


@contextlib.contextmanager
def _running(place: Path, server: str) -> Iterator[str]:
    """Run nginx with a ``server`` block, and yield its URL."""
    program = installed_peer("nginx") / "bin" / "nginx"
    with processes.reserved_port() as port:
        place.mkdir()
        settings, log = place / "nginx.conf", place / "error.log"
        temporary = " ".join(f"{kind}_temp_path {place}/{kind};" for kind in _TEMPORARY)
        user = "" if os.getuid() else "user root;"
        settings.write_text(
            f"daemon off; master_process off; {user} pid {place}/pid; error_log {log}; events {{}}\n"
            f"http {{ access_log off; {temporary}\n  server {{ listen 127.0.0.1:{port}; {server} }} }}\n"
        )
        process = subprocess.Popen(
            [program, "-p", place, "-c", settings, "-e", log], stderr=subprocess.DEVNULL
        )
        try:
            processes.wait_until(
                lambda: process.poll() is not None or _listens(port), what=f"nginx to listen: {place}"
            )
            assert process.poll() is None, log.read_text()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def _listens(port: int) -> bool:
    """Return whether a process listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
