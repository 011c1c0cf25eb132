"""Our nodes and the published older shardcasts in one network, all of them real processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from tests.support import legacy, processes
from tests.support.legacy import OldShardcast, get, listed, plain_server, sha256
from tests.support.processes import wait_until

pytestmark = pytest.mark.legacy

# Fixtures of this module too.
old = legacy.old
newer_old = legacy.newer_old

Whose = Literal["ours", "old"]

SHARD = 100_000
SIZE = 1_150_000
SHARDS = 12
"""More than nine, so that their order by name and by number differ; the last one is short."""

INTEGRITY = 5
NOT_OFFERED = 3

UNREACHABLE = "http://127.0.0.1:9"


def payload(folder: Path, name: str = "payload.bin", size: int = SIZE) -> Path:
    path = folder / name
    path.write_bytes(os.urandom(size))
    return path


def line_of(path: Path, shards: int = SHARDS) -> str:
    """What stands behind the version in a distribution list."""
    return f"{sha256(path)}|{shards}"


def spoil(shard: Path) -> None:
    """Flip one bit in the middle of a shard."""
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)


@dataclass
class Network:
    """Nodes of ours and old ones, by whose they are."""

    old: OldShardcast
    folder: Path
    stack: contextlib.ExitStack
    nodes: list[processes.Node] = field(default_factory=list)
    outputs: int = 0

    def start(self, node: contextlib.AbstractContextManager[processes.Node]) -> processes.Node:
        self.nodes.append(self.stack.enter_context(node))
        return self.nodes[-1]

    def origin(self, whose: Whose, *payloads: Path, data_dir: Path | None = None) -> processes.Node:
        """An origin that offers the payloads as v1, v2, …"""
        data_dir = data_dir or self.folder / f"origin-{len(self.nodes)}"
        if whose == "old":
            if payloads:
                self.old.broadcast(data_dir, *payloads, shard_size=SHARD)
            return self.start(self.old.origin(data_dir))
        broadcasts = [word for path in payloads for word in ("--broadcast", str(path))]
        node = self.start(processes.origin(data_dir, *broadcasts, "--shard-size", str(SHARD)))
        if payloads:
            self.wait_for(node, f"v{len(payloads)}")
        return node

    def middle(
        self,
        whose: Whose,
        *upstream: processes.Node | str,
        data_dir: Path | None = None,
        version: str | None = "v1",
        keep: int = 15,
    ) -> processes.Node:
        """A middle, once it offers ``version``."""
        urls = ",".join(node if isinstance(node, str) else node.url for node in upstream)
        data_dir = data_dir or self.folder / f"middle-{len(self.nodes)}"
        if whose == "old":
            # It reads its upstream once, before anybody reads it: whenever it looks again it rewrites its
            # list in place, and an old client gives up over an empty one.
            node = self.start(self.old.middle(urls, data_dir, check_interval=600))
        else:
            node = self.start(processes.middle(urls, data_dir, "--keep", str(keep)))
        if version is not None:
            self.wait_for(node, version)
        return node

    def wait_for(self, node: processes.Node, version: str, timeout: float = 30) -> None:
        """Wait until ``node`` lists ``version``."""
        deadline = time.monotonic() + timeout
        while version not in listed(node.url):
            assert time.monotonic() < deadline, f"{version} is not listed:\n{node.log}"
            assert node.process.poll() is None, f"ended:\n{node.log}"
            time.sleep(0.05)

    def client(
        self,
        whose: Whose,
        *servers: processes.Node | str,
        version: str = "v1",
        env: dict[str, str] | None = None,
    ) -> tuple[int, str, Path]:
        """Let a client fetch a version: its exit code, what it said on stderr, and the output's path."""
        self.outputs += 1
        output = self.folder / f"output-{self.outputs}.bin"
        urls = ",".join(node if isinstance(node, str) else node.url for node in servers)
        words = ("--servers", urls, "--version", version, "--output-file", str(output))
        done = (
            self.old.client(*words)
            if whose == "old"
            else processes.run("client", *words, env=env, timeout=60)
        )
        return done.returncode, done.stderr, output

    def fetch(
        self,
        whose: Whose,
        *servers: processes.Node | str,
        version: str = "v1",
        env: dict[str, str] | None = None,
    ) -> str:
        """Let a client fetch a version, which must go well; the SHA-256 of its output."""
        code, said, output = self.client(whose, *servers, version=version, env=env)
        assert code == 0, f"exit {code}\n{said}\n" + "\n".join(node.log for node in self.nodes)
        return sha256(output)


@pytest.fixture
def network(old: OldShardcast, tmp_path: Path) -> Iterator[Network]:
    with contextlib.ExitStack() as stack:
        yield Network(old, tmp_path, stack)


# ---- every position ----


@pytest.mark.parametrize(
    ("origin", "middle", "client"),
    [
        ("old", None, "ours"),
        ("old", "ours", "ours"),
        ("old", "ours", "old"),
        ("old", "old", "ours"),
        ("ours", None, "old"),
        ("ours", "ours", "old"),
        ("ours", "old", "ours"),
        ("ours", "old", "old"),
    ],
)
def test_new_and_old_nodes_mix_in_each_position(
    network: Network, tmp_path: Path, origin: Whose, middle: Whose | None, client: Whose
) -> None:
    given = payload(tmp_path)
    server = network.origin(origin, given)
    assert listed(server.url) == {"v1": line_of(given)}
    if middle is not None:
        server = network.middle(middle, server)
        assert listed(server.url) == {"v1": line_of(given)}
    assert network.fetch(client, server) == sha256(given)


def test_chain_of_new_and_old_middles_relays(network: Network, tmp_path: Path) -> None:
    given = payload(tmp_path)
    server = network.origin("ours", given)
    for whose in ("ours", "old", "ours"):
        server = network.middle(whose, server)
    assert network.fetch("ours", server) == sha256(given)
    assert network.fetch("old", server) == sha256(given)


def test_new_versions_pass_running_old_and_new_nodes(
    network: Network, old: OldShardcast, tmp_path: Path
) -> None:
    first, second = payload(tmp_path, "first"), payload(tmp_path, "second")
    data_dir = tmp_path / "data"
    middle = network.middle("ours", network.origin("old", first, data_dir=data_dir))
    assert old.broadcast(data_dir, second, shard_size=SHARD) == ["v2"]
    network.wait_for(middle, "v2")
    assert listed(middle.url) == {"v1": line_of(first), "v2": line_of(second)}
    assert network.fetch("old", middle, version="v2") == sha256(second)


def test_client_prints_list_of_old_origin(network: Network, tmp_path: Path) -> None:
    given = payload(tmp_path)
    origin = network.origin("old", given)
    done = processes.run("client", "--servers", origin.url, "--list")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.split()[:3] == ["v1", sha256(given), str(SHARDS)]


# ---- several servers ----


def test_old_origin_and_new_middle_serve_one_version_together(network: Network, tmp_path: Path) -> None:
    given = payload(tmp_path)
    origin = network.origin("old", given)
    middle = network.middle("ours", origin)
    assert network.fetch("ours", origin, middle) == sha256(given)
    assert network.fetch("ours", middle, origin) == sha256(given)
    assert network.fetch("old", middle, origin) == sha256(given)


def test_old_origin_held_by_another_reader_stalls_no_client(network: Network, tmp_path: Path) -> None:
    given = payload(tmp_path)
    origin = network.origin("old", given)
    middle = network.middle("ours", origin)
    # It answers one request at a time, and this one never comes to its end.
    with socket.create_connection(("127.0.0.1", origin.port)) as reader:
        reader.sendall(b"GET /distribution.txt HTTP/1.0\r\n")
        began = time.monotonic()
        assert network.fetch("ours", origin, middle, env={"SHARDCAST_HTTP_TIMEOUT": "2"}) == sha256(given)
        assert time.monotonic() - began < 15


def test_payloads_of_disagreeing_old_servers_are_not_mixed(network: Network, tmp_path: Path) -> None:
    one, other = payload(tmp_path, "one"), payload(tmp_path, "other")
    first, second = network.origin("old", one), network.origin("old", other)
    assert network.fetch("ours", first, second) == sha256(one)
    assert network.fetch("ours", second, first) == sha256(other)


def flipped(shard: Path) -> None:
    spoil(shard)


def shortened(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-1000])


def emptied(shard: Path) -> None:
    shard.write_bytes(b"")


def missing(shard: Path) -> None:
    shard.unlink()


@pytest.mark.parametrize("harm", [flipped, shortened, emptied, missing])
def test_wrong_shard_is_fetched_from_another_old_server(
    network: Network, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    given = payload(tmp_path)
    wrong = network.origin("old", given, data_dir=tmp_path / "wrong")
    right = network.origin("old", given)
    harm(tmp_path / "wrong" / "v1" / "shard_004.bin")
    assert network.fetch("ours", wrong, right) == sha256(given)


def test_middle_distinguishes_two_old_servers(network: Network, tmp_path: Path) -> None:
    given = payload(tmp_path)
    wrong = network.origin("old", given, data_dir=tmp_path / "wrong")
    right = network.origin("old", given)
    spoil(tmp_path / "wrong" / "v1" / "shard_004.bin")
    missing(tmp_path / "wrong" / "v1" / "shard_011.bin")
    middle = network.middle("ours", wrong, right)
    assert listed(middle.url) == {"v1": line_of(given)}
    assert network.fetch("old", middle) == sha256(given)


def test_wrong_bytes_from_the_only_old_server_are_never_relayed(network: Network, tmp_path: Path) -> None:
    wrong, given = payload(tmp_path, "wrong"), payload(tmp_path, "given")
    origin = network.origin("old", wrong, given, data_dir=tmp_path / "data")
    spoil(tmp_path / "data" / "v1" / "shard_004.bin")
    middle = network.middle("ours", origin, version="v2")
    code, said, output = network.client("ours", origin)
    assert code == INTEGRITY, said
    assert "v1" in said
    assert not output.exists()
    # Newest first, so it has tried v1 by the time it has been through its upstream's list again.
    wait_until(lambda: "v1" in middle.log, what="the middle to say what is wrong with v1")
    assert list(listed(middle.url)) == ["v2"]
    assert {get(middle.url, f"/v1/shard_{n:03d}.bin")[0] for n in range(1, SHARDS + 1)} & {200, 206} == set()
    code, said, output = network.client("ours", middle)
    assert code == NOT_OFFERED, said
    assert network.fetch("old", middle, version="v2") == sha256(given)


def test_missing_shard_of_the_only_server_is_named(network: Network, tmp_path: Path) -> None:
    given = payload(tmp_path)
    origin = network.origin("old", given, data_dir=tmp_path / "data")
    missing(tmp_path / "data" / "v1" / "shard_004.bin")
    code, said, output = network.client("ours", origin)
    assert code not in (0, 130), said
    assert "v1" in said
    assert "4" in said.replace(origin.url, "")
    assert not output.exists()


def test_middle_waits_for_a_missing_shard_of_its_upstream(network: Network, tmp_path: Path) -> None:
    given = payload(tmp_path)
    network.old.broadcast(tmp_path / "data", given, shard_size=SHARD)
    shard = tmp_path / "data" / "v1" / "shard_004.bin"
    shard.rename(tmp_path / "later")
    with plain_server(tmp_path / "data") as server:
        middle = network.middle("ours", server.url, version=None)
        wait_until(lambda: "/v1/shard_004.bin" in server.requested, what="the middle to ask for the shard")
        assert listed(middle.url) == {}
        assert get(middle.url, "/v1/shard_001.bin")[0] not in (200, 206)
        (tmp_path / "later").rename(shard)
        network.wait_for(middle, "v1")
    assert network.fetch("old", middle) == sha256(given)


# ---- what stands in an old list ----


def test_list_with_digests_only_is_read(network: Network, tmp_path: Path) -> None:
    given = payload(tmp_path)
    origin = network.origin("old", given, data_dir=tmp_path / "data")
    (tmp_path / "data" / "distribution.txt").write_text(f"v1: {sha256(given)}\n")
    assert network.fetch("ours", origin) == sha256(given)
    middle = network.middle("ours", origin)
    assert listed(middle.url) == {"v1": line_of(given)}
    assert network.fetch("old", middle) == sha256(given)


def test_newest_version_is_chosen_by_number(network: Network, tmp_path: Path) -> None:
    given = [payload(tmp_path, f"payload-{n}", 1000 + n) for n in range(1, 12)]
    origin = network.origin("old", *given)
    assert network.fetch("ours", origin, version="latest") == sha256(given[-1])
    # The old middle lists them by name: v1, v10, v11, v2, …
    by_name = network.middle("old", origin, version="v9")
    assert network.fetch("ours", by_name, version="latest") == sha256(given[-1])
    newest = network.middle("ours", by_name, version=None, keep=3)
    wait_until(lambda: list(listed(newest.url)) == ["v9", "v10", "v11"], what="the newest three")


@pytest.mark.parametrize("readings", ["empty", "cut in the digest", "cut in the count"])
def test_list_being_rewritten_is_read_again(
    network: Network, old: OldShardcast, tmp_path: Path, readings: str
) -> None:
    first, second = payload(tmp_path, "first"), payload(tmp_path, "second")
    data_dir = tmp_path / "data"
    old.broadcast(data_dir, first, second, shard_size=SHARD)
    whole = (data_dir / "distribution.txt").read_bytes()
    caught = {"empty": b"", "cut in the digest": whole[:-20], "cut in the count": whole[:-2]}[readings]
    with plain_server(data_dir) as server:
        server.lists = [caught]
        assert network.fetch("ours", server.url, version="v2") == sha256(second)
        server.lists = [caught]
        assert network.fetch("ours", server.url, version="latest") == sha256(second)
        server.lists = [caught]
        middle = network.middle("ours", server.url, version="v2")
        network.wait_for(middle, "v1")
        assert listed(middle.url) == {"v1": line_of(first), "v2": line_of(second)}


def test_list_without_final_newline_is_read(network: Network, old: OldShardcast, tmp_path: Path) -> None:
    given = payload(tmp_path)
    old.broadcast(tmp_path / "data", given, shard_size=SHARD)
    with plain_server(tmp_path / "data") as server:
        server.default_list = f"v1: {line_of(given)}".encode()
        assert network.fetch("ours", server.url) == sha256(given)
        network.middle("ours", server.url)


def test_emptied_list_retires_nothing(network: Network, old: OldShardcast, tmp_path: Path) -> None:
    given = payload(tmp_path)
    old.broadcast(tmp_path / "data", given, shard_size=SHARD)
    with plain_server(tmp_path / "data") as server:
        middle = network.middle("ours", server.url)
        server.default_list = b""
        seen = server.list_requests
        wait_until(lambda: server.list_requests >= seen + 3, what="the middle to read the empty list")
        assert listed(middle.url) == {"v1": line_of(given)}
        assert network.fetch("old", middle) == sha256(given)


def test_endless_list_is_rejected(network: Network, old: OldShardcast, tmp_path: Path) -> None:
    given = payload(tmp_path)
    old.broadcast(tmp_path / "data", given, shard_size=SHARD)
    with plain_server(tmp_path / "data") as endless, plain_server(tmp_path / "data") as right:
        endless.default_list = f"v1: {line_of(given)}\nv2: {line_of(given)}\n".encode() * 10_000
        assert network.fetch("ours", endless.url, right.url, version="latest") == sha256(given)
        code, said, _ = network.client("ours", endless.url, right.url, version="v2")
        assert code == NOT_OFFERED, said


def test_lines_without_a_version_are_skipped(network: Network, old: OldShardcast, tmp_path: Path) -> None:
    given = payload(tmp_path)
    old.broadcast(tmp_path / "data", given, shard_size=SHARD)
    digest = sha256(given)
    odd = [
        f"v0: {digest}|1",
        f"v07: {digest}|1",
        f"V8: {digest}|1",
        f"v９: {digest}|1",
        f"../v10: {digest}|1",
        f"v11: {digest[:-1]}|1",
        f"v12: {digest[:-1]}g|1",
        f"v13: {digest}|1000001",
        f"v14: {digest}|-1",
        "v15",
        "",
    ]
    with plain_server(tmp_path / "data") as server:
        server.default_list = "\n".join([*odd, f"v1: {line_of(given)}", *odd]).encode()
        done = processes.run("client", "--servers", server.url, "--list")
        assert [line.split()[0] for line in done.stdout.splitlines()] == ["v1"], done.stderr
        assert network.fetch("ours", server.url, version="latest") == sha256(given)


# ---- sizes ----


def test_empty_file_passes_old_nodes(network: Network, tmp_path: Path) -> None:
    given = payload(tmp_path, size=0)
    origin = network.origin("ours", given)
    assert listed(origin.url) == {"v1": line_of(given, 1)}
    assert network.fetch("old", origin) == sha256(given)
    assert network.fetch("old", network.middle("old", origin)) == sha256(given)


def test_empty_file_of_old_origin_is_fetched(network: Network, tmp_path: Path) -> None:
    given = payload(tmp_path, size=0)
    origin = network.origin("old", given)
    assert listed(origin.url) == {"v1": line_of(given, 0)}
    assert network.fetch("ours", origin) == sha256(given)
    middle = network.middle("ours", origin)
    assert listed(middle.url) == {"v1": line_of(given, 1)}
    assert network.fetch("old", middle) == sha256(given)


def test_more_than_999_shards_of_old_origin_are_fetched(
    network: Network, old: OldShardcast, tmp_path: Path
) -> None:
    given = payload(tmp_path, size=1005 * 64 - 1)
    old.broadcast(tmp_path / "data", given, shard_size=64)
    origin = network.origin("old", data_dir=tmp_path / "data")
    assert network.fetch("ours", origin) == sha256(given)
    (tmp_path / "data" / "distribution.txt").write_text(f"v1: {sha256(given)}\n")
    middle = network.middle("ours", origin)
    assert listed(middle.url) == {"v1": line_of(given, 1005)}


@pytest.mark.parametrize("shards", [1, 3])
def test_old_origin_without_ranges_is_read_by_whole_shards(
    network: Network, tmp_path: Path, shards: int
) -> None:
    given = payload(tmp_path, size=shards * SHARD)
    origin, ours = network.origin("old", given), network.origin("ours", given)
    assert listed(origin.url) == listed(ours.url) == {"v1": line_of(given, shards)}
    assert network.fetch("ours", origin) == sha256(given)
    assert network.fetch("old", ours) == sha256(given)


# ---- what stays when a node ends ----


def test_middle_serves_local_versions_without_upstream(network: Network, tmp_path: Path) -> None:
    given = payload(tmp_path)
    origin = network.origin("old", given)
    middle = network.middle("ours", origin, data_dir=tmp_path / "kept")
    upstream = origin.url
    origin.kill()
    assert middle.stop() == 0, middle.log
    again = network.middle("ours", upstream, data_dir=tmp_path / "kept")
    assert listed(again.url) == {"v1": line_of(given)}
    assert get(again.url, "/v1/manifest.jsonl")[0] == 200
    assert network.fetch("ours", again) == sha256(given)
    assert network.fetch("old", again) == sha256(given)


def test_origin_takes_over_directory_of_old_origin(
    network: Network, old: OldShardcast, tmp_path: Path
) -> None:
    first, second, third = (payload(tmp_path, name) for name in ("first", "second", "third"))
    data_dir = tmp_path / "data"
    old.broadcast(data_dir, first, second, shard_size=SHARD)
    # It was killed while it published: a folder that no line names.
    (data_dir / "v3").mkdir()
    shutil.copy(data_dir / "v1" / "shard_001.bin", data_dir / "v3")

    origin = network.start(processes.origin(data_dir))
    network.wait_for(origin, "v2")
    assert listed(origin.url) == {"v1": line_of(first), "v2": line_of(second)}
    assert network.fetch("old", origin, version="v1") == sha256(first)
    assert network.fetch("ours", origin, version="latest") == sha256(second)

    words = ("broadcast", str(third), "--data-dir", str(data_dir), "--shard-size", str(SHARD))
    published = processes.run(*words)
    assert published.stdout == "v4\n", published.stderr
    assert listed(origin.url) == {"v1": line_of(first), "v2": line_of(second), "v4": line_of(third)}
    assert network.fetch("old", origin, version="v4") == sha256(third)

    for version in ("v1", "v2"):
        path = f"/{version}/manifest.jsonl"
        wait_until(lambda path=path: get(origin.url, path)[0] == 200, what=f"the manifest at {path}")
    middle = network.middle("ours", origin, version="v1")
    assert network.fetch("ours", middle, version="v1") == sha256(first)


def test_directory_survives_use_by_old_origin(network: Network, old: OldShardcast, tmp_path: Path) -> None:
    first, second, third = (payload(tmp_path, name) for name in ("first", "second", "third"))
    data_dir = tmp_path / "data"

    def publish(path: Path) -> str:
        words = ("broadcast", str(path), "--data-dir", str(data_dir), "--shard-size", str(SHARD))
        return processes.run(*words).stdout.strip()

    assert publish(first) == "v1"
    origin = network.origin("old", data_dir=data_dir)
    assert network.fetch("old", origin) == sha256(first)
    assert network.fetch("ours", origin) == sha256(first)

    assert old.broadcast(data_dir, second, shard_size=SHARD) == ["v2"]
    assert network.fetch("ours", origin, version="latest") == sha256(second)

    assert publish(third) == "v3"
    assert listed(origin.url) == {"v1": line_of(first), "v2": line_of(second), "v3": line_of(third)}
    assert network.fetch("old", origin, version="v3") == sha256(third)


def test_middle_takes_over_and_repairs_directory_of_old_middle(network: Network, tmp_path: Path) -> None:
    given = payload(tmp_path)
    origin = network.origin("old", given)
    data_dir = tmp_path / "middle"
    network.middle("old", origin, data_dir=data_dir).kill()
    # The old middle serves whatever came, so what it left proves nothing.
    spoil(data_dir / "v1" / "shard_004.bin")
    missing(data_dir / "v1" / "shard_011.bin")
    middle = network.middle("ours", origin, data_dir=data_dir)
    assert network.fetch("old", middle) == sha256(given)
    assert network.fetch("ours", middle) == sha256(given)


# ---- 0.3.x ----


@pytest.fixture
def newer_network(newer_old: OldShardcast, tmp_path: Path) -> Iterator[Network]:
    with contextlib.ExitStack() as stack:
        yield Network(newer_old, tmp_path, stack)


def blake3_origin(network: Network, given: Path) -> processes.Node:
    """Our origin as a network of 0.3.x readers needs it."""
    words = ("--broadcast", str(given), "--shard-size", str(SHARD), "--legacy-digest", "blake3")
    origin = network.start(processes.origin(network.folder / "blake3-origin", *words))
    network.wait_for(origin, "v1")
    return origin


def test_nodes_fetch_from_origin_0_3_2(newer_network: Network, tmp_path: Path) -> None:
    given = payload(tmp_path)
    origin = newer_network.origin("old", given)
    assert listed(origin.url)["v1"] != line_of(given)
    assert newer_network.fetch("ours", origin) == sha256(given)
    middle = newer_network.middle("ours", origin)
    assert newer_network.fetch("ours", middle) == sha256(given)
    assert newer_network.fetch("ours", middle, origin) == sha256(given)


def test_wrong_bytes_of_origin_0_3_2_are_rejected(newer_network: Network, tmp_path: Path) -> None:
    given = payload(tmp_path)
    origin = newer_network.origin("old", given, data_dir=tmp_path / "data")
    spoil(tmp_path / "data" / "v1" / "shard_00004.bin")
    code, said, output = newer_network.client("ours", origin)
    assert code == INTEGRITY, said
    assert not output.exists()


def test_clients_0_3_2_fetch_from_new_origin(newer_network: Network, tmp_path: Path) -> None:
    given = payload(tmp_path)
    origin = blake3_origin(newer_network, given)
    assert listed(origin.url)["v1"].endswith(f"|{SHARDS}")
    assert listed(origin.url)["v1"] != line_of(given)
    status, measured = get(origin.url, "/data1.bin")
    assert (status, len(measured)) == (200, 1 << 20)
    assert get(origin.url, "/v1/shard_00004.bin") == get(origin.url, "/v1/shard_004.bin")
    assert newer_network.fetch("old", origin) == sha256(given)
    assert newer_network.fetch("ours", origin) == sha256(given)


def test_clients_0_3_2_fetch_from_new_middle(newer_network: Network, tmp_path: Path) -> None:
    given = payload(tmp_path)
    origin = blake3_origin(newer_network, given)
    middle = newer_network.middle("ours", origin)
    assert newer_network.fetch("ours", middle) == sha256(given)
    # What its origin lists, the middle lists: the readers of one network read one kind of digest.
    assert listed(middle.url) == listed(origin.url)
    assert newer_network.fetch("old", middle) == sha256(given)
