"""Operations of an origin, and of commands on its data directory."""

from __future__ import annotations

from pathlib import Path

from shardcast.cli.exit_codes import DONE, OTHER_FAILURE
from tests.support.faults import tokens, uploads
from tests.support.faults.cells import Operation
from tests.support.faults.origin_operation import KEEP, OriginOperation
from tests.support.faults.process import Nodes, Outcome, command, outcome_of
from tests.support.faults.published import SHARD


class PublishCopy(OriginOperation):
    """A broadcast of a file, copied."""

    name = "origin: publish a copy"

    def act(self) -> Outcome:
        return command("broadcast", self.file, "--data-dir", self.data, "-q")


class ReadPayload(PublishCopy):
    """A broadcast of a file that lies on the failing disk."""

    name = "origin: read a payload"

    def __init__(self, place: Path, nodes: Nodes) -> None:
        super().__init__(place, nodes)
        self.folder = self.file.parent


class PublishLink(OriginOperation):
    """A broadcast of a file, linked."""

    name = "origin: publish a link"

    def act(self) -> Outcome:
        return command("broadcast", self.file, "--link", "--data-dir", self.data, "-q")


class PublishPipe(OriginOperation):
    """A broadcast of stdin."""

    name = "origin: publish from a pipe"

    def act(self) -> Outcome:
        words = ("broadcast", "-", "--shard-size", SHARD, "--data-dir", self.data, "-q")
        return command(*words, stdin=self.payload)


class PublishAlone(OriginOperation):
    """A broadcast into a directory without an origin; an origin is started to look at it."""

    name = "origin: publish without an origin"

    def act(self) -> Outcome:
        self.end()
        return command("broadcast", self.file, "--shard-size", SHARD, "--data-dir", self.data, "-q")

    def check(self, outcome: Outcome) -> None:
        if outcome.code == DONE:
            self.assert_published(outcome)
        self.start()
        self.versions.assert_served(self.url, KEEP)


class Start(OriginOperation):
    """A restart on versions that are there."""

    name = "origin: start"
    leftovers = r"\.shardcast/socket-at"  # it runs on with its socket elsewhere

    def act(self) -> Outcome:
        self.end()
        return outcome_of(self.start)

    def check(self, outcome: Outcome) -> None:
        if outcome.code != DONE:
            self.start()
        self.versions.assert_served(self.url, KEEP)


class PinAndUnpin(OriginOperation):
    """A version that is pinned and unpinned."""

    name = "origin: pin and unpin"

    def act(self) -> Outcome:
        newest = list(self.versions.digests)[-1]
        pinned = command("pin", newest, "--data-dir", self.data)
        return command("unpin", newest, "--data-dir", self.data) if pinned.code == DONE else pinned

    def check(self, outcome: Outcome) -> None:
        self.versions.assert_served(self.url, KEEP)

    def recover(self) -> None:
        newest = list(self.versions.digests)[-1]
        for word in ("pin", "unpin"):
            outcome = command(word, newest, "--data-dir", self.data)
            assert outcome.code == DONE, outcome
        super().recover()


class WithdrawVersion(OriginOperation):
    """A version that is withdrawn."""

    name = "origin: withdraw"

    def act(self) -> Outcome:
        self.newest = list(self.versions.digests)[-1]
        return command("withdraw", self.newest, "--data-dir", self.data)

    def check(self, outcome: Outcome) -> None:
        # Where it failed it may be written down, and still on the list.
        doubtful = "" if outcome.code == DONE else self.newest
        self.versions.assert_served(self.url, KEEP - 1, frozenset({self.newest}), doubtful)

    def recover(self) -> None:
        again = command("withdraw", self.newest, "--data-dir", self.data)
        assert again.code == DONE, again
        del self.versions.digests[self.newest]
        for _ in range(2):
            self.publish()
        self.versions.assert_served(self.url, KEEP)


class Serve(OriginOperation):
    """Reading the origin's versions while its disk fails."""

    name = "origin: serve"
    failures = frozenset({OTHER_FAILURE})

    def act(self) -> Outcome:
        try:
            self.versions.assert_served(self.url, KEEP)
        except AssertionError as error:
            return Outcome(OTHER_FAILURE, stderr=f"Error: {error}")
        return Outcome(DONE)

    def check(self, outcome: Outcome) -> None:
        self.versions.assert_served(self.url, KEEP)

    def recover(self) -> None:
        self.versions.assert_served(self.url, KEEP)


class ServeLinks(Serve):
    """Reading versions that are the publisher's own files."""

    name = "origin: serve links"

    def publish(self) -> None:
        """Publish a link without a fault."""
        words = ("--link", "--data-dir", self.data, "-q")
        self.assert_published(command("broadcast", self.file, *words))


OPERATIONS: tuple[type[Operation], ...] = (
    PublishCopy,
    ReadPayload,
    PublishLink,
    PublishPipe,
    PublishAlone,
    Start,
    PinAndUnpin,
    WithdrawVersion,
    Serve,
    ServeLinks,
    *uploads.OPERATIONS,
    *tokens.OPERATIONS,
)
