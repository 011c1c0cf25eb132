"""Run a shardcast from a folder of its own: ``FOLDER ROLE OPTION…``; FOLDER ``ours`` is this environment's.

Roles: client (its command); middle DATA_DIR INTERVAL UPSTREAM… and origin DATA_DIR [--link], on ports that
the system picks; the origin broadcasts each path that it reads on stdin, and says the version, when that was
begun, and how long it took; follow URL FOLDER INTERVAL, which fetches every version as it comes, and says so.
The names are the same in all shardcasts.
"""

import sys
import threading
import time
from typing import Any

folder, role, *words = sys.argv[1:]
if folder != "ours":
    sys.path.insert(0, folder)
import shardcast  # noqa: E402

assert folder == "ours" or str(shardcast.__file__).startswith(folder), shardcast.__file__


def origin(data_dir: str, *linked: str) -> None:
    """Serve, and broadcast each path that is read on stdin."""
    node = shardcast.OriginServer(data_dir, 0)
    listening(node)
    for line in sys.stdin:
        started = time.monotonic()
        version = node.broadcast(line.rstrip("\n"), **({"copy": False} if linked else {}))
        print(version, started, time.monotonic() - started, flush=True)
    if folder == "ours":
        node.shutdown()
    else:
        threading.Event().wait()


def middle(data_dir: str, interval: str, *upstream: str) -> None:
    """Keep what the upstreams offer, and serve it."""
    listening(shardcast.MiddleNode(list(upstream), data_dir, 0, int(interval)))
    threading.Event().wait()


def listening(node: Any) -> None:
    """Print the URL of a node."""
    url = node.url if folder == "ours" else f"http://127.0.0.1:{node.http_server.server_address[1]}"
    print(f"Listening on {url}", file=sys.stderr, flush=True)


def follow(url: str, outputs: str, interval: str) -> None:
    """Download every version as it comes."""
    client, known = shardcast.ClientNode([url], outputs), set()
    while True:
        for version in client.list_available_versions().keys() - known:
            if client.download_version(version):
                known.add(version)
                print(version, flush=True)
        time.sleep(float(interval))


if role == "client":
    from shardcast.client_node import main

    sys.argv = ["shardcast-client", *words]
    sys.exit(main())
else:
    {"origin": origin, "middle": middle, "follow": follow}[role](*words)
