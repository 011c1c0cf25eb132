"""A backup server as typed calls, from any thread; requests safe to repeat are repeated a few times."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from shardcast.access.secret import Secret, bearer
from shardcast.access.tls import ClientTls
from shardcast.backup import wire
from shardcast.backup.client.answers import (
    ClientFacts,
    ListedSnapshot,
    RegisteredClient,
    parse_facts,
    parse_listed,
    parse_object,
    parse_registered,
    snapshot_id,
)
from shardcast.backup.client.connections import ANSWER_SECONDS, BackupAnswer, Body, KeptConnections
from shardcast.backup.client.run import BackupRun
from shardcast.backup.entries import text_or_base64
from shardcast.errors import (
    AccessDenied,
    BadAnswer,
    CannotAsk,
    PeerError,
    ServerBusy,
    ServerLacks,
    ServerStalled,
    ServerUnreachable,
    UploadRefused,
)
from shardcast.peer.failures import status_error
from shardcast.plain_text import one_line
from shardcast.policy.backoff import Backoff

_ATTEMPTS = 6
"""Tries of one request."""
_BACKOFF = Backoff(first=0.25, longest=8.0)
"""Seconds between two tries: some 15 s in all, as long as a server takes to restart."""
_PASSING = (ServerUnreachable, ServerStalled, ServerBusy)
"""Failures after which a request is repeated."""
_SMALL = 1 << 20
"""Bytes of most answers."""
_MAX_LIST = 256 << 20
"""Bytes of the list of all snapshots."""
_MAX_WORDS = 300
"""Characters of a server's words in an error."""
_NO_ROOM, _TOO_MANY = 507, 429

Value = TypeVar("Value")


class BackupServer:
    """A backup server, used as one client.

    Attributes:
        url: base URL of the server.
    """

    def __init__(
        self,
        url: str,
        key: Secret | None = None,
        *,
        tls: ClientTls | None = None,
        pause: Callable[[float], None] | None = None,
    ) -> None:
        """Ask nothing yet.

        Args:
            url: base URL.
            key: the client's; None for calls without a key.
            tls: TLS settings of https connections.
            pause: called with the seconds to wait before the next attempt; None to sleep.

        Raises:
            UsageError, LocalDiskError: a file of ``tls`` can't be used.
        """
        self.url = url
        self._connections = KeptConnections(url, bearer(key) if key else {}, tls or ClientTls())
        self._pause = pause or self._connections.pause

    def close(self) -> None:
        """Close every idle connection."""
        self._connections.close()

    def abort(self) -> None:
        """Cut off the requests of all threads, and refuse further ones."""
        self._connections.abort()

    def check(self) -> None:
        """Check that the URL is a backup server of a protocol this release supports.

        Raises:
            PeerError: the URL is another server, has a newer protocol, or does not answer.
        """
        try:
            fields = self._read("GET", wire.ABOUT_PATH, _object_or_empty)
        except ServerBusy:
            raise
        except ServerLacks as error:
            raise BadAnswer(
                self.url, f"this is no backup server; check the address ({error.what})"
            ) from error
        if fields.get("name") != wire.NAME or type(fields.get("format")) is not int:
            raise BadAnswer(self.url, "this is no backup server; check the address")
        if fields["format"] > wire.FORMAT:
            raise BadAnswer(
                self.url,
                f"the server uses format {fields['format']} of backups; install a newer release here",
            )

    def register(self, invitation: str, host: str, path: bytes) -> RegisteredClient:
        """Register a folder with an invitation, and return this client's name and keys.

        An invitation is valid once, so the request is not repeated.

        Args:
            invitation: the text from the server's operator.
            host: the name of this machine.
            path: absolute path of the folder.

        Raises:
            AccessDenied: the invitation is wrong, used or expired.
            PeerError: the server does not answer.
        """
        fields = {"invitation": invitation, "host": host} | dict([text_or_base64("path", path)])
        answer = self.ask_once("POST", wire.REGISTER_PATH, body=_json(fields))
        return self._parsed(answer, f"POST {wire.REGISTER_PATH}", parse_registered)

    def facts(self) -> ClientFacts:
        """Return the server's facts about this client.

        Raises:
            PeerError: the server does not answer.
        """
        return self._read("GET", wire.CLIENT_PATH, parse_facts)

    def begin_run(self, host: str, path: bytes) -> BackupRun:
        """Begin a run and return it: chunks reported as available to the run stay until its end.

        Args:
            host: the name of this machine.
            path: absolute path of the folder to save.

        Raises:
            PeerError: the server does not answer, or this client is read-only.
        """
        fields = {"host": host} | dict([text_or_base64("path", path)])

        def parse(body: bytes) -> BackupRun:
            answer = parse_object(body)
            return BackupRun(self, snapshot_id(answer.get("run")), shares=answer.get("shares") is True)

        return self._read("POST", wire.RUNS_PATH, parse, body=_json(fields))

    def snapshots(self) -> list[ListedSnapshot]:
        """Return this client's snapshots, oldest first.

        Raises:
            PeerError: the server can't be asked.
        """

        def parse(body: bytes) -> list[ListedSnapshot]:
            return [parse_listed(line) for line in body.split(b"\n") if line]

        return self._read("GET", wire.SNAPSHOTS_PATH, parse, max_answer=_MAX_LIST)

    def record(self, snapshot: str) -> bytes:
        """Return the record of a snapshot.

        Raises:
            ServerLacks: there is none of this id.
            PeerError: the server can't be asked.
        """
        return self.ask("GET", wire.snapshot_path(snapshot), max_answer=wire.MAX_RECORD).body

    def damaged(self, snapshot: str) -> list[bytes]:
        """Return the ids of a snapshot's chunks recorded by the server as damaged or lost.

        Raises:
            PeerError: the server does not answer.
        """
        path = wire.snapshot_path(snapshot, "damaged")
        max_ids = wire.MAX_SNAPSHOT_IDS
        return self._read("GET", path, lambda body: wire.split_ids(body, max_ids), max_answer=_MAX_LIST)

    def locate(self, ids: Sequence[bytes]) -> list[wire.ChunkLocation]:
        """Return where chunks lie, in the order of the ids; ``wire.NOWHERE`` for a missing chunk.

        Args:
            ids: at most ``wire.MAX_IDS``.

        Raises:
            PeerError: the server can't be asked.
        """
        return self._read(
            "POST",
            wire.LOCATE_PATH,
            lambda body: wire.decode_locations(body, len(ids)),
            body=(b"".join(ids),),
            max_answer=len(ids) * wire.LOCATION_BYTES,
        )

    def read_range(self, pack: bytes, offset: int, length: int) -> bytes:
        """Return bytes of a pack.

        Raises:
            ServerLacks: the pack is not there any more.
            PeerError: the server can't be asked, or sends other bytes.
        """
        path = wire.pack_path(pack.hex())
        headers = {"Range": f"bytes={offset}-{offset + length - 1}"}
        answer = self.ask("GET", path, headers=headers, max_answer=length, expected=(206,))
        if len(answer.body) != length:
            raise BadAnswer(self.url, f"GET {path}: {len(answer.body)} bytes instead of {length}")
        return answer.body

    def forget(self, snapshots: Sequence[str], admin_key: str | None = None) -> list[str]:
        """Delete snapshots, all of them or none, and return their ids.

        Raises:
            AccessDenied: the server is append-only, and the admin key is missing or wrong.
            PeerError: a snapshot is not this client's, or too young; or the server does not answer.
        """

        def parse(body: bytes) -> list[str]:
            found = parse_object(body).get("forgotten")
            if not isinstance(found, list):
                raise ValueError("the answer has no list of snapshots")
            return [snapshot_id(one) for one in found]

        headers = {wire.ADMIN_KEY_HEADER: admin_key} if admin_key else {}
        return self._read(
            "POST", wire.FORGET_PATH, parse, body=_json({"snapshots": list(snapshots)}), headers=headers
        )

    def ask(self, method: str, path: str, **more: Any) -> BackupAnswer:
        """Send a request, repeated after failures that may pass; for ``more`` see ``ask_once``.

        Raises:
            PeerError: the request failed for good, or too often.
            UploadRefused: the server has no room.
        """
        for attempt in range(_ATTEMPTS - 1):
            try:
                return self.ask_once(method, path, **more)
            except CannotAsk:
                raise
            except _PASSING:
                self._pause(_BACKOFF.spread(attempt, random.Random()))
        return self.ask_once(method, path, **more)

    def ask_once(
        self,
        method: str,
        path: str,
        *,
        body: Body = (),
        headers: Mapping[str, str] | None = None,
        max_answer: int = _SMALL,
        expected: Collection[int] = (200, 201, 204),
        seconds: float = ANSWER_SECONDS,
    ) -> BackupAnswer:
        """Send a request without repeating it, and return an answer of an expected status.

        Args:
            method: of the request.
            path: below the server's URL.
            body: of the request.
            headers: beside those of every request.
            max_answer: maximum bytes of the answer; less than 1 MiB counts as 1 MiB.
            expected: statuses of a success.
            seconds: maximum for request and answer together.

        Raises:
            PeerError: the request failed, or the answer has a status that was not expected.
            UploadRefused: the server has no room.
        """
        answer = self._connections.ask(
            method, path, body=body, headers=headers, max_answer=max(max_answer, _SMALL), seconds=seconds
        )
        if answer.status in expected:
            return answer
        raise _refusal(self.url, f"{method} {path}", answer)

    def _read(self, method: str, path: str, parse: Callable[[bytes], Value], **more: Any) -> Value:
        return self._parsed(self.ask(method, path, **more), f"{method} {path}", parse)

    def _parsed(self, answer: BackupAnswer, request: str, parse: Callable[[bytes], Value]) -> Value:
        """Return the parsed body of an answer.

        Raises:
            BadAnswer: the body is malformed.
        """
        try:
            return parse(answer.body)
        except ValueError as error:
            raise BadAnswer(self.url, f"{request}: malformed answer: {error}") from None


def _object_or_empty(body: bytes) -> dict[str, Any]:
    """Return the JSON object of an answer; an empty one for another answer, such as a web page."""
    try:
        return parse_object(body)
    except ValueError:
        return {}


def _json(fields: Mapping[str, Any]) -> Body:
    return (json.dumps(fields, separators=(",", ":")).encode(),)


def _refusal(server: str, request: str, answer: BackupAnswer) -> PeerError | UploadRefused:
    """Return the error of an answer with an unexpected status, in the server's words if there are any."""
    words = _words(answer.body)
    text = (
        f"{request}: {answer.status}: {words}"
        if words
        else f"{request}: the answer is {answer.status} {answer.reason}"
    )
    if answer.status == _NO_ROOM:
        return UploadRefused(f"{server}: {text}")
    if answer.status == _TOO_MANY:
        return ServerBusy(server, text)
    if not words:
        return status_error(server, request, answer.status, answer.headers, reason=answer.reason)
    if answer.status in (401, 403):
        return AccessDenied(server, text)
    if answer.status in (404, 410):
        return ServerLacks(server, text)
    if answer.status in (502, 503, 504):
        return ServerBusy(server, text)
    return BadAnswer(server, text)


def _words(body: bytes) -> str:
    """Return the error message in a body; empty without one."""
    try:
        error = parse_object(body[:_SMALL]).get("error")
    except ValueError:
        return ""
    return one_line(error, _MAX_WORDS) if isinstance(error, str) else ""
