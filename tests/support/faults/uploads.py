"""Operations of an origin that publishes payloads from elsewhere: its disk fails, the sender's does not."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shardcast.cli.exit_codes import DONE, LOCAL_DISK, OTHER_FAILURE
from shardcast.nodes.folder_source import announcement
from shardcast.nodes.payload_sources import FileSource
from shardcast.nodes.upload_table import UploadBounds
from shardcast.protocol.uploads import UploadState
from tests.support.faults.cells import Operation
from tests.support.faults.origin_operation import KEEP, OriginOperation
from tests.support.faults.process import Nodes, Outcome, command, outcome_of
from tests.support.faults.published import SIZE
from tests.support.payloads import sha256

_HALF = SIZE // 2
"""Bytes of an upload that its sender left."""
_NEVER = 1e9
"""Seconds after which an upload expires that shall not."""
_EXPIRED = 0.2
"""Seconds in which the origin tries to remove what expires."""
_SECONDS = 15.0
"""Seconds until what has expired counts as one that stays."""


class UploadOperation(OriginOperation):
    """An operation at an origin with ``--publish``; its errors reach the sender with the origin's name."""

    options: Mapping[str, Any] = {"takes_uploads": True, "upload_bounds": UploadBounds(tidy_seconds=0.1)}
    failures = frozenset({OTHER_FAILURE})

    def send(self) -> Outcome:
        """Send the payload."""
        return command("broadcast", self.file, "--to", self.url, "-q")

    def act(self) -> Outcome:
        return self.send()

    def check(self, outcome: Outcome) -> None:
        if outcome.code == OTHER_FAILURE:
            assert self.url in outcome.stderr, "the error does not name the origin"
        super().check(outcome)

    def recover(self) -> None:
        self.assert_published(self.act())
        self.assert_removed()
        served = self.versions.assert_served(self.url, KEEP)
        assert len(served) == KEEP, f"older versions are kept: {served}"

    def uploads(self) -> list[Path]:
        """Return the folders of the uploads."""
        return list(self.data.glob(".shardcast/uploads/*"))

    def assert_removed(self) -> None:
        """Assert that the origin removes all uploads, also those that it could not remove at once."""
        deadline = time.monotonic() + _SECONDS
        while left := self.uploads():
            assert time.monotonic() < deadline, f"they stay: {left}"
            time.sleep(0.01)


class TakeUpload(UploadOperation):
    """A file that is sent; where that fails, the same command goes on with what the origin has."""

    name = "origin: take an upload"


class TakeLiveUpload(UploadOperation):
    """A stream that is sent, and published while it comes."""

    name = "origin: take a live upload"

    def send(self) -> Outcome:
        """Send the payload."""
        return command("broadcast", "-", "--live", "--to", self.url, "-q", stdin=self.payload)


class LeftUploads(UploadOperation):
    """An operation beside an upload whose sender left in the middle, and one that was published.

    The sender of the second one did not live to have it forgotten, and asks for its version again.
    """

    def __init__(self, place: Path, nodes: Nodes) -> None:
        super().__init__(place, nodes)
        self.half = self.whole = self.published = ""

    def prepare(self) -> None:
        super().prepare()
        for upload in self.uploads():
            self.ask("DELETE", f"/uploads/{upload.name}", known=False)
        self.whole = self.leave(SIZE)
        self.ask("POST", f"/uploads/{self.whole}/complete", size=SIZE, sha256=sha256(self.payload))
        self.published = self.ask("POST", f"/uploads/{self.whole}/confirm")["complete"]
        self.versions.add(self.published, self.payload)
        super().prepare()
        self.half = self.leave(_HALF)

    def leave(self, size: int) -> str:
        """Begin the payload's upload as ``send`` does, bring bytes of it, and return its id."""
        with FileSource(self.file) as source:
            request = announcement(source, None, {}, live=False)
        upload = str(self.ask("POST", "/uploads", **request.as_json())["upload"])
        self.ask("PATCH", f"/uploads/{upload}", self.payload[:size], offset=0)
        return upload

    def ask(
        self,
        method: str,
        path: str,
        data: bytes = b"",
        *,
        offset: int | None = None,
        known: bool = True,
        **values: Any,
    ) -> Any:
        """Send a request to the origin, and return the last line of the answer.

        Args:
            method: of the request.
            path: below the origin's URL.
            data: the body; ``values`` as JSON where it is empty.
            offset: of bytes of an upload.
            known: whether the upload must be known.
            values: the body, as JSON.
        """
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=20)
        headers = {} if offset is None else {"Upload-Offset": str(offset)}
        try:
            connection.request(method, path, data or json.dumps(values).encode(), headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        assert answer.status < 300 or (answer.status == 404 and not known), (
            f"{method} {path}: {answer.status} {text!r}"
        )
        return json.loads(text.splitlines()[-1]) if text else None

    def assert_left(self) -> None:
        """Assert that the bytes that were acknowledged are here, and that the published one is known."""
        half = self.ask("GET", f"/uploads/{self.half}")
        assert (half["state"], half["offset"]) == (UploadState.RECEIVING, _HALF), half
        whole = self.ask("GET", f"/uploads/{self.whole}")
        assert (whole["state"], whole["version"]) == (UploadState.COMPLETE, self.published), whole

    def recover(self) -> None:
        self.ask("DELETE", f"/uploads/{self.whole}")
        self.assert_published(self.send())
        self.assert_removed()
        self.versions.assert_served(self.url, KEEP)


class StartBesideUploads(LeftUploads):
    """A restart beside uploads."""

    name = "origin: start beside unfinished uploads"
    failures = frozenset({LOCAL_DISK})
    leftovers = r"\.shardcast/socket-at"  # it runs on with its socket elsewhere

    def act(self) -> Outcome:
        self.end()
        return outcome_of(self.start)

    def check(self, outcome: Outcome) -> None:
        if outcome.code != DONE:
            self.start()
        self.assert_left()
        self.versions.assert_served(self.url, KEEP)


class ExpireUploads(LeftUploads):
    """Uploads that expire while the origin runs; what can't be removed at once is removed later."""

    name = "origin: remove uploads that were left"

    def __init__(self, place: Path, nodes: Nodes) -> None:
        super().__init__(place, nodes)
        self.bounds = UploadBounds(tidy_seconds=0.02)
        self.options = {"takes_uploads": True, "upload_bounds": self.bounds}

    def expire_after(self, seconds: float) -> None:
        """Have uploads expire that no request was about for so long; the origin looks at once."""
        for name in ("idle_seconds", "result_seconds"):
            object.__setattr__(self.bounds, name, seconds)

    def prepare(self) -> None:
        self.expire_after(_NEVER)
        super().prepare()

    def act(self) -> Outcome:
        self.expire_after(0)
        time.sleep(_EXPIRED)  # a look at the folder from here would fail instead of the origin's
        return Outcome(DONE)

    def check(self, outcome: Outcome) -> None:
        self.versions.assert_served(self.url, KEEP)

    def recover(self) -> None:
        self.assert_removed()
        self.expire_after(_NEVER)
        self.assert_published(self.send())
        self.versions.assert_served(self.url, KEEP)


OPERATIONS: tuple[type[Operation], ...] = (TakeUpload, TakeLiveUpload, StartBesideUploads, ExpireUploads)
