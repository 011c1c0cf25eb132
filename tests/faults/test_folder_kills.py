"""Folders of every kind, through an origin, two middles and a sharing client that are killed on the way."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support import processes
from tests.support.folder_trees import FolderTree, folder_trees, read_tree
from tests.support.processes import Node, origin, reserved_port, run, wait_until

SLOWLY = "6MB"
"""Bytes a second from node to node: large files are on the way for some tenths of a second."""
NAMES = ("origin", "middle 1", "middle 2", "client")


class Chain:
    """An origin, two middles and a sharing client that follows, each at a port that it keeps.

    Attributes:
        data: the origin's data directory.
        output: the client's folder.
    """

    def __init__(self, root: Path, ports: list[int], stack: contextlib.ExitStack) -> None:
        """Start all of them."""
        self._root = root
        self.data, self.output = root / "origin", root / "client"
        self._ports = ports
        self._stack = stack
        self._starts: dict[str, Callable[[], contextlib.AbstractContextManager[Node]]] = {
            "origin": lambda: origin(self.data, "--port", str(ports[0]), "--upload-limit", SLOWLY),
            "middle 1": lambda: self._middle(root / "middle 1", 1),
            "middle 2": lambda: self._middle(root / "middle 2", 2),
            "client": self._client,
        }
        self._nodes = {name: stack.enter_context(start()) for name, start in self._starts.items()}

    def kill_and_restart(self, name: str) -> None:
        """End a node as a crash would, and start it again."""
        self._nodes[name].kill()
        self._nodes[name] = self._stack.enter_context(self._starts[name]())

    def has_begun(self, name: str, version: str) -> bool:
        """Return whether a node has a part of a version, or all of it."""
        if name == "client":
            return any(
                entry.name.startswith((f".{version}.part", version)) for entry in self.output.iterdir()
            )
        return (self._root / name / version).exists()

    def broadcast(self, folder: Path) -> str:
        """Publish a folder at the origin, and return its version."""
        done = run("broadcast", str(folder), "--data-dir", str(self.data), "--shard-size", "400000")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def _middle(self, data: Path, place: int) -> contextlib.AbstractContextManager[Node]:
        url = f"http://127.0.0.1:{self._ports[place - 1]}"
        return processes.middle(url, data, "--port", str(self._ports[place]), "--upload-limit", SLOWLY)

    def _client(self) -> contextlib.AbstractContextManager[Node]:
        words = ("--servers", f"http://127.0.0.1:{self._ports[2]}", "--output-dir", str(self.output))
        follow = ("--follow", "--every", "--keep", "100")
        share = ("--share", "--share-host", "127.0.0.1", "--port", str(self._ports[3]))
        return processes.started(processes.command("client", *words, *follow, *share), timeout=0)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(reserved_port()) for _ in NAMES]
        yield Chain(tmp_path_factory.mktemp("chain"), ports, stack)


victims = itertools.cycle(NAMES)


@settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(tree=folder_trees(large=(1 << 20) + 300_000), waits=st.booleans())
def test_folders_come_back_equal_whoever_is_killed(chain: Chain, tree: FolderTree, waits: bool) -> None:
    victim = next(victims)
    with tempfile.TemporaryDirectory() as made:
        root = tree.write(Path(made) / "model")
        version = chain.broadcast(root)
        if waits:
            wait_until(lambda: chain.has_begun(victim, version), what=f"{version} at the {victim}")
        chain.kill_and_restart(victim)
        received = chain.output / version
        wait_until(received.exists, timeout=60, what=f"{version} after a kill of the {victim}")
        assert read_tree(received) == tree.nodes(), (victim, waits)
