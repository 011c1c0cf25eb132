"""Operations of a store of blobs: commands, the servers on it, and maintenance."""

from __future__ import annotations

import hashlib
import itertools
import shutil
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from shardcast.blobs.directory.layout import OWN_FOLDER
from shardcast.blobs.server.archive_server import ArchiveNode
from shardcast.blobs.server.hash_server import StoreServer, StoreSettings
from shardcast.cli.exit_codes import DONE, INTEGRITY, LOCAL_DISK, NOT_OFFERED, OTHER_FAILURE
from tests.support.faults import registry
from tests.support.faults.cells import Operation
from tests.support.faults.process import Nodes, Outcome, Running, command, outcome_of
from tests.support.faults.published import payload

_OF_THE_FILE = ("EIO", "ESTALE", "EACCES")
"""Errors of one file, which is then as good as a corrupt one: nobody is given it."""
_SEEDS = itertools.count(9000)


class StoreOperation(Operation):
    """An operation in a directory with blobs that must stay.

    The next put removes the empty folders that earlier ones left.
    """

    leftovers = r"\.shardcast-store/incoming/@(/lock)?"

    def __init__(self, place: Path, nodes: Nodes) -> None:
        super().__init__(place, nodes)
        self.folder = place / "store"
        self.files = place / "files"
        self.kept: list[bytes] = []
        self.blob = b""

    def begin(self) -> None:
        for folder in (self.folder, self.files):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        self.kept = []
        for _ in range(2):
            self.prepare()
            self.put(self.folder)
            self.kept.append(self.blob)

    def prepare(self) -> None:
        self.blob = payload(next(_SEEDS))
        (self.files / "blob").write_bytes(self.blob)

    @property
    def digest(self) -> str:
        """Digest of the blob."""
        return hashlib.sha256(self.blob).hexdigest()

    def put(self, store: Path) -> None:
        """Put the blob without a fault."""
        outcome = command("store", "put", self.files / "blob", "-d", store, "-q")
        assert outcome.code == DONE, outcome

    def assert_here(self, store: Path, *blobs: bytes) -> None:
        """Assert that a store has these blobs, and gives them."""
        for blob in blobs:
            digest, output = hashlib.sha256(blob).hexdigest(), self.place / "got"
            outcome = command("store", "get", digest, "-d", store, "-o", output, "-q")
            assert outcome.code == DONE, outcome
            assert output.read_bytes() == blob
            output.unlink()

    def check(self, outcome: Outcome) -> None:
        self.assert_here(self.folder, *self.kept)
        if outcome.code == DONE:
            self.assert_here(self.folder, self.blob)

    def recover(self) -> None:
        again = self.act()
        assert again.code == DONE, again
        self.assert_here(self.folder, *self.kept, self.blob)
        sound = command("store", "verify", self.folder, "-q")
        assert sound.code == DONE, sound
        self.forget()

    def forget(self) -> None:
        """Remove the blob, so that the store does not grow from cell to cell."""
        (self.folder / self.digest[:2] / self.digest).unlink(missing_ok=True)


class Put(StoreOperation):
    """A blob put into a store."""

    name = "store: put"

    def act(self) -> Outcome:
        return command("store", "put", self.files / "blob", "-d", self.folder, "-q")


class PutIntoNewStore(Put):
    """A blob put into an empty folder."""

    name = "store: put into a new store"

    def prepare(self) -> None:
        super().prepare()
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        self.kept = []


class Pull(StoreOperation):
    """A blob pulled from a hash server with a sound disk."""

    name = "store: pull"

    def __init__(self, place: Path, nodes: Nodes) -> None:
        super().__init__(place, nodes)
        self.other = place / "other"
        self.server: Running[StoreServer] | None = None

    def begin(self) -> None:
        shutil.rmtree(self.other, ignore_errors=True)
        self.other.mkdir()
        self.server = self.nodes.start(_hash_server(self.other))
        super().begin()

    def end(self) -> None:
        server, self.server = self.server, None
        if server:
            server.stop()

    def prepare(self) -> None:
        super().prepare()
        self.put(self.other)

    def act(self) -> Outcome:
        assert self.server
        return command("store", "pull", self.server.node.url, self.digest, "-d", self.folder, "-q")


class PushToHashServer(StoreOperation):
    """A blob pushed to a hash server whose disk fails; what it acknowledges is there."""

    name = "store: push to a hash server"
    failures = frozenset({OTHER_FAILURE})

    def __init__(self, place: Path, nodes: Nodes) -> None:
        super().__init__(place, nodes)
        self.other = place / "other"
        self.server: Running[Any] | None = None

    def begin(self) -> None:
        shutil.rmtree(self.other, ignore_errors=True)
        self.other.mkdir()
        super().begin()
        self.server = self.nodes.start(self.serve())

    def serve(self) -> AbstractAsyncContextManager[Any]:
        """Return the server to start."""
        return _hash_server(self.folder)

    @property
    def url(self) -> str:
        """Base URL of the server."""
        assert self.server
        return str(self.server.node.url)

    def end(self) -> None:
        server, self.server = self.server, None
        if server:
            server.stop()

    def prepare(self) -> None:
        super().prepare()
        self.put(self.other)

    def act(self) -> Outcome:
        return command("store", "push", self.url, self.digest, "-d", self.other, "-q")


class PushToArchive(PushToHashServer):
    """A blob pushed to an archive; the next push removes what a failed one left."""

    name = "store: push to an archive"
    leftovers = r"\.shardcast-store/(archive/\.shardcast-store/)?incoming/@(/lock|/#\.part(/.*)?)?"

    def serve(self) -> AbstractAsyncContextManager[Any]:
        """Return the archive to start."""
        own = {"host": "127.0.0.1", "port": 0, "authorized_port": 0}
        return ArchiveNode.on_directory(self.folder, **own)

    @property
    def url(self) -> str:
        """Base URL for pushes."""
        assert self.server
        return str(self.server.node.push_url)


class ServeBlobs(PushToHashServer):
    """A blob pulled from a hash server while its disk fails."""

    name = "store: serve from a hash server"

    def act(self) -> Outcome:
        digest = hashlib.sha256(self.kept[0]).hexdigest()
        output = self.place / "pulled"
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir()
        outcome = command("store", "pull", self.url, digest, "-d", output, "-q")
        if outcome.code == NOT_OFFERED and self.cell and self.cell.error in _OF_THE_FILE:
            return Outcome(OTHER_FAILURE, outcome.out, f"Error: {outcome.out}")
        return outcome

    def check(self, outcome: Outcome) -> None:
        self.assert_here(self.folder, *self.kept)
        if outcome.code == DONE:
            self.assert_here(self.place / "pulled", self.kept[0])

    def recover(self) -> None:
        again = self.act()
        assert again.code == DONE, again
        self.check(again)


class ServeBlobsOfArchive(ServeBlobs):
    """A blob pulled from an archive while its disk fails."""

    name = "store: serve from an archive"
    serve = PushToArchive.serve


class StartArchive(PushToArchive):
    """A restart of an archive on its directory."""

    name = "store: start an archive"
    failures = frozenset({LOCAL_DISK})

    def act(self) -> Outcome:
        self.end()
        return outcome_of(self.start)

    def start(self) -> None:
        """Start the server."""
        self.server = self.nodes.start(self.serve())

    def check(self, outcome: Outcome) -> None:
        if outcome.code != DONE:
            self.start()
        self.assert_here(self.folder, *self.kept)

    def recover(self) -> None:
        self.end()
        self.start()
        pushed = command("store", "push", self.url, self.digest, "-d", self.other, "-q")
        assert pushed.code == DONE, pushed
        self.assert_here(self.folder, *self.kept, self.blob)
        self.forget()


class StartHashServer(StartArchive):
    """A restart of a hash server on its directory."""

    name = "store: start a hash server"
    serve = PushToHashServer.serve
    url = PushToHashServer.url


def _hash_server(folder: Path) -> AbstractAsyncContextManager[StoreServer]:
    """Return a hash server that may be written to."""
    return StoreServer.running(StoreSettings(folder, writable=True))


class Verify(StoreOperation):
    """A look through a store with a damaged blob, which goes into quarantine."""

    name = "store: verify"
    leftovers = r"\.shardcast-store/(quarantine|incoming)/@(/lock)?|@/\.quarantine"
    failures = frozenset({INTEGRITY, LOCAL_DISK})

    @property
    def aside(self) -> Path:
        """Folder of the quarantine."""
        return self.folder / OWN_FOLDER / "quarantine"

    def prepare(self) -> None:
        super().prepare()
        shutil.rmtree(self.aside, ignore_errors=True)
        self.put(self.folder)
        file = self.folder / self.digest[:2] / self.digest
        data = bytearray(self.blob)
        data[0] ^= 1
        file.unlink()
        file.write_bytes(data)

    def act(self) -> Outcome:
        outcome = command("store", "verify", self.folder, "-q")
        reported = {line.partition("  ")[0] for line in outcome.out.splitlines()}
        if outcome.code == INTEGRITY and reported == {self.digest}:  # it found what there is to find
            return Outcome(DONE, outcome.out, outcome.stderr)
        assert outcome.code != DONE, "what is damaged was not found"
        return Outcome(outcome.code, outcome.out, f"{outcome.stderr}Error: {outcome.out}")

    def check(self, outcome: Outcome) -> None:
        for blob in self.kept:
            digest = hashlib.sha256(blob).hexdigest()
            aside = [one.read_bytes() for one in self.aside.glob(f"{digest}-*") if one.suffix != ".json"]
            if not (self.folder / digest[:2] / digest).exists():
                assert digest in outcome.out and blob in aside, "a right blob is gone"
                assert not (self.cell and self.cell.times), "one error had a right blob set aside"
                (self.files / "kept").write_bytes(blob)
                assert command("store", "put", self.files / "kept", "-d", self.folder, "-q").code == DONE
        self.assert_here(self.folder, *self.kept)
        missing = command("store", "get", self.digest, "-d", self.folder, "-o", self.place / "got", "-q")
        assert missing.code != DONE, "wrong bytes were given"

    def recover(self) -> None:
        again = command("store", "verify", self.folder, "-q")
        assert again.code == INTEGRITY, again
        self.put(self.folder)
        self.assert_here(self.folder, *self.kept, self.blob)
        sound = command("store", "verify", self.folder, "-q")
        assert sound.code == DONE, sound
        self.forget()


class Collect(StoreOperation):
    """A collection with one blob that nothing refers to, and two with references."""

    name = "store: gc"
    leftovers = r"\.shardcast-store/(gc/trash|incoming)/@(/lock)?|@/\.trash"

    def prepare(self) -> None:
        super().prepare()
        self.put(self.folder)
        names = "".join(f"{hashlib.sha256(blob).hexdigest()}\n" for blob in self.kept)
        (self.files / "snapshot").write_text(names)

    def collect(self) -> Outcome:
        """Run the collection."""
        words = ("--snapshot", self.files / "snapshot", "--unreferenced-older-than", "0", "--grace", "0")
        return command("store", "gc", self.folder, *words, "--delete", "-q")

    def act(self) -> Outcome:
        for _ in range(2):  # it is marked, then removed
            outcome = self.collect()
            if outcome.code != DONE:
                return Outcome(outcome.code, outcome.out, f"{outcome.stderr}Error: {outcome.out}")
        return outcome

    def check(self, outcome: Outcome) -> None:
        self.assert_here(self.folder, *self.kept)
        if outcome.code == DONE:
            assert not (self.folder / self.digest[:2] / self.digest).exists(), "it was not removed"

    def recover(self) -> None:
        back = self.collect()  # what a run that failed was about to remove goes back, as if it were new
        assert back.code == DONE, back
        again = self.act()
        assert again.code == DONE, again
        self.check(again)


OPERATIONS: tuple[type[Operation], ...] = (
    Put,
    PutIntoNewStore,
    Pull,
    PushToHashServer,
    PushToArchive,
    ServeBlobs,
    ServeBlobsOfArchive,
    StartHashServer,
    StartArchive,
    Verify,
    Collect,
    *registry.OPERATIONS,
)
