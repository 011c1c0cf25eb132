"""An operation at an origin: what it starts from, and what must be served afterwards."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shardcast.cli.exit_codes import DONE
from shardcast.nodes.origin import Origin
from tests.support.faults.cells import Operation
from tests.support.faults.process import Nodes, Outcome, Running, command
from tests.support.faults.published import SHARD, Versions, payload

KEEP = 3
_SEEDS = itertools.count(1)


class OriginOperation(Operation):
    """An operation at an origin that runs all the time.

    Attributes:
        options: of the origin, beyond the usual ones.
    """

    options: Mapping[str, Any] = {}

    def __init__(self, place: Path, nodes: Nodes) -> None:
        super().__init__(place, nodes)
        self.data = place / "data"
        self.folder = self.data
        self.file = place / "payloads" / "model.bin"
        self.versions = Versions()
        self.running: Running[Origin] | None = None
        self.payload = b""

    def begin(self) -> None:
        for folder in (self.data, self.file.parent):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        self.versions = Versions()
        self.start()
        for _ in range(KEEP + 1):
            self.prepare()
            self.publish()

    def start(self) -> None:
        """Start the origin."""
        self.running = self.nodes.start(
            Origin.running(self.data, "127.0.0.1", 0, keep=KEEP, shard_size=SHARD, **self.options)
        )

    def end(self) -> None:
        running, self.running = self.running, None
        if running:
            running.stop()

    @property
    def url(self) -> str:
        """Base URL of the origin."""
        assert self.running
        return self.running.node.url

    def prepare(self) -> None:
        self.payload = payload(next(_SEEDS))
        self.file.unlink(missing_ok=True)
        self.file.write_bytes(self.payload)

    def publish(self) -> None:
        """Publish without a fault."""
        self.assert_published(command("broadcast", self.file, "--data-dir", self.data, "-q"))

    def assert_published(self, outcome: Outcome) -> None:
        """Assert that a broadcast succeeded, and note its version."""
        assert outcome.code == DONE, outcome
        self.versions.add(outcome.out.strip(), self.payload)

    def check(self, outcome: Outcome) -> None:
        if outcome.code == DONE:
            self.assert_published(outcome)
        self.versions.assert_served(self.url, KEEP)

    def recover(self) -> None:
        self.publish()
        served = self.versions.assert_served(self.url, KEEP)
        assert len(served) == KEEP, f"older versions are kept: {served}"
