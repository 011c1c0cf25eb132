"""A node that changes between lines in any order, killed at any step, against a model of what it has."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shardcast.errors import LocalDiskError
from shardcast.protocol.distribution import Listing, Withdrawal
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.versions import VersionFolders
from tests.support import payloads
from tests.support.folders import StoredNode, receive_shards, receive_version
from tests.support.payloads import random_bytes, sha256

LINES = ("0a" * 16, "0b" * 16, "none")
lines = st.sampled_from(LINES)
Version = tuple[str, int, str]
"""Origin id, number and payload digest."""


class Killed(BaseException):
    """The node was killed here."""


class Changing(RuleBasedStateMachine):
    """``offered`` is what each line's authority lists, ``had`` what the node must have by now."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.root = Path(tempfile.mkdtemp())
        self.node = StoredNode(self.root / "data")
        self.data: dict[str, bytes] = {}
        self.offered: dict[str, dict[int, str]] = {line: {} for line in LINES}
        self.had: set[Version] = set()
        self.pins: set[Version] = set()
        self.withdrawn: set[Version] = set()
        self.line = LINES[0]

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.node.stop()
        self.run(self.loop.shutdown_default_executor())
        self.loop.close()
        shutil.rmtree(self.root)

    @initialize()
    def start(self) -> None:
        self.folders: VersionFolders = self.node.start(keep=1000)
        self.run(self.folders.change_line(self.line, {}, 0))

    def listed(self, line: str) -> dict[int, str]:
        """What the authority of a line lists: not what it withdrew."""
        offered = self.offered[line].items()
        return {number: one for number, one in offered if (line, number, one) not in self.withdrawn}

    @property
    def here(self) -> dict[int, str]:
        """The versions that the node must list."""
        return {
            number: one
            for number, one in self.listed(self.line).items()
            if (self.line, number, one) in self.had
        }

    def publish(self, line: str, number: int) -> None:
        data = random_bytes(50, seed=len(self.data))
        self.data[sha256(data)] = data
        self.offered[line][number] = sha256(data)

    # What the authorities do

    @rule(line=lines)
    def publish_next(self, line: str) -> None:
        self.publish(line, max(self.offered[line], default=0) + 1)

    @rule(line=lines, back=st.integers(1, 2))
    def restore(self, line: str, back: int) -> None:
        """A directory goes back by some versions, and publishes the next one anew."""
        offered = self.offered[line]
        if len(offered) >= back:
            for number in sorted(offered)[-back:]:
                del offered[number]
            self.publish(line, max(offered, default=0) + 1)
            if line == self.line:
                self.change(line, 0, 0)

    @precondition(lambda self: self.here)
    @rule(choice=st.randoms(use_true_random=False))
    def withdraw(self, choice: Any) -> None:
        number = choice.choice(sorted(self.here))
        version = self.line, number, self.here[number]
        self.withdrawn.add(version)
        self.pins.discard(version)
        self.run(self.folders.withdraw(Withdrawal(f"v{number}", version[2], "bad")))

    # What the node does

    @precondition(lambda self: self.listed(self.line).keys() - self.here.keys())
    @rule()
    def receive_newest(self) -> None:
        number = max(self.listed(self.line).keys() - self.here.keys())
        digest = self.listed(self.line)[number]
        self.run(self.folders.record_listed([Listing(f"v{number}", digest, 1)]))
        self.run(receive_version(self.folders, self.data[digest], f"v{number}", self.line))
        self.had.add((self.line, number, digest))

    @rule(line=lines, whole=st.booleans())
    def receive_beside(self, line: str, whole: bool) -> None:
        listed = self.listed(line)
        if line == self.line or not listed:
            return
        number = max(listed)
        manifest = payloads.manifest(self.data[listed[number]], f"v{number}", origin=line)
        opened = self.run(self.folders.begin_beside(line, LiveManifest.of(manifest)))
        if whole:
            self.run(receive_shards(opened, manifest, self.data[listed[number]]))
            self.run(opened.complete(manifest))
            self.had.add((line, number, listed[number]))

    @precondition(lambda self: self.here)
    @rule(choice=st.randoms(use_true_random=False))
    def pin(self, choice: Any) -> None:
        number = choice.choice(sorted(self.here))
        self.run(self.folders.pin(f"v{number}"))
        self.pins.add((self.line, number, self.here[number]))

    @rule(line=lines, kill=st.integers(0, 25), kill_again=st.integers(0, 10))
    def change(self, line: str, kill: int, kill_again: int) -> None:
        """Change over, killed after some steps, and once more while the next start finishes it."""
        listed = self.listed(line)
        work = self.folders.change_line(line, listed, max(self.offered[line], default=0))
        steps = self.after(kill)
        self.folders.after_step = steps
        try:
            self.run(work)
        except Killed:
            try:
                self.folders = self.node.start(keep=1000, after_step=self.after(kill_again))
            except Killed:
                self.folders = self.node.start(keep=1000)
            self.folders.after_step = lambda step: None
            if self.folders.line.origin != line or "planned" not in self.passed:
                self.run(self.folders.change_line(line, listed, max(self.offered[line], default=0)))
        self.folders.after_step = lambda step: None
        self.line = line

    @rule(line=lines, at=st.integers(1, 25))
    def change_on_a_bad_disk(self, line: str, at: int) -> None:
        """Change over; a step fails, and whatever is written next finishes it."""
        listed, count = self.listed(line), 0

        def fail(step: str) -> None:
            nonlocal count
            count += 1
            if count == at:
                raise LocalDiskError(f"the disk failed after {step}")

        self.folders.after_step = fail
        for _ in range(2):
            try:
                self.run(self.folders.change_line(line, listed, max(self.offered[line], default=0)))
                break
            except LocalDiskError:
                continue
        self.folders.after_step = lambda step: None
        self.line = line

    def after(self, kill: int) -> Any:
        passed: list[str] = []
        self.passed = passed

        def step(name: str) -> None:
            passed.append(name)
            if len(passed) == kill:
                raise Killed(name)

        return step

    @rule()
    def restart(self) -> None:
        self.folders = self.node.start(keep=1000)

    @rule()
    def tidy(self) -> None:
        self.run(self.folders.tidy())

    # What must be so at any time

    @invariant()
    def the_list_is_what_is_here_of_the_line(self) -> None:
        if not hasattr(self, "folders"):
            return
        assert self.folders.line.origin == self.line
        assert {one.number: one.digest for one in self.folders.listings} == self.here
        assert self.node.listed == [f"v{number}" for number in sorted(self.here)]
        for number, digest in self.here.items():
            span = self.folders.shard(f"v{number}", 1)
            assert span and span.path.read_bytes() == self.data[digest]

    @invariant()
    def nothing_is_lost(self) -> None:
        if not hasattr(self, "folders"):
            return
        aside = {
            (one.origin, one.number, one.complete.listing.digest): one.pinned
            for one in self.folders.aside
            if one.finished and not one.withdrawn
        }
        listed = {(self.line, number, digest) for number, digest in self.here.items()}
        assert aside.keys() == self.had - self.withdrawn - listed
        pinned = {(self.line, number, self.here[number]) for number in self.folders.holds.pinned}
        pinned |= {version for version, is_pinned in aside.items() if is_pinned}
        assert pinned == self.pins - self.withdrawn
        assert not (self.node.root / ".shardcast" / "changing").exists()


Changing.TestCase.settings = settings(
    deadline=None, max_examples=settings().max_examples * 4 // 10, stateful_step_count=30
)
TestChanging = Changing.TestCase
