"""Lines of versions over real sockets: publishers that begin anew, restored and copied directories, servers
that lag, flap and lie. The rules themselves are tested in ``test_line_tracker``."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from shardcast.control.client import publish
from shardcast.errors import NoNode
from shardcast.protocol.distribution import Listing, parse
from shardcast.protocol.feed import WITHDRAWN, Event
from shardcast.protocol.manifest_reader import parse as parse_manifest
from tests.support import processes
from tests.support.bad_answers import gate
from tests.support.feeds import FeedServer, origin_id
from tests.support.processes import Node, wait_until
from tests.support.published import publish as publish_into

KB = 1000
QUICK = {
    "SHARDCAST_LINE_CONFIRMED": "1",
    "SHARDCAST_AUTHORITY_SILENT": "2",
    "SHARDCAST_LISTS_CONFIRMED": "2",
    "SHARDCAST_LINE_PAUSE": "1",
    "SHARDCAST_CHECK_INTERVAL": "0.5",
}
"""The times of the rules, made short."""
SHARD = 20 * KB


def payload(folder: Path, seed: int, size: int = 100 * KB) -> Path:
    file = folder / f"payload-{seed}-{size}.bin"
    file.write_bytes(Random(seed).randbytes(size))
    return file


def listings_in(data_dir: Path) -> list[Listing]:
    """Return the versions of a data directory with the digests of their manifests."""
    found = []
    for one in parse((data_dir / "distribution.txt").read_bytes()).listings:
        file = data_dir / one.version / "manifest.jsonl"
        identity = parse_manifest(file.read_bytes()).identity if file.exists() else None
        found.append(Listing(one.version, one.digest, one.shards, identity))
    return found


def forged(manifest: Path, name: str) -> bytes:
    """Return a manifest with another name and other metadata in its header."""
    first, _, rest = manifest.read_bytes().partition(b"\n")
    header = json.loads(first) | {"name": name, "metadata": {"forged": True}}
    return json.dumps(header, separators=(",", ":")).encode() + b"\n" + rest


def broadcast(data_dir: Path, *files: Path) -> list[str]:
    """Publish files through the origin that runs on a directory, or into it; a command each would cost the
    machine more than what is tested here."""
    with contextlib.suppress(NoNode):
        return [[*publish(data_dir, file, SHARD)][-1]["complete"] for file in files]
    return [publish_into(data_dir, file.read_bytes(), SHARD).version for file in files]


def origin(data_dir: Path, port: int = 0, *words: str) -> contextlib.AbstractContextManager[Node]:
    at = ("--host", "127.0.0.1", "--port", str(port))
    return processes.node("origin", "--data-dir", str(data_dir), *at, *words, env=QUICK)


def middle(
    upstream: str, data_dir: Path, *words: str, port: int = 0
) -> contextlib.AbstractContextManager[Node]:
    at = ("--host", "127.0.0.1", "--port", str(port))
    words = ("--upstream", upstream, "--data-dir", str(data_dir), *at, *words)
    return processes.node("middle", *words, env=QUICK)


@contextlib.contextmanager
def on_one_port(tmp_path: Path) -> Iterator[int]:
    with processes.reserved_port() as port:
        yield port


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return bytes(answer.read())


def listed(node: Node | str) -> dict[str, str]:
    url = node if isinstance(node, str) else node.url
    lines = fetch(f"{url}/distribution.txt").decode().split("\n")[:-1]
    return dict(line.split(": ") for line in lines)


def is_ready(node: Node) -> bool:
    try:
        return fetch(f"{node.url}/ready") == b"OK"
    except urllib.error.HTTPError as error:
        assert error.code == 503
        return False


def status(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(fetch(f"{node.url}/status"))
    return found


def sent(node: Node) -> int:
    return sum(one["sent"] for one in status(node)["versions"])


def until_same(node: Node, other: Node, timeout: float = 30) -> None:
    wait_until(lambda: listed(node) == listed(other) != {}, timeout, f"{listed(other)} at {node.log}")


def download(servers: str, version: str, output: Path, *words: str) -> subprocess.CompletedProcess[str]:
    words = ("--servers", servers, "--version", version, "--output-file", str(output), *words)
    return processes.run("client", *words, env=QUICK)


# The publisher begins anew -----------------------------------------------------------------------


def test_fresh_directory_reaches_middles_and_their_readers(tmp_path: Path) -> None:
    with on_one_port(tmp_path) as port, origin(tmp_path / "a", port) as first:
        broadcast(tmp_path / "a", payload(tmp_path, 1), payload(tmp_path, 2))
        with middle(first.url, tmp_path / "m") as relay, middle(relay.url, tmp_path / "n") as below:
            until_same(below, first)
            old = listed(first)
            first.kill()
            with origin(tmp_path / "b", port) as second:
                time.sleep(1.5)  # an empty line is no reason to leave the old one
                assert listed(relay) == old
                broadcast(tmp_path / "b", payload(tmp_path, 3))
                until_same(relay, second)
                until_same(below, second)
                assert status(below)["origin"] == origin_id(tmp_path / "b")
                done = download(below.url, "latest", tmp_path / "out")
                assert done.returncode == 0, done.stderr
                assert (tmp_path / "out").read_bytes() == payload(tmp_path, 3).read_bytes()
                aside = status(relay)["aside"]
                assert [one["version"] for one in aside] == ["v1", "v2"]
                assert {one["origin"] for one in aside} == {origin_id(tmp_path / "a")}


def test_v1_of_new_line_is_announced_as_new_line(tmp_path: Path) -> None:
    with on_one_port(tmp_path) as port, contextlib.ExitStack() as stack:
        first = stack.enter_context(origin(tmp_path / "a", port))
        broadcast(tmp_path / "a", payload(tmp_path, 1), payload(tmp_path, 2))
        out = stack.enter_context((tmp_path / "said").open("wb"))
        hook = f'echo "{{version}} $SHARDCAST_NEW_LINE" >> {tmp_path / "hooks"}'
        words = ("client", "--follow", "--servers", first.url, "--output-dir", str(tmp_path / "got"))
        follower = processes.Popen(
            processes.command(*words, "--exec", hook), env=processes.environment(**QUICK), stdout=out
        )
        stack.callback(follower.wait, 30)
        stack.callback(follower.kill)
        said = tmp_path / "said"
        wait_until(lambda: b'"v2"' in said.read_bytes())
        first.kill()
        stack.enter_context(origin(tmp_path / "b", port))
        broadcast(tmp_path / "b", payload(tmp_path, 3))
        wait_until(lambda: said.read_bytes().count(b"\n") == 2, what="the other line")
        lines = [json.loads(line) for line in said.read_text().splitlines()]
        assert [(one["version"], one["new_line"]) for one in lines] == [("v2", False), ("v1", True)]
        assert lines[1]["origin"] == origin_id(tmp_path / "b")
        assert (tmp_path / "got" / "latest").resolve().read_bytes() == payload(tmp_path, 3).read_bytes()
        wait_until(lambda: (tmp_path / "hooks").read_text().count("\n") == 2)
        assert (tmp_path / "hooks").read_text().splitlines() == ["v2 ", f"v1 {origin_id(tmp_path / 'b')}"]


def test_restored_directory_is_followed_once_it_publishes(tmp_path: Path) -> None:
    with on_one_port(tmp_path) as port:
        files = [payload(tmp_path, seed) for seed in range(1, 7)]
        broadcast(tmp_path / "a", *files[:3])
        shutil.copytree(tmp_path / "a", tmp_path / "backup", symlinks=True)
        broadcast(tmp_path / "a", *files[3:])
        with origin(tmp_path / "a", port) as first, middle(first.url, tmp_path / "m") as relay:
            until_same(relay, first)
            six = listed(relay)
            first.kill()
            with origin(tmp_path / "backup", port) as second:
                time.sleep(2.5)
                assert listed(relay) == six  # a shorter list moves nothing
                broadcast(tmp_path / "backup", payload(tmp_path, 40))
                until_same(relay, second)
                now = listed(relay)
                assert sorted(now) == ["v1", "v2", "v3", "v4"]
                assert {v: now[v] for v in ("v1", "v2", "v3")} == {v: six[v] for v in ("v1", "v2", "v3")}
                assert now["v4"] != six["v4"]


def test_undone_change_of_line_refetches_nothing_and_keeps_pins(tmp_path: Path) -> None:
    with on_one_port(tmp_path) as port, origin(tmp_path / "a", port) as first:
        broadcast(tmp_path / "a", payload(tmp_path, 1, 400 * KB), payload(tmp_path, 2, 400 * KB))
        relay_words = middle(first.url, tmp_path / "m")
        with relay_words as relay:
            until_same(relay, first)
            assert processes.run("pin", "v1", "--data-dir", str(tmp_path / "m")).returncode == 0
            old = listed(relay)
            first.kill()
            with origin(tmp_path / "typo", port) as wrong:
                broadcast(tmp_path / "typo", payload(tmp_path, 9))
                until_same(relay, wrong)
                wrong.kill()
            with origin(tmp_path / "a", port) as again:
                wait_until(lambda: listed(relay) == old, what=f"the old line:\n{relay.log}")
                assert sent(again) == 0
                held = {one["version"]: one["held"] for one in status(relay)["versions"]}
                assert [one["kind"] for one in held["v1"]] == ["pin"]
                assert "two origins answer" in relay.log


def test_origins_on_copies_of_a_directory_are_separate_groups(tmp_path: Path) -> None:
    broadcast(tmp_path / "a", payload(tmp_path, 1))
    shutil.copytree(tmp_path / "a", tmp_path / "b", symlinks=True)
    broadcast(tmp_path / "a", payload(tmp_path, 2))
    broadcast(tmp_path / "b", payload(tmp_path, 3))
    with (
        origin(tmp_path / "a") as one,
        origin(tmp_path / "b") as other,
        middle(f"{one.url},{other.url}", tmp_path / "m") as relay,
    ):
        until_same(relay, one)
        relay.wait_for_log("contradict")
        done = download(f"{one.url},{other.url}", "v2", tmp_path / "out")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "out").read_bytes() == payload(tmp_path, 2).read_bytes()
        time.sleep(1.5)
        assert listed(relay) == listed(one)


# Servers that lag, flap and lie ------------------------------------------------------------------


def test_first_server_flapping_between_origins_changes_nothing(tmp_path: Path) -> None:
    with on_one_port(tmp_path) as port:
        broadcast(tmp_path / "a", payload(tmp_path, 1))
        broadcast(tmp_path / "b", payload(tmp_path, 2))
        with origin(tmp_path / "a", port) as first, middle(first.url, tmp_path / "m") as relay:
            until_same(relay, first)
            old = listed(relay)
            first.kill()
            for data_dir in ("b", "a", "b", "a"):
                with origin(tmp_path / data_dir, port) as now:
                    wait_until(lambda: status(relay)["upstreams"][0]["state"] == "followed")
                    time.sleep(0.3)
                    now.kill()
            assert listed(relay) == old


def test_quick_restart_of_origin_changes_nothing(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(processes.reserved_port())
        first = stack.enter_context(origin(tmp_path / "a", port))
        relay = stack.enter_context(middle(first.url, tmp_path / "m"))
        broadcast(tmp_path / "a", payload(tmp_path, 1))
        until_same(relay, first)
        first.kill()
        again = stack.enter_context(origin(tmp_path / "a", port))
        broadcast(tmp_path / "a", payload(tmp_path, 2))
        until_same(relay, again)
        assert sorted(listed(relay)) == ["v1", "v2"]
        assert "changed over" not in relay.log


@pytest.mark.parametrize("own_id", [True, False], ids=["own id", "honest id"])
def test_hostile_second_server_is_unlisted_and_retires_nothing(tmp_path: Path, own_id: bool) -> None:
    broadcast(tmp_path / "a", *(payload(tmp_path, seed) for seed in (1, 2, 3, 4)))
    broadcast(tmp_path / "bad", *(payload(tmp_path, seed) for seed in (11, 12, 13, 14, 15)))
    junk = [Listing(f"v{10**17 + n}", f"{n:064x}", 1) for n in range(16)]
    claimed = origin_id(tmp_path / ("bad" if own_id else "a"))
    real = listings_in(tmp_path / "bad")
    with origin(tmp_path / "a") as honest, FeedServer(tmp_path / "bad") as hostile:
        hostile.set_feed(claimed, [*(real if own_id else real[4:]), *junk])
        both = f"{honest.url},{hostile.url}"
        with middle(both, tmp_path / "m", "--keep", "3") as relay:
            wait_until(lambda: sorted(listed(relay)) == ["v2", "v3", "v4"], what=relay.log)
            broadcast(tmp_path / "a", payload(tmp_path, 5))
            wait_until(lambda: "v5" in listed(relay), what=relay.log)
            assert listed(relay)["v5"] == listed(honest)["v5"]
            done = download(both, "latest", tmp_path / "out", "--json")
            assert done.returncode == 0, done.stderr
            assert (tmp_path / "out").read_bytes() == payload(tmp_path, 5).read_bytes()
            shown = processes.run("client", "--servers", both, "--list", env=QUICK)
            assert [line.split()[0] for line in shown.stdout.splitlines()] == [f"v{n}" for n in range(1, 6)]
        with middle(honest.url, tmp_path / "m", "--keep", "3") as relay:  # and after a restart without it
            wait_until(lambda: is_ready(relay), what=relay.log)
            assert sorted(listed(relay)) == ["v3", "v4", "v5"]


def test_hostile_first_server_does_not_make_middle_drop_its_line(tmp_path: Path) -> None:
    broadcast(tmp_path / "a", payload(tmp_path, 1), payload(tmp_path, 2))
    with origin(tmp_path / "a") as honest, FeedServer(tmp_path) as hostile:
        hostile.set_feed("ab" * 16, [Listing("v9", "cd" * 32, 1)])  # and it serves nothing
        with middle(honest.url, tmp_path / "m") as relay:
            until_same(relay, honest)
        with middle(f"{hostile.url},{honest.url}", tmp_path / "m") as relay:
            relay.wait_for_log("is tried again later")
            assert listed(relay) == listed(honest)
            assert not is_ready(relay)
            done = download(relay.url, "latest", tmp_path / "out", "--json")
            assert json.loads(done.stdout)["version"] == "v2"


def test_version_unlisted_by_authority_is_fetched_only_by_name(tmp_path: Path) -> None:
    broadcast(tmp_path / "a", payload(tmp_path, 1))
    shutil.copytree(tmp_path / "a", tmp_path / "b", symlinks=True)
    broadcast(tmp_path / "b", payload(tmp_path, 2))
    with origin(tmp_path / "a") as one, origin(tmp_path / "b") as other:
        both = f"{one.url},{other.url}"
        done = download(both, "latest", tmp_path / "out", "--json")
        assert json.loads(done.stdout)["version"] == "v1"
        shown = processes.run("client", "--servers", both, "--list", env=QUICK)
        assert [line.split()[0] for line in shown.stdout.splitlines()] == ["v1"]
        done = download(both, "v2", tmp_path / "out2")
        assert done.returncode == 0, done.stderr
        assert f"v2 is offered by {other.url} only" in done.stderr
        assert (tmp_path / "out2").read_bytes() == payload(tmp_path, 2).read_bytes()


def test_forged_name_from_server_without_bytes_is_not_shown(tmp_path: Path) -> None:
    broadcast(tmp_path / "a", payload(tmp_path, 1))
    (tmp_path / "bad" / "v1").mkdir(parents=True)
    shutil.copy(tmp_path / "a" / "distribution.txt", tmp_path / "bad")
    manifest = forged(tmp_path / "a" / "v1" / "manifest.jsonl", "evil.bin")
    (tmp_path / "bad" / "v1" / "manifest.jsonl").write_bytes(manifest)
    with origin(tmp_path / "a") as honest, FeedServer(tmp_path / "bad") as hostile:
        real, lie = listings_in(tmp_path / "a"), listings_in(tmp_path / "bad")
        assert real[0].manifest != lie[0].manifest
        for told in (real, lie):  # it tells the honest manifest's digest, or its own
            hostile.set_feed(origin_id(tmp_path / "a"), told)
            both = f"{honest.url},{hostile.url}"
            for servers in (both, f"{hostile.url},{honest.url}") if told is real else (both,):
                shown = processes.run("client", "--servers", servers, "--list", "--json", env=QUICK)
                if servers == both:
                    assert "evil" not in shown.stdout
                done = download(servers, "v1", tmp_path / "out", "--json")
                assert done.returncode == 0, done.stderr
                if servers == both:
                    assert json.loads(done.stdout)["name"] != "evil.bin"
            with middle(both, tmp_path / f"m-{len(list(tmp_path.iterdir()))}") as relay:
                until_same(relay, honest)
                assert b"evil" not in fetch(f"{relay.url}/v1/manifest.jsonl")


def test_manifest_of_other_line_than_hello_is_refused(tmp_path: Path) -> None:
    broadcast(tmp_path / "a", payload(tmp_path, 1))
    one = listings_in(tmp_path / "a")[0]
    with FeedServer(tmp_path / "a") as server:
        server.set_feed("ab" * 16, [Listing(one.version, one.digest, one.shards)])
        done = download(server.url, "v1", tmp_path / "out")
        assert done.returncode == 1
        assert "another line" in done.stderr
        assert "Traceback" not in done.stderr


def test_middles_naming_each_other_first_get_every_version(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        a, b = (stack.enter_context(processes.reserved_port()) for _ in range(2))
        root = stack.enter_context(origin(tmp_path / "o"))
        servers = f"127.0.0.1:{a},127.0.0.1:{b},{root.url}"  # one list for all
        nodes = [stack.enter_context(middle(servers, tmp_path / f"m{port}", port=port)) for port in (a, b)]
        for seed in (1, 2, 3):
            broadcast(tmp_path / "o", payload(tmp_path, seed))
            for one in nodes:
                until_same(one, root)
        wait_until(lambda: {status(one)["distance"] for one in nodes} in ({1}, {1, 2}), what="no circle")


def test_lagging_second_layer_delays_and_removes_nothing(tmp_path: Path) -> None:
    with origin(tmp_path / "o") as root, middle(root.url, tmp_path / "m1") as upper:
        broadcast(tmp_path / "o", payload(tmp_path, 1))
        until_same(upper, root)
        shutil.copytree(tmp_path / "m1", tmp_path / "static", ignore=shutil.ignore_patterns(".shardcast"))
        with FeedServer(tmp_path / "static") as lagging:
            lagging.set_feed(
                origin_id(tmp_path / "o"), listings_in(tmp_path / "static"), distance=1, chain=("x",)
            )
            with middle(f"{upper.url},{lagging.url}", tmp_path / "m2") as lower:
                broadcast(tmp_path / "o", payload(tmp_path, 2))
                until_same(lower, root)
                time.sleep(1)
                assert sorted(listed(lower)) == ["v1", "v2"]


def test_version_comes_from_others_when_first_middle_is_full(tmp_path: Path) -> None:
    with origin(tmp_path / "o") as root:
        broadcast(tmp_path / "o", payload(tmp_path, 1, 50 * KB))
        with middle(root.url, tmp_path / "full", "--max-bytes", "60KB") as full:
            until_same(full, root)
            assert processes.run("pin", "v1", "--data-dir", str(tmp_path / "full")).returncode == 0
            with middle(f"{full.url},{root.url}", tmp_path / "m") as relay:
                broadcast(tmp_path / "o", payload(tmp_path, 2, 50 * KB))
                until_same(relay, root)
                assert sorted(listed(full)) == ["v1"]


def test_next_server_speaks_when_authority_is_cut_off(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(processes.reserved_port())
        broadcast(tmp_path / "o", payload(tmp_path, 1))
        shutil.copytree(tmp_path / "o", tmp_path / "o2", symlinks=True)
        root = stack.enter_context(origin(tmp_path / "o"))
        gone = stack.enter_context(origin(tmp_path / "o2", port))
        cut = stack.enter_context(middle(gone.url, tmp_path / "cut"))
        until_same(cut, root)
        relay = stack.enter_context(middle(f"{cut.url},{root.url}", tmp_path / "m"))
        until_same(relay, root)
        gone.kill()
        broadcast(tmp_path / "o", payload(tmp_path, 2))
        until_same(relay, root)
        assert sorted(listed(cut)) == ["v1"]


def test_provisional_version_is_unlisted_when_authority_returns(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(processes.reserved_port())
        broadcast(tmp_path / "o", payload(tmp_path, 1))
        shutil.copytree(tmp_path / "o", tmp_path / "copy", symlinks=True)
        broadcast(tmp_path / "copy", payload(tmp_path, 2))
        root = stack.enter_context(origin(tmp_path / "o", port))
        other = stack.enter_context(origin(tmp_path / "copy"))
        relay = stack.enter_context(middle(f"{root.url},{other.url}", tmp_path / "m"))
        until_same(relay, root)
        root.kill()
        wait_until(lambda: "v2" in listed(relay), what=relay.log)
        root = stack.enter_context(origin(tmp_path / "o", port))
        wait_until(lambda: sorted(listed(relay)) == ["v1"], what=relay.log)
        before = sent(other)
        broadcast(tmp_path / "o", payload(tmp_path, 2))  # the very same bytes, in another manifest
        until_same(relay, root)
        assert sent(other) == before


# Which line to accept ----------------------------------------------------------------------------


def test_origin_id_option_accepts_only_that_line(tmp_path: Path) -> None:
    broadcast(tmp_path / "a", payload(tmp_path, 1))
    broadcast(tmp_path / "b", payload(tmp_path, 2))
    right = origin_id(tmp_path / "b")
    with origin(tmp_path / "a") as wrong, origin(tmp_path / "b") as good:
        both, only = f"{wrong.url},{good.url}", ("--origin-id", right)
        with middle(both, tmp_path / "m", *only) as relay:
            until_same(relay, good)
        done = download(both, "latest", tmp_path / "out", *only)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "out").read_bytes() == payload(tmp_path, 2).read_bytes()
        done = download(wrong.url, "v1", tmp_path / "none", *only)
        assert done.returncode == 3
        assert right in done.stderr
        assert not (tmp_path / "none").exists()
    done = download("127.0.0.1:1", "v1", tmp_path / "none", "--origin-id", "no/id")
    assert done.returncode == 2


def test_origin_prints_id_of_fresh_directory_only(tmp_path: Path) -> None:
    with origin(tmp_path / "a") as first:
        assert origin_id(tmp_path / "a") in first.log
    with origin(tmp_path / "a") as again:
        assert "new data directory" not in again.log


# Withdrawing -------------------------------------------------------------------------------------


def withdraw(data_dir: Path, version: str, reason: str = "loss was NaN") -> None:
    done = processes.run("withdraw", version, "--data-dir", str(data_dir), "--reason", reason)
    assert done.returncode == 0, done.stderr


def test_withdrawal_passes_two_layers_and_is_permanent(tmp_path: Path) -> None:
    with (
        origin(tmp_path / "o") as root,
        middle(root.url, tmp_path / "m1") as upper,
        middle(upper.url, tmp_path / "m2") as lower,
    ):
        broadcast(tmp_path / "o", payload(tmp_path, 1), payload(tmp_path, 2))
        until_same(lower, root)
        assert processes.run("pin", "v2", "--data-dir", str(tmp_path / "m1")).returncode == 0
        withdraw(tmp_path / "o", "v2")
        wait_until(lambda: sorted(listed(lower)) == ["v1"], 5)
        assert sorted(listed(upper)) == sorted(listed(root)) == ["v1"]
        assert (tmp_path / "m1" / "v2" / "shard_001.bin").exists()  # until retention takes it
        done = download(lower.url, "v2", tmp_path / "out")
        assert done.returncode == 3
        assert "withdrawn" in done.stderr and "loss was NaN" in done.stderr and "v1" in done.stderr
        done = download(lower.url, "latest", tmp_path / "out", "--json")
        assert json.loads(done.stdout)["version"] == "v1"
        assert broadcast(tmp_path / "o", payload(tmp_path, 3)) == ["v3"]
        until_same(lower, root)
        root.kill()
        lower.kill()
        with middle(upper.url, tmp_path / "m2") as again:
            wait_until(lambda: sorted(listed(again)) == ["v1", "v3"])
            time.sleep(1)
            assert "v2" not in listed(again)


def test_withdrawal_ends_running_download(tmp_path: Path) -> None:
    broadcast(tmp_path / "o", payload(tmp_path, 1))
    one, withdrawn, opened = listings_in(tmp_path / "o")[0], threading.Event(), threading.Event()
    event = Event(1001, WITHDRAWN, "v1", one, "loss was NaN")
    with FeedServer(tmp_path / "o") as server:
        server.set_feed(origin_id(tmp_path / "o"), [one], later=(withdrawn, event))
        server.set("/v1/shard_003.bin", gate(opened))
        words = ("--servers", server.url, "--version", "v1", "--output-file", str(tmp_path / "out"))
        client = processes.Popen(
            processes.command("client", *words), env=processes.environment(**QUICK), stderr=subprocess.PIPE
        )
        try:
            wait_until(lambda: server.requested("/v1/shard_003.bin"))
            withdrawn.set()
            _, said = client.communicate(timeout=30)
        finally:
            client.kill()
            opened.set()
    assert client.returncode == 3
    assert b"v1 was withdrawn by its publisher: loss was NaN" in said
    assert not [entry for entry in tmp_path.iterdir() if "out" in entry.name]


def test_withdrawal_by_non_authority_is_ignored(tmp_path: Path) -> None:
    with origin(tmp_path / "o") as root, FeedServer(tmp_path / "o") as hostile:
        broadcast(tmp_path / "o", payload(tmp_path, 1))
        one = listings_in(tmp_path / "o")[0]
        lie = Event(900, WITHDRAWN, "v1", one, "a lie")
        hostile.set_feed(origin_id(tmp_path / "o"), [], lie)
        both = f"{root.url},{hostile.url}"
        with middle(both, tmp_path / "m") as relay:
            until_same(relay, root)
            root.kill()
            time.sleep(4)  # also while the deciding server is silent
            assert sorted(listed(relay)) == ["v1"]


# Kills -------------------------------------------------------------------------------------------


def test_kill_during_change_leaves_one_line_whole(tmp_path: Path) -> None:
    dice, hasty = (
        Random(20261128),
        {**QUICK, "SHARDCAST_LINE_CONFIRMED": "0.2", "SHARDCAST_LINE_PAUSE": "0.1"},
    )
    broadcast(tmp_path / "a", payload(tmp_path, 1), payload(tmp_path, 2))
    broadcast(tmp_path / "b", payload(tmp_path, 3), payload(tmp_path, 4), payload(tmp_path, 5))
    words = ("--data-dir", str(tmp_path / "m"), "--host", "127.0.0.1", "--port", "0")
    lines = [(tmp_path / name / "distribution.txt").read_bytes() for name in ("a", "b")]
    with processes.reserved_port() as port:
        for turn in range(10):
            data_dir = tmp_path / "ab"[turn % 2]
            with (
                origin(data_dir, port) as root,
                processes.node("middle", "--upstream", root.url, *words, env=hasty) as relay,
            ):
                time.sleep(dice.uniform(0, 1.2))
                relay.kill()
            on_disk = (tmp_path / "m" / "distribution.txt").read_bytes()
            whole = [line for line in lines if set(on_disk.splitlines()) <= set(line.splitlines())]
            assert whole, f"versions of two lines in one list: {on_disk!r}"
        with origin(tmp_path / "b", port) as root, middle(root.url, tmp_path / "m") as relay:
            until_same(relay, root)
            assert "damaged" not in relay.log
            for version, seed in (("v1", 3), ("v3", 5)):
                done = download(relay.url, version, tmp_path / "out")
                assert done.returncode == 0, done.stderr
                assert (tmp_path / "out").read_bytes() == payload(tmp_path, seed).read_bytes()
