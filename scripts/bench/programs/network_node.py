"""A node of a measured network, as a process on its host: ``network_node.py FOLDER ROLE WORDS…``.

It says ``ready`` once it has started up, does its part when it is told to (a line on stdin), says ``done``
with the machine's monotonic clock, and ends with its stdin. FOLDER has the package to use, and is empty for
the environment's own: the roles of shardcast are in the words of 0.1.0, which ours takes too.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

PORT = 8000
TORRENT_PORT = 6881
PIECE_SIZE = 256 * 1024
WRITTEN, WRITE_SECONDS = 1 << 20, 0.02
"""Bytes that a writer writes at once at the most, and the seconds in which they are made."""

Role = Generator[None, None, None]
"""Starts up until it yields, does its part until it yields again, and is kept as it is until it is closed."""


def origin(data_dir: str, *payloads: str) -> Role:
    """Serve a data directory, and broadcast all payloads; the part is to broadcast the last one."""
    import shardcast

    node = shardcast.OriginServer(data_dir, PORT)
    for payload in payloads[:-1]:
        node.broadcast(payload)
    yield
    node.broadcast(payloads[-1])
    yield


def publisher(data_dir: str, shard_size: str, *payloads: str) -> Role:
    """Serve a data directory, and broadcast all payloads in shards of a size; the part is the last one."""
    import shardcast

    node = shardcast.OriginServer(data_dir, PORT)
    for payload in payloads[:-1]:
        node.broadcast(payload)
    yield
    node.broadcast(payloads[-1], int(shard_size))
    yield


def writer(data_dir: str, shard_size: str, rate: str, first: str, payload: str) -> Role:
    """Serve a data directory that has a first payload; the part is to write another at a rate."""
    import shardcast

    node = shardcast.OriginServer(data_dir, PORT)
    node.broadcast(first)
    content = memoryview(Path(payload).read_bytes())
    portion = max(1, min(WRITTEN, int(float(rate) * WRITE_SECONDS)))
    yield
    began = time.monotonic()
    with node.open_broadcast("payload.bin", int(shard_size)) as out:
        for start in range(0, len(content), portion):
            part = content[start : start + portion]
            time.sleep(max(0.0, began + (start + len(part)) / float(rate) - time.monotonic()))
            out.write(part)
        print("written", time.monotonic(), flush=True)
    yield


def middle(data_dir: str, check_interval: str, *upstreams: str) -> Role:
    """Keep what the upstreams offer; there is no part."""
    import shardcast

    _kept = shardcast.MiddleNode(list(upstreams), data_dir, PORT, float(check_interval))
    yield


def client(version: str, output: str, *servers: str) -> Role:
    """Download a version, verified, into a file, as the part."""
    import shardcast

    node = shardcast.ClientNode(list(servers), str(Path(output).parent))
    yield
    if node.download_version(version, output) is None:
        raise SystemExit(f"{version} could not be had")
    yield


def command(*words: str) -> Role:
    """Run a command, which starts up within the part."""
    yield
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    yield


def make_torrent(payload: str, torrent: str) -> Role:
    """Write a torrent of one file, without a tracker; there is no other part."""
    import libtorrent

    files = libtorrent.file_storage()
    libtorrent.add_files(files, payload)
    made = libtorrent.create_torrent(files, PIECE_SIZE, libtorrent.create_torrent_flags_t.v2_only)
    libtorrent.set_piece_hashes(made, str(Path(payload).parent))
    Path(torrent).write_bytes(libtorrent.bencode(made.generate()))
    yield


def peer(torrent: str, folder: str, kind: str, address: str, *peers: str) -> Role:
    """Run a BitTorrent peer, ``seed`` or ``leech``; the part is to connect to the peers and have it all."""
    import libtorrent

    session = libtorrent.session(torrent_settings(libtorrent, address))
    parameters = libtorrent.add_torrent_params()
    parameters.ti = libtorrent.torrent_info(torrent)
    parameters.save_path = folder
    parameters.flags &= ~(libtorrent.torrent_flags.auto_managed | libtorrent.torrent_flags.paused)
    if kind == "seed":
        parameters.flags |= libtorrent.torrent_flags.seed_mode
    handle = session.add_torrent(parameters)
    while not session.is_listening():
        time.sleep(0.01)
    yield
    for other in peers:
        handle.connect_peer((other, TORRENT_PORT))
    while not handle.status().is_seeding:
        session.wait_for_alert(20)
        session.pop_alerts()
    yield  # closing the session waits until all is written


def torrent_settings(libtorrent: Any, address: str) -> Any:
    """Return settings for few peers with fast links that trust each other.

    Those are libtorrent's own for high performance, TCP alone, no search for peers, no choking, no limits.
    """
    settings = libtorrent.high_performance_seed()
    quiet = (
        "enable_dht",
        "enable_lsd",
        "enable_natpmp",
        "enable_upnp",
        "enable_outgoing_utp",
        "enable_incoming_utp",
    )
    settings.update(dict.fromkeys(quiet, False))
    settings.update(
        {
            "listen_interfaces": f"{address}:{TORRENT_PORT}",
            "alert_mask": int(libtorrent.alert.category_t.status_notification),
            "in_enc_policy": int(libtorrent.enc_policy.disabled),
            "out_enc_policy": int(libtorrent.enc_policy.disabled),
            "unchoke_slots_limit": -1,
            "download_rate_limit": 0,
            "upload_rate_limit": 0,
            "tick_interval": 100,
            "suggest_mode": 0,
            # Long queues of requests hold to a peer what another one could send sooner.
            "max_out_request_queue": 50,
            "request_queue_time": 1,
        }
    )
    return settings


ROLES: dict[str, Callable[..., Role]] = {
    role.__name__: role for role in (origin, publisher, writer, middle, client, command, make_torrent, peer)
}


def main(folder: str, role: str, *words: str) -> None:
    """Play a role."""
    if folder:
        sys.path.insert(0, folder)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # which also ends a command that it runs
    node = ROLES[role](*words)
    next(node)
    print("ready", flush=True)
    if sys.stdin.readline():
        next(node, None)
        print("done", time.monotonic(), flush=True)
        sys.stdin.read()
    node.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
