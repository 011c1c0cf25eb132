"""Operations of a client: a version into an output file, or a blob into one."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from pathlib import Path

from shardcast.cli.exit_codes import DONE, INTERRUPTED
from shardcast.nodes.origin import Origin
from tests.support.faults.cells import Operation
from tests.support.faults.process import Nodes, Outcome, Running, command
from tests.support.faults.published import SHARD, SIZE, payload

_PATIENCE = 15.0
"""Seconds until a client that follows counts as one that does not get what is there."""


_TIDYING = ("unlink", "opendir", "readdir")
"""Calls after which there is nothing to lose once the output has its name."""


class ClientOperation(Operation):
    """A download from an origin with a sound disk into a folder on a failing one."""

    def __init__(self, place: Path, nodes: Nodes) -> None:
        super().__init__(place, nodes)
        self.folder = place / "out"
        self.output = self.folder / "model.bin"
        self.data = place / "data"
        self.kept = place / "kept"
        self.versions: dict[str, bytes] = {}
        self.running: Running[Origin] | None = None

    def begin(self) -> None:
        for folder in (self.data, self.kept):
            shutil.rmtree(folder, ignore_errors=True)
        self.data.mkdir()
        self.running = self.nodes.start(Origin.running(self.data, "127.0.0.1", 0, shard_size=SHARD))
        first = payload(1)
        second = first[: 2 * SHARD] + payload(2)[2 * SHARD :]  # so that pieces of it serve again
        for data in (first, second):
            file = self.data.with_name("payload")
            file.write_bytes(data)
            self.versions[command("broadcast", file, "--data-dir", self.data, "-q").out.strip()] = data
        self.kept.mkdir()

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
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.kept, self.folder)

    def download(self, version: str = "v1") -> Outcome:
        """Run the client's command."""
        return command(
            "client", "--servers", self.url, "--version", version, "--output-file", self.output, "-q"
        )

    def act(self) -> Outcome:
        return self.download()

    def check(self, outcome: Outcome) -> None:
        if outcome.code == DONE:
            self.assert_is("v1")
        elif self.output.exists():
            self.assert_is("v1")
            assert self.call not in _TIDYING, "it says that it failed, and all is done"

    def recover(self) -> None:
        outcome = self.download()
        assert outcome.code == DONE, outcome
        self.assert_is("v1")

    def assert_is(self, version: str) -> None:
        """Assert that the output is a version."""
        assert self.output.read_bytes() == self.versions[version], f"the output is not {version}"


class Download(ClientOperation):
    """A download into an empty folder."""

    name = "client: download"


class DownloadIntoNewFolder(ClientOperation):
    """A download into folders that the client makes."""

    name = "client: download into a new folder"

    def __init__(self, place: Path, nodes: Nodes) -> None:
        super().__init__(place, nodes)
        self.output = self.folder / "a" / "b" / "model.bin"


class Resume(ClientOperation):
    """A download that continues with the parts of an interrupted one."""

    name = "client: resume"

    def begin(self) -> None:
        super().begin()
        self.prepare()
        self.leave_parts()
        shutil.copytree(self.folder, self.kept, dirs_exist_ok=True)

    def leave_parts(self) -> None:
        """Leave most of a download behind, verified, as a kill would."""
        self.download()
        part, manifest = self.folder / ".model.bin.part", self.folder / ".model.bin.part.manifest"
        data = self.output.read_bytes()
        self.output.unlink()
        part.write_bytes(data[: 2 * SHARD])
        with part.open("r+b") as file:
            file.truncate(SIZE)
        manifest.write_bytes((self.data / "v1" / "manifest.jsonl").read_bytes())


class Replace(ClientOperation):
    """A download over another version, which stays until the new one is whole."""

    name = "client: replace"

    def begin(self) -> None:
        super().begin()
        (self.kept / "model.bin").write_bytes(self.versions["v1"])

    def act(self) -> Outcome:
        return self.download("v2")

    def check(self, outcome: Outcome) -> None:
        if outcome.code == DONE:
            self.assert_is("v2")
        elif self.output.read_bytes() != self.versions["v1"]:
            self.assert_is("v2")  # what failed was to make it durable
            assert self.call not in _TIDYING, "it says that it failed, and all is done"

    def recover(self) -> None:
        outcome = self.download("v2")
        assert outcome.code == DONE, outcome
        self.assert_is("v2")


class Follow(ClientOperation):
    """Following two versions, behind a link that names the newest one."""

    name = "client: follow"

    def act(self) -> Outcome:
        deadline = time.monotonic() + _PATIENCE

        def all_announced(out: str) -> bool:
            return out.count("\n") == 2 or time.monotonic() > deadline

        words = ("--from", "v1", "--every", "--output-dir", self.folder)
        outcome = command("client", "--servers", self.url, "--follow", *words, "-q", until=all_announced)
        if outcome.code == INTERRUPTED and outcome.out.count("\n") == 2:
            return Outcome(DONE, outcome.out, outcome.stderr)
        return outcome

    def check(self, outcome: Outcome) -> None:
        for line in outcome.out.splitlines():
            release = json.loads(line)
            assert Path(release["path"]).read_bytes() == self.versions[release["version"]]
        for file in self.folder.iterdir():
            if not file.name.startswith("."):
                assert file.read_bytes() in self.versions.values(), f"{file.name} is neither version"

    def recover(self) -> None:
        again = self.act()  # from v1 on, whatever was told before
        assert again.code == DONE, again
        latest = self.folder / "latest"
        assert latest.read_bytes() == self.versions["v2"]


class GetBlob(Operation):
    """A blob of a store into a file."""

    name = "client: store get"

    def begin(self) -> None:
        self.folder = self.place / "out"
        self.output = self.folder / "blob"
        self.store = self.place / "store"
        file = self.place / "blob"
        self.store.mkdir(exist_ok=True)
        file.write_bytes(payload(3))
        self.digest = command("store", "put", file, "--directory", self.store, "-q").out.strip()
        assert self.digest == hashlib.sha256(payload(3)).hexdigest()

    def prepare(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()

    def act(self) -> Outcome:
        return command("store", "get", self.digest, "--directory", self.store, "-o", self.output, "-q")

    def check(self, outcome: Outcome) -> None:
        if outcome.code == DONE:
            assert self.output.read_bytes() == payload(3)
        elif self.output.exists():
            assert self.output.read_bytes() == payload(3)
            assert self.call not in _TIDYING, "it says that it failed, and all is done"

    def recover(self) -> None:
        outcome = self.act()
        assert outcome.code == DONE, outcome
        self.check(outcome)


OPERATIONS = (Download, DownloadIntoNewFolder, Resume, Replace, Follow, GetBlob)
