"""A backup under way at the server: chunks that are missing, shared or sent, and the commit of a snapshot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shardcast.backup import wire
from shardcast.backup.client.answers import parse_object, snapshot_id
from shardcast.backup.packs import Pack
from shardcast.backup.proofs import proof_key, prove
from shardcast.digest import Buffer
from shardcast.errors import BadAnswer, ServerLacks

if TYPE_CHECKING:
    from shardcast.backup.client.remote import BackupServer

_COMMIT_SECONDS = 1800.0
"""Seconds for a commit: the server looks up millions of ids."""
_END_SECONDS = 10.0
"""Seconds for ending a run, tried once: the server ends an abandoned run by itself."""


class BackupRun:
    """A backup under way at the server."""

    def __init__(self, server: BackupServer, run: str, *, shares: bool = False) -> None:
        """Go on with a run.

        Args:
            server: the server.
            run: the id of the run.
            shares: whether the server shares chunks of other clients with this one.
        """
        self._server = server
        self._run = run
        self._proof_key = proof_key(run) if shares else None

    def missing(self, ids: Sequence[bytes]) -> list[bool]:
        """Return for each id whether the server lacks the chunk; at most ``wire.MAX_IDS`` ids.

        Raises:
            ServerLacks: the run has ended.
            PeerError: the server does not answer.
        """
        return self._ask_bitmap("missing", b"".join(ids), len(ids))

    def share(self, chunks: Mapping[bytes, Buffer]) -> set[bytes]:
        """Return the ids of chunks that need not be sent: the server has them from other clients.

        A chunk too small for sharing is not asked for; a server that shares none is not asked.

        Args:
            chunks: plain bytes by id, at most ``wire.MAX_PROOFS``.

        Raises:
            ServerLacks: the run has ended.
            PeerError: the server can't be asked.
        """
        large = {chunk: data for chunk, data in chunks.items() if len(data) >= wire.MIN_SHARED}
        if self._proof_key is None or not large:
            return set()
        body = b"".join(chunk + prove(self._proof_key, data) for chunk, data in large.items())
        shared = self._ask_bitmap("share", body, len(large))
        return {chunk for chunk, flag in zip(large, shared, strict=True) if flag}

    def _ask_bitmap(self, below: str, body: bytes, count: int) -> list[bool]:
        """Return the flags that answer a request.

        Raises:
            PeerError: the server can't be asked.
        """
        path = wire.run_path(self._run, below)
        answer = self._server.ask("POST", path, body=(body,))
        try:
            return wire.decode_bitmap(answer.body, count)
        except ValueError as error:
            raise BadAnswer(self._server.url, f"POST {path}: {error}") from None

    def put_pack(self, pack: Pack) -> None:
        """Send a pack.

        Raises:
            UploadRefused: the server has no room.
            PeerError: the server does not answer, or refuses the pack.
        """
        self._server.ask("PUT", wire.run_path(self._run, f"packs/{pack.sha256}"), body=(pack.data,))

    def commit(
        self,
        head: Mapping[str, Any],
        record: bytes,
        added: Iterable[bytes],
        removed: Iterable[bytes] = (),
    ) -> str | list[bytes]:
        """Make a snapshot, and return the id; or the ids of some needed chunks missing at the server.

        Args:
            head: the fields shown in lists; ``base`` names a snapshot whose chunks are needed too.
            record: the record, opaque to the server.
            added: ids of needed chunks, beside those of ``base``; one string may hold several ids, joined.
            removed: ids of chunks of ``base`` no longer needed.

        Raises:
            ServerLacks: ``base`` was deleted, or the run has ended.
            PeerError: the server does not answer, or refuses.
        """
        path = wire.run_path(self._run, "snapshots")
        body: list[Buffer] = list(wire.encode_commit(head, record, added, removed))
        answer = self._server.ask(
            "POST",
            path,
            body=body,
            expected=(201, 409),
            max_answer=wire.MAX_IDS * wire.ID_BYTES,
            seconds=_COMMIT_SECONDS,
        )
        try:
            if answer.status == 201:
                return snapshot_id(parse_object(answer.body).get("snapshot"))
            missing = wire.split_ids(answer.body)
            if not missing or answer.headers.get("Content-Type") != "application/octet-stream":
                raise ValueError("the answer names no missing chunk")
            return missing
        except ValueError as error:
            raise BadAnswer(self._server.url, f"POST {path}: {answer.status}: {error}") from None

    def end(self) -> None:
        """End the run: the server may delete chunks kept only for the run.

        Raises:
            PeerError: the server does not answer.
        """
        try:
            self._server.ask_once("DELETE", wire.run_path(self._run), seconds=_END_SECONDS)
        except ServerLacks:
            pass  # it ended by itself
