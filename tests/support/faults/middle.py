"""Operations of a middle: it receives versions, passes them on, retires them, and starts again."""

from __future__ import annotations

import itertools
import shutil
import time
from pathlib import Path

from shardcast.cli.exit_codes import DONE, LOCAL_DISK, OTHER_FAILURE
from shardcast.nodes.middle import Middle
from shardcast.nodes.origin import Origin
from tests.support.faults.cells import Operation
from tests.support.faults.process import Nodes, Outcome, Running, command, get, outcome_of
from tests.support.faults.published import SHARD, Versions, payload

KEEP = 3
_INTERVAL = 0.1
"""Seconds after which it tries again what failed."""
_PATIENCE = 0.5
"""Seconds that it has while a call fails, from the first failure on."""
_LONGEST = 10.0
"""Seconds until it counts as never fetching what it lacks."""
_SEEDS = itertools.count(5000)


class MiddleOperation(Operation):
    """An operation of a middle below an origin with a sound disk."""

    failures = frozenset({OTHER_FAILURE})

    def __init__(self, place: Path, nodes: Nodes) -> None:
        super().__init__(place, nodes)
        self.folder = place / "middle"
        self.data = place / "origin"
        self.file = place / "payload"
        self.versions = Versions()
        self.origin: Running[Origin] | None = None
        self.middle: Running[Middle] | None = None

    def begin(self) -> None:
        for folder in (self.data, self.folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        self.versions = Versions()
        self.origin = self.nodes.start(Origin.running(self.data, "127.0.0.1", 0, keep=KEEP, shard_size=SHARD))
        for _ in range(KEEP):
            self.publish()
        self.start()
        self.assert_fetched()

    def start(self) -> None:
        """Start the middle."""
        assert self.origin
        upstream = [self.origin.node.url]
        self.middle = self.nodes.start(
            Middle.running(upstream, self.folder, "127.0.0.1", 0, check_interval=_INTERVAL, keep=KEEP)
        )

    def end(self) -> None:
        nodes = self.middle, self.origin
        self.middle = self.origin = None
        for node in nodes:
            if node:
                node.stop()

    @property
    def url(self) -> str:
        """Base URL of the middle."""
        assert self.middle
        return self.middle.node.url

    def publish(self) -> str:
        """Publish at the origin, and return the version's name."""
        data = payload(next(_SEEDS))
        self.file.write_bytes(data)
        outcome = command("broadcast", self.file, "--data-dir", self.data, "-q")
        assert outcome.code == DONE, outcome
        self.versions.add(outcome.out.strip(), data)
        return outcome.out.strip()

    def wait(self, deadline: float) -> bool:
        """Wait until the middle lists the newest versions; return whether it does."""
        newest = [f"{version}:".encode() for version in list(self.versions.digests)[-KEEP:]]
        while True:
            status, listed = get(self.url, "/distribution.txt")
            if status == 200 and all(version in listed for version in newest):
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)

    def prepare(self) -> None:
        """Do nothing."""

    def check(self, outcome: Outcome) -> None:
        self.versions.assert_served(self.url, KEEP)

    def recover(self) -> None:
        self.assert_fetched()
        self.publish()
        self.assert_fetched()

    def assert_fetched(self) -> None:
        """Assert that the middle gets what it lacks, now that nothing fails."""
        assert self.wait(time.monotonic() + _LONGEST), (
            f"it still lacks a version: {self.versions.digests.keys()}"
        )
        self.versions.assert_served(self.url, KEEP)


class Relay(MiddleOperation):
    """A version that passes through the middle."""

    name = "middle: relay"

    def act(self) -> Outcome:
        self.publish()
        if self.wait(time.monotonic() + _PATIENCE):
            return Outcome(DONE)
        return Outcome(OTHER_FAILURE, stderr="Error: it is not here in time")

    def check(self, outcome: Outcome) -> None:
        status, listed = get(self.url, "/distribution.txt")
        assert status == 200
        newest = list(self.versions.digests)[-1]
        if f"{newest}:".encode() in listed:
            self.versions.assert_served(self.url, KEEP)
        else:  # of a quota nobody knows how much is lacking: room enough for the newest may have gone
            keep = 1 if self.cell and self.cell.error == "EDQUOT" else KEEP - 1
            self.versions.assert_served(self.url, keep, frozenset({newest}))


class Restart(MiddleOperation):
    """A restart on versions that are there."""

    name = "middle: start"
    leftovers = r"\.shardcast/socket-at"  # it runs on with its socket elsewhere
    failures = frozenset({LOCAL_DISK})

    def act(self) -> Outcome:
        assert self.middle
        self.middle.stop()
        self.middle = None
        return outcome_of(self.start)

    def check(self, outcome: Outcome) -> None:
        if outcome.code != DONE:
            self.start()
        self.versions.assert_served(self.url, KEEP)


class Serve(MiddleOperation):
    """Reading the middle's versions while its disk fails."""

    name = "middle: serve"

    def act(self) -> Outcome:
        try:
            self.versions.assert_served(self.url, KEEP)
        except AssertionError as error:
            return Outcome(OTHER_FAILURE, stderr=f"Error: {error}")
        return Outcome(DONE)


OPERATIONS = (Relay, Restart, Serve)
