"""Links that fail and machines that vanish without a word: nothing hangs, and all recovers by itself.

Origins, middles and clients are processes on hosts with links of their own (`support/networks.py`). What
takes long here is waiting, so the tests gain by running at once.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support import networks, processes
from tests.support.networks import Network
from tests.support.processes import Node, wait_until
from tests.support.published import Published, publish, random_bytes, sha256

pytestmark = pytest.mark.root

MB = 1_000_000
SIZE, SHARD = 30 * MB, 4 * MB
RATE = 30.0
"""Mbit/s of a link on which a version takes some eight seconds."""
ONE_VERSION = 8.5
DOWN = 8.0
"""Seconds that a link is down: longer than a feed without a heartbeat lives (``networks.FEED_DEAD``)."""
RECOVERY = 30.0
"""Seconds from the end of an outage until what it stopped moves again, at the most."""
NO_SERVER = 4
AT_ONCE = {"SHARDCAST_MAX_CONCURRENT_DOWNLOADS": "2"}
HASTY = {**AT_ONCE, "SHARDCAST_HTTP_TIMEOUT": "4"}
"""For one that gives its connections up long before an outage ends."""
OVERHEAD = 1.06
"""What packets' headers add."""
IN_FLIGHT = 3 * MB
"""What an outage may cost: the pieces under way on two connections, and what the link's queue held."""
STALLED_READER = 3.0


@pytest.fixture(scope="session")
def networks_can_be_made() -> None:
    try:
        networks.check()
    except networks.Unavailable as error:
        pytest.skip(f"needs network namespaces: {error}")


@pytest.fixture
def stack(networks_can_be_made: None) -> Iterator[contextlib.ExitStack]:
    """What is entered there is left at the end of the test."""
    with contextlib.ExitStack() as entered:
        yield entered


# What is looked at -------------------------------------------------------------------------------


def has(file: Path, expected: str) -> bool:
    """A file has its name only when it is whole; then it must be right."""
    if not file.exists():
        return False
    assert sha256(file) == expected, f"{file} has its name with wrong bytes"
    return True


def version(folder: Path, number: int) -> Path:
    """Where a follower puts a version."""
    return folder / f"download_v{number}.bin"


def listed(network: Network, host: str) -> list[str]:
    """The versions that a node lists, asked on its own host."""

    def get() -> bytes:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{network.url(host)}/distribution.txt", timeout=20) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return b""
            raise

    return re.findall(r"^(v\d+): ", network.inside(host, get).decode(), re.MULTILINE)


def lists(network: Network, host: str, *versions: str) -> bool:
    return set(versions) <= set(listed(network, host))


def wait_for_part(network: Network, *hosts: str, share: float = 0.3) -> None:
    """Wait until so much of a large version has come to each of these hosts."""
    wait_until(
        lambda: min(map(network.received, hosts)) > share * SIZE, what=f"{share:.0%} at {', '.join(hosts)}"
    )


@contextlib.contextmanager
def down_in_the_middle(network: Network, *hosts: str) -> Iterator[None]:
    """Take the links down, each when its host has a part of a version, for as long as the block runs."""
    with contextlib.ExitStack() as outages:
        for host in hosts:
            wait_for_part(network, host)
            outages.enter_context(network.down(host))
        yield


def wait_for(what: str, condition: Callable[[], bool], seconds: float, *nodes: Node) -> float:
    """Wait until it is so, with all of these still running as they were; how long it took."""
    began = time.monotonic()

    def so() -> bool:
        for node in nodes:
            assert node.process.poll() is None, f"it ended by itself:\n{node.log}"
        return condition()

    try:
        wait_until(so, seconds, what)
    except AssertionError as error:
        raise AssertionError(f"{error}\n" + "\n\n".join(node.log for node in nodes)) from None
    for node in nodes:
        assert "Traceback" not in node.log, node.log
    return time.monotonic() - began


def end(download: subprocess.Popen[str], seconds: float) -> tuple[int, str, str]:
    """Wait for the end of a download: its exit code, and what it said on stdout and stderr."""
    try:
        stdout, stderr = download.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        download.kill()
        raise AssertionError(f"it did not end in {seconds:g} s:\n{download.communicate()[1]}") from None
    assert "Traceback" not in stderr, stderr
    return download.returncode, stdout, stderr


def assert_came_once(network: Network, *hosts: str, size: int = SIZE) -> None:
    """What was verified before an outage was not fetched again after it."""
    for host in hosts:
        again = network.received(host) - size * OVERHEAD
        assert again <= IN_FLIGHT, f"{again / MB:.1f} MB came to the {host} again"


def broadcast(data_dir: Path, payload: bytes) -> str:
    """Publish through the origin that runs on a data directory; the payload's digest."""
    file = data_dir.with_name(f"{data_dir.name}.next")
    file.write_bytes(payload)
    done = processes.run("broadcast", str(file), "--data-dir", str(data_dir), "--shard-size", str(SHARD))
    assert done.returncode == 0, done.stderr
    return sha256(file)


def data(folder: Path) -> tuple[str, str]:
    return "--data-dir", str(folder)


# A link is down for a while ----------------------------------------------------------------------


def test_clients_finish_after_their_links_were_down(stack: contextlib.ExitStack, tmp_path: Path) -> None:
    first = publish(tmp_path / "origin", random_bytes(SIZE), SHARD)
    folder, output = tmp_path / "followed", tmp_path / "out" / "model.bin"
    network = stack.enter_context(networks.network(origin=None, middle=None, follower=RATE, reader=RATE))
    origin = stack.enter_context(network.node("origin", "origin", *data(first.data_dir)))
    upstream = ("--upstream", origin.url)
    middle = stack.enter_context(network.node("middle", "middle", *upstream, *data(tmp_path / "middle")))
    wait_for("v1 at the middle", partial(lists, network, "middle", "v1"), 30, middle)

    follower = stack.enter_context(network.follower("follower", middle.url, folder, AT_ONCE))
    reader = stack.enter_context(network.download("reader", middle.url, output, HASTY))
    with down_in_the_middle(network, "follower", "reader"):
        assert not version(folder, 1).exists()
        assert not output.exists()
        time.sleep(DOWN)
        assert reader.poll() is None, "it gave up"
    up = time.monotonic()
    wait_for("v1", partial(has, version(folder, 1), first.sha256), RECOVERY + ONE_VERSION, follower)
    code, _, stderr = end(reader, up + RECOVERY + ONE_VERSION - time.monotonic())
    assert code == 0, stderr
    assert has(output, first.sha256)
    assert_came_once(network, "follower", "reader")

    broadcast(first.data_dir, random_bytes(MB, 2))
    wait_for("v2", version(folder, 2).exists, RECOVERY, follower, middle, origin)


def test_middle_and_its_follower_finish_after_the_link_was_down(
    stack: contextlib.ExitStack, tmp_path: Path
) -> None:
    first = publish(tmp_path / "origin", random_bytes(SIZE), SHARD)
    folder = tmp_path / "followed"
    network = stack.enter_context(networks.network(origin=None, middle=RATE, follower=None))
    origin = stack.enter_context(network.node("origin", "origin", *data(first.data_dir)))
    upstream = ("--upstream", origin.url, *data(tmp_path / "middle"))
    middle = stack.enter_context(network.node("middle", "middle", *upstream, env=AT_ONCE))
    follower = stack.enter_context(network.follower("follower", middle.url, folder, AT_ONCE))
    with down_in_the_middle(network, "middle"):
        time.sleep(DOWN)
        assert listed(network, "middle") == []
    seconds = RECOVERY + ONE_VERSION
    wait_for("v1 at the middle", partial(lists, network, "middle", "v1"), seconds, middle)
    wait_for("v1", partial(has, version(folder, 1), first.sha256), seconds, follower)
    assert_came_once(network, "middle", "follower")

    broadcast(first.data_dir, random_bytes(MB, 2))
    wait_for("v2", version(folder, 2).exists, RECOVERY, follower, middle, origin)


def test_live_version_arrives_after_its_origin_was_cut_off(
    stack: contextlib.ExitStack, tmp_path: Path
) -> None:
    payload = random_bytes(SIZE)
    data_dir, folder = tmp_path / "origin", tmp_path / "followed"
    network = stack.enter_context(networks.network(origin=RATE, middle=None, follower=None))
    origin = stack.enter_context(network.node("origin", "origin", *data(data_dir)))
    upstream = ("--upstream", origin.url, *data(tmp_path / "middle"))
    middle = stack.enter_context(network.node("middle", "middle", *upstream, env=HASTY))
    follower = stack.enter_context(network.follower("follower", middle.url, folder, AT_ONCE))
    with piped(data_dir) as writer:
        assert writer.stdin
        writer.stdin.write(payload[: SIZE // 2])
        writer.stdin.flush()
        wait_for_part(network, "follower")
        with network.down("origin"):
            writer.stdin.write(payload[SIZE // 2 : -SHARD])
            writer.stdin.flush()
            time.sleep(DOWN)
        seconds = RECOVERY + ONE_VERSION
        so_far = (SIZE - 2 * SHARD) * 1.0
        wait_for("what is made by now", lambda: network.received("follower") > so_far, seconds, follower)
        assert not version(folder, 1).exists()
        stdout, stderr = writer.communicate(payload[-SHARD:], timeout=30)
        assert (writer.returncode, stdout) == (0, b"v1\n"), stderr
    expected = Published(data_dir, "v1", payload).sha256
    wait_for("v1", partial(has, version(folder, 1), expected), 10 + ONE_VERSION, follower)
    wait_for("v1 at the middle", partial(lists, network, "middle", "v1"), 10, middle, origin)
    assert_came_once(network, "middle", "follower")


@contextlib.contextmanager
def piped(data_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``shardcast broadcast -``, killed at the end."""
    process = processes.Popen(
        processes.command("broadcast", "-", "--data-dir", str(data_dir), "--shard-size", str(SHARD)),
        env=processes.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


# An address from which nothing ever comes --------------------------------------------------------


def test_server_with_lost_packets_costs_seconds_and_is_used_again(
    stack: contextlib.ExitStack, tmp_path: Path
) -> None:
    size = 2 * MB
    first = publish(tmp_path / "here", random_bytes(size), SHARD)
    shutil.copytree(first.data_dir, tmp_path / "hole")  # the same version of the same origin
    followed = tmp_path / "followed"
    names = ("here", "hole", "middle", "patient", "reader", "lost")
    network = stack.enter_context(networks.network(**dict.fromkeys(names)))
    here = stack.enter_context(network.node("here", "origin", *data(first.data_dir)))
    hole = stack.enter_context(network.node("hole", "origin", *data(tmp_path / "hole")))
    network.drop_packets("hole")
    both = f"{hole.url},{here.url}"

    began = time.monotonic()
    upstream = ("--upstream", both, *data(tmp_path / "middle"))
    middle = stack.enter_context(network.node("middle", "middle", *upstream))
    follower = stack.enter_context(network.follower("patient", hole.url, followed))
    reader = stack.enter_context(network.download("reader", both, tmp_path / "got.bin"))
    lost = stack.enter_context(network.download("lost", hole.url, tmp_path / "nothing.bin"))

    # Beside another server: as long as a connection is tried for, at the most.
    code, _, stderr = end(reader, 20)
    assert code == 0, stderr
    assert has(tmp_path / "got.bin", first.sha256)
    wait_for("v1 at the middle", partial(lists, network, "middle", "v1"), 20, middle)
    # Alone: 10 s, the last try of 5 s, and what starting a process takes on a machine that is busy.
    code, stdout, stderr = end(lost, began + 45 - time.monotonic())
    assert (code, stdout) == (NO_SERVER, ""), stderr
    assert re.search(f"no server could be reached.*{re.escape(network.address('hole'))}", stderr), stderr
    assert not (tmp_path / "nothing.bin").exists()
    assert time.monotonic() - began > 8, "it gave up too early"

    wait_for("the warning", lambda: "tried again" in follower.log, 10, follower)
    assert not version(followed, 1).exists()
    second = broadcast(tmp_path / "hole", random_bytes(size, 2))
    network.pass_packets("hole")
    wait_for("v2", partial(has, version(followed, 2), second), RECOVERY, follower)
    wait_for("v2 at the middle", partial(lists, network, "middle", "v1", "v2"), RECOVERY, middle)


# A machine that vanishes -------------------------------------------------------------------------


def test_silent_server_is_left_at_once_for_another(stack: contextlib.ExitStack, tmp_path: Path) -> None:
    first = publish(tmp_path / "one", random_bytes(SIZE), SIZE)  # a single shard, from a single server
    shutil.copytree(first.data_dir, tmp_path / "two")
    output = tmp_path / "out" / "model.bin"
    network = stack.enter_context(networks.network(one=RATE, two=RATE, reader=None))
    nodes = [
        stack.enter_context(network.node(host, "origin", *data(tmp_path / host))) for host in ("one", "two")
    ]
    servers = ",".join(node.url for node in nodes)
    single = {"SHARDCAST_MAX_CONCURRENT_DOWNLOADS": "1"}
    reader = stack.enter_context(network.download("reader", servers, output, single))
    wait_for_part(network, "reader")
    network.take_down(max(("one", "two"), key=network.sent))
    code, stdout, stderr = end(reader, 25)  # were it alone, it would be left after 30 s
    assert code == 0, stderr
    assert has(output, first.sha256)
    assert min(json.loads(stdout)["received"].values()) > SIZE / 4, "it came from one of them alone"
    assert_came_once(network, "reader")


def test_server_is_found_again_after_power_loss(stack: contextlib.ExitStack, tmp_path: Path) -> None:
    small = publish(tmp_path / "origin", random_bytes(MB), SHARD)
    folder = tmp_path / "followed"
    network = stack.enter_context(networks.network(origin=RATE, spare=RATE, middle=None, follower=None))
    origin = stack.enter_context(network.node("origin", "origin", *data(small.data_dir)))
    upstream = ("--upstream", origin.url, *data(tmp_path / "middle"))
    middle = stack.enter_context(network.node("middle", "middle", *upstream, env=HASTY))
    follower = stack.enter_context(network.follower("follower", origin.url, folder, HASTY))
    wait_for("v1", version(folder, 1).exists, 20, follower)
    wait_for("v1 at the middle", partial(lists, network, "middle", "v1"), 20, middle)
    large = broadcast(small.data_dir, random_bytes(SIZE, 2))
    wait_for_part(network, "middle", "follower", share=0.2)

    network.replace("origin", by="spare")
    assert listed(network, "middle") == ["v1"]
    assert not version(folder, 2).exists()
    origin.kill()
    again = stack.enter_context(network.node("spare", "origin", *data(small.data_dir)))
    until = time.monotonic() + RECOVERY + 2 * ONE_VERSION  # both are sent at once over the origin's link
    last = broadcast(small.data_dir, random_bytes(MB, 3))
    for number, digest in ((2, large), (3, last)):
        here = partial(has, version(folder, number), digest)
        wait_for(f"v{number}", here, until - time.monotonic(), follower, again)
    all_there = partial(lists, network, "middle", "v1", "v2", "v3")
    wait_for("all at the middle", all_there, until - time.monotonic(), middle)
    assert_came_once(network, "middle", "follower", size=SIZE + 2 * MB)


def test_vanished_readers_are_not_waited_for(stack: contextlib.ExitStack, tmp_path: Path) -> None:
    first = publish(tmp_path / "origin", random_bytes(SIZE), SIZE)
    network = stack.enter_context(networks.network(origin=None, vanishing=None, reader=None))
    origin = stack.enter_context(impatient_origin(network, first.data_dir))
    before = descriptors(origin)
    readers = 10
    for _ in range(readers):
        stack.enter_context(contextlib.closing(begin_to_read(network, "vanishing")))
    wait_until(lambda: descriptors(origin) >= before + 2 * readers, what="all answers to begin")
    network.take_down("vanishing")

    output = tmp_path / "got.bin"
    reader = stack.enter_context(network.download("reader", origin.url, output))
    code, _, stderr = end(reader, 20)
    assert code == 0, stderr
    assert has(output, first.sha256)
    wait_for(
        "the answers to end", lambda: descriptors(origin) < before + readers, STALLED_READER + 20, origin
    )


def test_slow_but_steady_reader_is_waited_for(stack: contextlib.ExitStack, tmp_path: Path) -> None:
    size = 8 * MB
    first = publish(tmp_path / "origin", random_bytes(size), size)
    network = stack.enter_context(networks.network(origin=None, reader=10.0))
    origin = stack.enter_context(impatient_origin(network, first.data_dir))
    single = {"SHARDCAST_MAX_CONCURRENT_DOWNLOADS": "1"}
    reader = stack.enter_context(network.download("reader", origin.url, tmp_path / "got.bin", single))
    code, _, stderr = end(reader, 60)
    assert code == 0, stderr
    assert has(tmp_path / "got.bin", first.sha256)
    assert "took nothing" not in origin.log, "it was dropped"


def impatient_origin(network: Network, data_dir: Path) -> contextlib.AbstractContextManager[Node]:
    """An origin that drops a reader which takes nothing for ``STALLED_READER`` seconds."""
    env = {"SHARDCAST_STALLED_READER": str(STALLED_READER)}
    return network.node("origin", "origin", *data(data_dir), env=env)


def descriptors(node: Node) -> int:
    """How many files and connections a node has open."""
    return len(list(Path(f"/proc/{node.process.pid}/fd").iterdir()))


def begin_to_read(network: Network, host: str) -> http.client.HTTPConnection:
    """Ask the origin for a large shard, from a host, and read next to nothing of it."""

    def connect() -> socket.socket:
        return socket.create_connection((network.address("origin"), int(networks.PORT)), timeout=10)

    connection = http.client.HTTPConnection(network.address("origin"))
    connection.sock = network.inside(host, connect)
    connection.request("GET", "/v1/shard_001.bin")
    assert connection.getresponse().read(1000)
    return connection
