"""Nodes and data directories of an earlier state of this project among new ones, in every position.

``tests/wheels`` keeps the wheel of the last state before lines of versions: its feeds tell no chain, no
highest number and no manifest digests, and its data directories have no record of a line.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.integration.test_lines import (
    QUICK,
    broadcast,
    download,
    fetch,
    listed,
    middle,
    origin,
    payload,
    sent,
    status,
)
from tests.support import processes
from tests.support.feeds import origin_id
from tests.support.processes import Node, wait_until

WHEEL = Path(__file__).parents[1] / "wheels" / "shardcast-0.4.0-before-lines.whl"
HERE = ("--host", "127.0.0.1")


def earlier_command(*words: str) -> list[str]:
    """A command of the earlier state; -P keeps our own package from being found first."""
    code = f"import sys; sys.path.insert(0, {str(WHEEL)!r}); from shardcast.cli.main import main; main()"
    return [sys.executable, "-P", "-c", code, *words]


@contextlib.contextmanager
def earlier(*words: str, port: int = 0) -> Iterator[Node]:
    with processes.started(earlier_command(*words, *HERE, "--port", str(port)), env=QUICK) as node:
        assert node.url, node.log
        yield node


def earlier_run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        earlier_command(*words), env=processes.environment(), capture_output=True, text=True, timeout=120
    )


def earlier_middle(upstream: str, data_dir: Path) -> contextlib.AbstractContextManager[Node]:
    words = ("--upstream", upstream, "--data-dir", str(data_dir), "--check-interval", "0.5")
    return earlier("middle", *words)


def until_listed(node: Node, *versions: str) -> None:
    wait_until(lambda: sorted(listed(node)) == sorted(versions), what=f"{versions} at\n{node.log}")


def test_wheel_is_the_earlier_state_and_not_this_one() -> None:
    code = f"import sys; sys.path.insert(0, {str(WHEEL)!r}); import shardcast.feed as f; print(f.__file__)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(WHEEL))
    assert "withdrawn" not in earlier_run("--help").stdout


def test_earlier_middle_and_client_between_new_nodes(tmp_path: Path) -> None:
    with (
        origin(tmp_path / "o") as root,
        earlier_middle(root.url, tmp_path / "old") as old,
        middle(old.url, tmp_path / "new") as relay,
    ):
        broadcast(tmp_path / "o", payload(tmp_path, 1), payload(tmp_path, 2))
        until_listed(relay, "v1", "v2")
        assert status(relay)["origin"] == origin_id(tmp_path / "o")
        for url in (old.url, relay.url):
            done = download(url, "latest", tmp_path / "out", "--json")
            assert json.loads(done.stdout)["version"] == "v2", done.stderr
        words = ("--servers", relay.url, "--version", "v1", "--output-file", str(tmp_path / "out2"))
        assert earlier_run("client", *words).returncode == 0
        assert (tmp_path / "out2").read_bytes() == payload(tmp_path, 1).read_bytes()


def test_new_middle_and_clients_below_an_earlier_origin(tmp_path: Path) -> None:
    with (
        earlier(
            "origin", "--data-dir", str(tmp_path / "o"), "--broadcast", str(payload(tmp_path, 1))
        ) as root,
        middle(root.url, tmp_path / "m") as relay,
        earlier_middle(relay.url, tmp_path / "below") as below,
    ):
        until_listed(below, "v1")
        done = download(f"{relay.url},{root.url}", "v1", tmp_path / "out")
        assert done.returncode == 0, done.stderr
        done = earlier_run("broadcast", str(payload(tmp_path, 2)), "--data-dir", str(tmp_path / "o"))
        assert done.stdout.strip() == "v2"
        until_listed(below, "v1", "v2")


def test_earlier_and_new_middle_that_name_each_other_first(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(processes.reserved_port())
        root = stack.enter_context(origin(tmp_path / "o"))
        old = stack.enter_context(earlier_middle(f"127.0.0.1:{port},{root.url}", tmp_path / "old"))
        new = stack.enter_context(middle(f"{old.url},{root.url}", tmp_path / "new", port=port))
        for seed in (1, 2, 3):
            broadcast(tmp_path / "o", payload(tmp_path, seed))
            names = [f"v{number}" for number in range(1, seed + 1)]
            until_listed(new, *names)
            until_listed(old, *names)


def test_data_directory_of_an_earlier_middle_is_taken_up_without_fetching(tmp_path: Path) -> None:
    with origin(tmp_path / "o") as root:
        broadcast(tmp_path / "o", payload(tmp_path, 1), payload(tmp_path, 2))
        with earlier_middle(root.url, tmp_path / "m") as old:
            until_listed(old, "v1", "v2")
        before = sent(root)
        with middle(root.url, tmp_path / "m") as new:
            until_listed(new, "v1", "v2")
            time.sleep(1)
            assert sent(root) == before
            assert status(new)["origin"] == origin_id(tmp_path / "o")
            broadcast(tmp_path / "o", payload(tmp_path, 3))
            until_listed(new, "v1", "v2", "v3")


def test_data_directory_of_an_earlier_origin_goes_on_with_its_line(tmp_path: Path) -> None:
    done = earlier_run("broadcast", str(payload(tmp_path, 1)), "--data-dir", str(tmp_path / "o"))
    assert done.stdout.strip() == "v1"
    before = origin_id(tmp_path / "o")
    with origin(tmp_path / "o") as root, middle(root.url, tmp_path / "m") as relay:
        broadcast(tmp_path / "o", payload(tmp_path, 2))
        until_listed(relay, "v1", "v2")
        assert status(relay)["origin"] == status(root)["origin"] == before


def test_directory_of_this_state_is_taken_up_by_the_earlier_one_and_back(tmp_path: Path) -> None:
    with origin(tmp_path / "o") as root, middle(root.url, tmp_path / "m") as new:
        broadcast(tmp_path / "o", payload(tmp_path, 1))
        until_listed(new, "v1")
        new.kill()
        with earlier_middle(root.url, tmp_path / "m") as old:
            broadcast(tmp_path / "o", payload(tmp_path, 2))
            until_listed(old, "v1", "v2")
        with middle(root.url, tmp_path / "m") as again:
            until_listed(again, "v1", "v2")
            broadcast(tmp_path / "o", payload(tmp_path, 3))
            until_listed(again, "v1", "v2", "v3")


def test_restarted_line_of_earlier_origin_is_followed(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(processes.reserved_port())
        first = stack.enter_context(
            earlier(
                "origin",
                "--data-dir",
                str(tmp_path / "a"),
                "--broadcast",
                str(payload(tmp_path, 1)),
                port=port,
            )
        )
        relay = stack.enter_context(middle(first.url, tmp_path / "m"))
        until_listed(relay, "v1")
        old = listed(relay)
        first.kill()
        words = ("--data-dir", str(tmp_path / "b"), "--broadcast", str(payload(tmp_path, 2)))
        second = stack.enter_context(earlier("origin", *words, port=port))
        wait_until(lambda: listed(relay) == listed(second) != old, what=relay.log)
        assert status(relay)["origin"] == origin_id(tmp_path / "b")


def test_withdrawn_version_leaves_the_list_of_a_new_node_below_an_earlier_reader(tmp_path: Path) -> None:
    with origin(tmp_path / "o") as root, earlier_middle(root.url, tmp_path / "old") as old:
        broadcast(tmp_path / "o", payload(tmp_path, 1), payload(tmp_path, 2))
        until_listed(old, "v1", "v2")
        assert processes.run("withdraw", "v2", "--data-dir", str(tmp_path / "o")).returncode == 0
        with middle(f"{root.url},{old.url}", tmp_path / "m") as relay:
            until_listed(relay, "v1")
            time.sleep(1)  # an earlier middle keeps what it has, and convinces no new node
            assert sorted(listed(relay)) == ["v1"]
            assert fetch(f"{old.url}/healthcheck") == b"OK"


def test_restarted_line_of_static_or_0_1_0_server_is_followed_after_three_reads(
    tmp_path: Path,
) -> None:
    from tests.support.bad_servers import BadServer

    broadcast(tmp_path / "a", payload(tmp_path, 1), payload(tmp_path, 2))
    broadcast(tmp_path / "b", payload(tmp_path, 3))
    for folder in ("a", "b"):  # as 0.1.0 leaves it: shards and a list
        shutil.rmtree(tmp_path / folder / ".shardcast")
        for manifest in (tmp_path / folder).glob("v*/manifest.jsonl"):
            manifest.unlink()
    shutil.copytree(tmp_path / "a", tmp_path / "www")
    with BadServer(tmp_path / "www") as server, middle(server.url, tmp_path / "m") as relay:
        until_listed(relay, "v1", "v2")
        old = listed(relay)
        shutil.rmtree(tmp_path / "www")
        shutil.copytree(tmp_path / "b", tmp_path / "www")
        time.sleep(1)
        assert listed(relay) == old
        wait_until(lambda: sorted(listed(relay)) == ["v1"], what=relay.log)
        done = download(relay.url, "latest", tmp_path / "out")
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "out").read_bytes() == payload(tmp_path, 3).read_bytes()
