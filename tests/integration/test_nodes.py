"""Origins, middles and clients as processes, the way an operator runs them."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import bad_answers as bad
from tests.support import nginx, processes
from tests.support.bad_answers import gate
from tests.support.bad_servers import BadServer, dead_address
from tests.support.legacy import get, listed
from tests.support.published import publish, random_bytes, sha256

MB = 1_000_000
LIST = "/distribution.txt"
SOON = ("--check-interval", "0.1")


def payload(tmp_path: Path, size: int, seed: int = 1) -> Path:
    file = tmp_path / f"payload-{seed}.bin"
    file.write_bytes(random_bytes(size, seed))
    return file


def broadcast(file: Path, data_dir: Path, shard_size: int = MB) -> str:
    done = processes.run("broadcast", str(file), "--data-dir", str(data_dir), "--shard-size", str(shard_size))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def wait_for_versions(node: processes.Node, *versions: str) -> None:
    processes.wait_until(lambda: set(versions) <= listed(node.url).keys(), 30, f"{versions} at {node.url}")


def folders(data_dir: Path) -> set[str]:
    """The versions that have a folder."""
    return {one.name for one in data_dir.glob("v*")}


def connect(node: processes.Node, path: str) -> socket.socket:
    """A reader that asks for a path and has read nothing yet, with little room to take anything."""
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    reader.settimeout(20)
    reader.connect(("127.0.0.1", node.port))
    reader.sendall(f"GET {path} HTTP/1.1\r\nHost: {node.port}\r\n\r\n".encode())
    return reader


def wait_for_looks(server: BadServer, looks: int = 3) -> None:
    """Wait until whoever follows this server has read its list a few times more."""
    enough = server.requested(LIST) + looks
    processes.wait_until(lambda: server.requested(LIST) >= enough, what=f"{looks} looks at {server.url}")


def fetch(servers: str, output: Path, *words: str, **env: str) -> str:
    """What a client has after it took the newest version: its digest."""
    to = ("--servers", servers) if servers else ()
    done = processes.run(
        "client", *to, "--version", "latest", "--output-file", str(output), *words, env=env
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"{output}\n"), done.stderr
    return sha256(output)


def first_asked(server: BadServer) -> list[str]:
    """The versions whose shards a server was asked for, in the order in which each was first asked for."""
    found = (re.fullmatch(r"/(v\d+)/shard_\d+\.bin", path) for path in list(server.requests))
    return list(dict.fromkeys(one[1] for one in found if one))


def shards_here(node: processes.Node, version: str) -> int:
    """How many whole shards of a version a node says it has."""
    versions = json.loads(get(node.url, "/status")[1])["versions"]
    return sum(int(one["shards_here"]) for one in versions if one["version"] == version)


# The whole way -----------------------------------------------------------------------------------


def test_file_passes_two_middles_to_a_client(tmp_path: Path) -> None:
    file = payload(tmp_path, 20 * MB)
    with (
        processes.origin(tmp_path / "origin") as origin,
        processes.middle(origin.url, tmp_path / "first", *SOON) as first,
        processes.middle(first.url, tmp_path / "second", *SOON) as second,
    ):
        assert broadcast(file, tmp_path / "origin") == "v1"
        # The last one may have verified the whole file before the first one has.
        wait_for_versions(first, "v1")
        wait_for_versions(second, "v1")
        assert fetch(second.url, tmp_path / "got.bin") == sha256(file)
        for path in (LIST, "/v1/manifest.jsonl", "/v1/shard_020.bin"):
            assert get(origin.url, path)[0] == 200
            assert get(second.url, path) == get(first.url, path) == get(origin.url, path)
        for node in (second, first, origin):
            assert node.stop() == 0, node.log
            assert "Traceback" not in node.log


# How a node ends ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("role", ["origin", "middle"])
def test_running_answers_complete_before_shutdown(role: str, number: signal.Signals, tmp_path: Path) -> None:
    file = payload(tmp_path, 30 * MB)
    broadcast(file, tmp_path / "origin", 30 * MB)
    with (
        processes.origin(tmp_path / "origin") as origin,
        processes.middle(origin.url, tmp_path / "middle") as middle,
    ):
        wait_for_versions(middle, "v1")
        node = origin if role == "origin" else middle
        with connect(node, "/v1/shard_001.bin") as reader:
            answer = bytearray(reader.recv(1 << 16))
            node.process.send_signal(number)
            begun = time.monotonic()
            while len(answer) - answer.find(b"\r\n\r\n") - 4 < 30 * MB:
                part = reader.recv(1 << 20)
                assert part, "the answer was cut off"
                answer += part
                time.sleep(max(0.0, begun + len(answer) / (15 * MB) - time.monotonic()))
        assert node.process.wait(30) == 0, node.log
    assert answer.partition(b"\r\n\r\n")[2] == file.read_bytes()


def test_blocked_reader_delays_shutdown_by_5_s(tmp_path: Path) -> None:
    broadcast(payload(tmp_path, 30 * MB), tmp_path / "data", 30 * MB)
    with (
        processes.origin(tmp_path / "data") as origin,
        connect(origin, "/v1/shard_001.bin") as reader,
        connect(origin, "/healthcheck") as idle,
    ):
        assert reader.recv(1)
        assert idle.recv(1000)
        begun = time.monotonic()
        assert origin.stop() == 0, origin.log
        took = time.monotonic() - begun
    assert took < 7.5, f"it took {took:.1f} s to end"  # aiohttp would wait for 5 s twice


# Middles -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("others", [True, False], ids=["beside-an-origin", "alone"])
def test_middle_ignores_itself_as_upstream(others: bool, tmp_path: Path) -> None:
    broadcast(payload(tmp_path, 3 * MB), tmp_path / "origin")
    with processes.origin(tmp_path / "origin") as origin, processes.reserved_port() as port:
        upstream = f"127.0.0.1:{port}" + (f",{origin.url}" if others else "")
        words = ("--data-dir", str(tmp_path / "middle"), "--host", "127.0.0.1", "--port", str(port))
        with processes.node("middle", "--upstream", upstream, *words, "--check-interval", "0.1") as middle:
            middle.wait_for_log("this very middle")
            if others:
                wait_for_versions(middle, "v1")
                broadcast(payload(tmp_path, 3 * MB, seed=2), tmp_path / "origin")
                wait_for_versions(middle, "v1", "v2")
            else:
                begun = time.monotonic()
                processes.wait_until(lambda: time.monotonic() - begun > 0.5, 5, "a few more looks")
            assert middle.log.count("this very middle") == 1
            assert middle.stop() == 0, middle.log
            assert "Traceback" not in middle.log


def test_damaged_shard_is_not_linked_into_next_version(tmp_path: Path) -> None:
    """The two versions share all shards but the last, so that a middle links what it has."""
    first = payload(tmp_path, 8 * MB)
    second = tmp_path / "second.bin"
    second.write_bytes(first.read_bytes()[: 7 * MB] + random_bytes(MB, seed=2))
    broadcast(first, tmp_path / "origin")
    with (
        processes.origin(tmp_path / "origin") as origin,
        processes.middle(origin.url, tmp_path / "middle") as middle,
    ):
        wait_for_versions(middle, "v1")
        with (tmp_path / "middle" / "v1" / "shard_003.bin").open("r+b") as shard:
            shard.seek(500_000)
            shard.write(b"bit rot")
        broadcast(second, tmp_path / "origin")
        wait_for_versions(middle, "v2")
        for number in range(1, 9):
            name = f"shard_{number:03}.bin"
            right = sha256(tmp_path / "origin" / "v2" / name)
            assert sha256(tmp_path / "middle" / "v2" / name) == right, f"{name} of v2 is wrong"


def test_middle_fetches_from_all_living_upstreams(tmp_path: Path) -> None:
    whole = publish(tmp_path / "origin", random_bytes(12 * MB), MB)
    with (
        BadServer(whole.data_dir) as one,
        BadServer(whole.data_dir) as two,
        dead_address() as dead,
        dead_address() as another_dead,
    ):
        for server in (one, two):
            server.set("/v1/shard_*", bad.throttled(10 * MB))
        upstream = f"{dead},{one.address},{another_dead},{two.address}"
        with processes.middle(upstream, tmp_path / "middle") as middle:
            wait_for_versions(middle, "v1")
            assert fetch(middle.url, tmp_path / "got.bin") == whole.sha256
            assert "Traceback" not in middle.log
        assert one.sent_bytes("/v1/shard_*") > MB
        assert two.sent_bytes("/v1/shard_*") > MB


def test_middle_continues_when_an_upstream_dies(tmp_path: Path) -> None:
    whole = publish(tmp_path / "origin", random_bytes(12 * MB), MB)
    with (
        processes.origin(whole.data_dir) as dying,
        BadServer(whole.data_dir).set("/v1/shard_*", bad.throttled(4 * MB)) as slow,
    ):
        # The origin has all but the last shard, which only the slow one sends.
        (whole.data_dir / "v1" / "shard_012.bin").rename(tmp_path / "shard_012.bin")
        opened = threading.Event()
        slow.set("/v1/shard_012.bin", gate(opened))
        with processes.middle(f"{dying.url},{slow.url}", tmp_path / "middle") as middle:
            processes.wait_until(lambda: shards_here(middle, "v1") >= 6, what="half of the shards")
            dying.kill()
            (tmp_path / "shard_012.bin").rename(whole.data_dir / "v1" / "shard_012.bin")
            opened.set()
            wait_for_versions(middle, "v1")
            assert fetch(middle.url, tmp_path / "got.bin") == whole.sha256


def test_killed_middle_does_not_refetch_complete_versions(tmp_path: Path) -> None:
    whole = publish(tmp_path / "origin", random_bytes(5 * MB), MB)
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(processes.reserved_port())
        with BadServer(whole.data_dir, port=port) as upstream:
            middle = stack.enter_context(processes.middle(upstream.url, tmp_path / "middle", *SOON))
            wait_for_versions(middle, "v1")
            middle.kill()
        # Nobody upstream: what is here is served all the same.
        again = stack.enter_context(processes.middle(upstream.url, tmp_path / "middle", *SOON))
        assert list(listed(again.url)) == ["v1"]
        assert fetch(again.url, tmp_path / "got.bin") == whole.sha256
        with BadServer(whole.data_dir, port=port) as back:
            wait_for_looks(back)
            assert back.requested("/v1/*") == 0, "what was here was fetched again"
            publish(whole.data_dir, random_bytes(2 * MB, seed=2), MB)
            wait_for_versions(again, "v1", "v2")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_restarted_middle_fetches_only_missing_shards(number: signal.Signals, tmp_path: Path) -> None:
    whole = publish(tmp_path / "origin", random_bytes(9 * MB), MB)
    had, missing = "/v1/shard_00[1-5].bin", "/v1/shard_00[6-9].bin"
    with BadServer(whole.data_dir).set(missing, bad.stall(MB // 2)) as upstream:
        with processes.middle(upstream.url, tmp_path / "middle") as middle:
            processes.wait_until(lambda: shards_here(middle, "v1") == 5, what="five shards")
            assert get(middle.url, "/v1/shard_005.bin")[1] == whole.payload[4 * MB : 5 * MB]
            assert listed(middle.url) == {}, "listed before it was whole"
            middle.process.send_signal(number)
            assert middle.process.wait(30) == (0 if number == signal.SIGTERM else -number)
        before = upstream.requested(had)
        upstream.set(missing, bad.good())
        with processes.middle(upstream.url, tmp_path / "middle") as again:
            wait_for_versions(again, "v1")
            assert upstream.requested(had) == before, "verified shards were fetched again"
            assert fetch(again.url, tmp_path / "got.bin") == whole.sha256


# Retention ---------------------------------------------------------------------------------------


def test_each_node_keeps_its_own_number_of_versions(tmp_path: Path) -> None:
    data_dir = tmp_path / "origin"
    for seed in range(1, 6):
        publish(data_dir, random_bytes(1000, seed), MB)
    with processes.origin(data_dir, "--keep", "3") as origin:
        assert list(listed(origin.url)) == ["v3", "v4", "v5"]
        with processes.middle(origin.url, tmp_path / "middle", "--keep", "1", *SOON) as middle:
            wait_for_versions(middle, "v5")
            broadcast(payload(tmp_path, 1000, seed=6), data_dir)
            processes.wait_until(lambda: list(listed(middle.url)) == ["v6"], what="only v6 at the middle")
            assert list(listed(origin.url)) == ["v4", "v5", "v6"]
            # What is off the list is removed then.
            processes.wait_until(lambda: folders(tmp_path / "middle") == {"v6"}, what="v5 to go")
    assert folders(data_dir) == {"v4", "v5", "v6"}
    assert folders(tmp_path / "middle") == {"v6"}


def test_numbers_grow_over_restarts_and_removals(tmp_path: Path) -> None:
    file = payload(tmp_path, 1000)
    data_dir = tmp_path / "origin"
    with processes.origin(data_dir):
        assert broadcast(file, data_dir) == "v1"
        assert broadcast(file, data_dir) == "v2"
    assert broadcast(file, data_dir) == "v3"
    for number in (1, 2, 3):
        shutil.rmtree(data_dir / f"v{number}")
    (data_dir / "distribution.txt").unlink()
    with processes.origin(data_dir) as origin:
        assert broadcast(file, data_dir) == "v4"
        assert list(listed(origin.url)) == ["v4"]
        origin.kill()
    with processes.origin(data_dir, "--keep", "1") as origin:
        assert broadcast(file, data_dir) == "v5"
        assert list(listed(origin.url)) == ["v5"]


def test_versions_vanished_upstream_are_kept(tmp_path: Path) -> None:
    whole = publish(tmp_path / "origin", random_bytes(2 * MB), MB)
    publish(whole.data_dir, random_bytes(2 * MB, seed=2), MB)
    offered = (whole.data_dir / "distribution.txt").read_bytes()
    vanishings = {
        "an empty list": bad.replaced(b""),
        "a list without the older version": bad.replaced(offered.partition(b"\n")[2]),
        "a list cut short": bad.replaced(offered[:-30]),
        "no list": bad.error(404),
        "a page": bad.html(),
        "no answer": bad.closed(),
    }
    with (
        BadServer(whole.data_dir) as upstream,
        processes.middle(upstream.url, tmp_path / "middle", *SOON) as middle,
    ):
        wait_for_versions(middle, "v1", "v2")
        before = listed(middle.url)
        for what, behaviour in vanishings.items():
            upstream.set(LIST, behaviour)
            wait_for_looks(upstream)
            assert listed(middle.url) == before, f"{what} took something away"
        assert get(middle.url, "/v1/shard_002.bin") == (200, whole.payload[MB:])
        assert "Traceback" not in middle.log
        publish(whole.data_dir, random_bytes(2 * MB, seed=3), MB)
        upstream.set(LIST, bad.good())
        wait_for_versions(middle, "v1", "v2", "v3")


def test_middle_is_ready_once_it_has_offered_versions(tmp_path: Path) -> None:
    published = publish(tmp_path / "data", random_bytes(3 * MB), MB)
    opened = threading.Event()
    with (
        BadServer(published.data_dir).set(r"/v1/shard_\d+\.bin", gate(opened)) as upstream,
        processes.middle(upstream.url, tmp_path / "middle", *SOON) as middle,
    ):
        waits = (503, b"503: v1 not here yet\n")
        processes.wait_until(lambda: get(middle.url, "/ready") == waits, what="the middle to know of v1")
        assert get(middle.url, "/healthcheck") == (200, b"OK")
        opened.set()
        processes.wait_until(lambda: get(middle.url, "/ready") == (200, b"OK"), what="the middle to be ready")
    with (
        dead_address() as nobody,
        processes.origin(tmp_path / "origin") as origin,
        processes.middle(nobody, tmp_path / "alone", *SOON) as alone,
    ):
        assert get(origin.url, "/ready") == (200, b"OK")
        status, why = get(alone.url, "/ready")
        assert status == 503 and b"no news" in why


def test_late_middle_fetches_open_version_then_newest_first(tmp_path: Path) -> None:
    data_dir = tmp_path / "origin"
    for seed in (1, 2, 3):
        publish(data_dir, random_bytes(2 * MB, seed), MB)
    opened = threading.Event()
    with (
        BadServer(data_dir).set("/v3/shard_002.bin", gate(opened)) as upstream,
        processes.middle(upstream.url, tmp_path / "middle", "--keep", "3", *SOON) as middle,
    ):
        processes.wait_until(lambda: upstream.requested("/v3/shard_002.bin"), what="v3 to be under way")
        publish(data_dir, random_bytes(2 * MB, 4), MB)
        opened.set()
        processes.wait_until(lambda: list(listed(middle.url)) == ["v2", "v3", "v4"], what="the newest three")
        wait_for_looks(upstream)
        assert first_asked(upstream) == ["v3", "v4", "v2"]


def test_restarted_middle_finishes_started_version_first(
    tmp_path: Path,
) -> None:
    data_dir = tmp_path / "origin"
    publish(data_dir, random_bytes(2 * MB, 1), MB)
    with BadServer(data_dir).set("/v1/shard_002.bin", bad.stall(1000)) as upstream:
        with processes.middle(upstream.url, tmp_path / "middle") as middle:
            processes.wait_until(lambda: shards_here(middle, "v1") == 1, what="half of v1")
            middle.kill()
        publish(data_dir, random_bytes(2 * MB, 2), MB)
        upstream.set("*", bad.good())
        upstream.requests.clear()
        with processes.middle(upstream.url, tmp_path / "middle") as middle:
            wait_for_versions(middle, "v1", "v2")
        assert first_asked(upstream) == ["v1", "v2"]


@pytest.mark.parametrize("role", ["origin", "middle"])
def test_version_being_read_is_not_retired(role: str, tmp_path: Path) -> None:
    whole = publish(tmp_path / "origin", random_bytes(20 * MB), 20 * MB)
    keep = ("--keep", "1")
    with contextlib.ExitStack() as stack:
        node = origin = stack.enter_context(
            processes.origin(whole.data_dir, *(keep if role == "origin" else ()))
        )
        if role == "middle":
            node = stack.enter_context(processes.middle(origin.url, tmp_path / "middle", *keep, *SOON))
            wait_for_versions(node, "v1")
        reader = stack.enter_context(connect(node, "/v1/shard_001.bin"))
        answer = bytearray(reader.recv(1 << 16))
        broadcast(payload(tmp_path, 1000, seed=2), whole.data_dir)
        wait_for_versions(node, "v2")
        broadcast(payload(tmp_path, 1000, seed=3), whole.data_dir)
        # v2, which nobody reads, goes; v1 stays although it is older.
        processes.wait_until(lambda: list(listed(node.url)) == ["v1", "v3"], what="v2 to be retired")
        while len(answer) - answer.find(b"\r\n\r\n") - 4 < 20 * MB:
            part = reader.recv(1 << 20)
            assert part, "the answer was cut off"
            answer += part
        assert answer.partition(b"\r\n\r\n")[2] == whole.payload
        # Nor while a reader may be between two shards of it.
        broadcast(payload(tmp_path, 1000, seed=4), whole.data_dir)
        processes.wait_until(lambda: list(listed(node.url)) == ["v1", "v4"], what="v3 to be retired")
        assert get(node.url, "/v1/manifest.jsonl")[0] == 200


# Servers of other makes --------------------------------------------------------------------------


@contextlib.contextmanager
def http_server(data_dir: Path, address: str = "127.0.0.1") -> Iterator[str]:
    """``python -m http.server`` over a data directory; gives its URL."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", address, "--directory", str(data_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        with process.stdout:
            found = re.search(r"\((http://\S+?)/?\)", process.stdout.readline())
            assert found, "http.server did not start"
            yield found[1]
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.parametrize(
    "server",
    [
        pytest.param(http_server, id="http.server"),
        pytest.param(nginx.static, id="nginx", marks=pytest.mark.legacy),
    ],
)
def test_static_web_server_can_be_upstream(server: object, tmp_path: Path) -> None:
    assert callable(server)
    whole = publish(tmp_path / "data", random_bytes(3 * MB), MB)
    with server(whole.data_dir) as url:
        assert fetch(url, tmp_path / "got.bin") == whole.sha256
        with processes.middle(url, tmp_path / "middle", *SOON) as middle:
            wait_for_versions(middle, "v1")
            second = publish(whole.data_dir, random_bytes(3 * MB, seed=2), MB)
            wait_for_versions(middle, "v1", "v2")
            assert fetch(f"{url},{middle.url}", tmp_path / "got.bin") == second.sha256
        offered = processes.run("client", "--servers", url, "--list")
        assert [line.split()[0] for line in offered.stdout.splitlines()] == ["v1", "v2"]


# How servers are named ---------------------------------------------------------------------------


def loopback_of_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")


def test_network_works_over_ipv6(tmp_path: Path) -> None:
    loopback_of_ipv6()
    file = payload(tmp_path, 3 * MB)
    broadcast(file, tmp_path / "origin")
    with (
        processes.origin(tmp_path / "origin", "--host", "::1") as origin,
        processes.middle(f"[::1]:{origin.port}", tmp_path / "middle", "--host", "::1") as middle,
        http_server(tmp_path / "origin", "::1") as static,
    ):
        assert (origin.url, middle.url) == (f"http://[::1]:{origin.port}", f"http://[::1]:{middle.port}")
        wait_for_versions(middle, "v1")
        assert fetch(f"[::1]:{middle.port},{static}", tmp_path / "got.bin") == sha256(file)


@pytest.mark.parametrize(
    "form", ["{} {}", '("{}" "{}")', "{}\n{}\n"], ids=["spaces", "quoted-array", "newlines"]
)
def test_middle_and_client_default_to_ip_addr_list(form: str, tmp_path: Path) -> None:
    whole = publish(tmp_path / "data", random_bytes(MB), MB)
    listen = ("--host", "127.0.0.1", "--port", "0")
    with contextlib.ExitStack() as stack:
        dead = stack.enter_context(dead_address())
        upstream = stack.enter_context(BadServer(whole.data_dir))
        env = {"IP_ADDR_LIST": form.format(dead, upstream.address)}
        words = ("--data-dir", str(tmp_path / "middle"), *listen)
        middle = stack.enter_context(processes.node("middle", *words, env=env))
        wait_for_versions(middle, "v1")
        servers = form.format(dead, f"127.0.0.1:{middle.port}")
        assert fetch("", tmp_path / "got.bin", IP_ADDR_LIST=servers) == whole.sha256
