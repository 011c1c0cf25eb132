"""One backup of a stream, such as a database's dump: a folder with one file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from shardcast.backup.client.chunk_sender import ChunkSender
from shardcast.backup.client.commits import SnapshotFacts, commit_snapshot
from shardcast.backup.client.file_reader import ChunkingReader, Fields
from shardcast.backup.client.folder_cache import FolderSums
from shardcast.backup.client.remote import BackupServer
from shardcast.backup.client.saving import BackupOrder, BackupProgress, BackupResult, begun_run
from shardcast.backup.entries import check_name, fields_line
from shardcast.backup.ids import ChunkKind, chunk_id
from shardcast.digest import Buffer
from shardcast.errors import BadAnswer, UsageError

_FILE_MODE, _FOLDER_MODE = 0o600, 0o700


class StreamBackup:
    """A backup of a stream to one server.

    Attributes:
        progress: of the backup.
    """

    def __init__(
        self, server: BackupServer, order: BackupOrder, name: str, read: Callable[[int], Buffer]
    ) -> None:
        """Begin nothing yet.

        Args:
            server: the backup server.
            order: names the folder; no file in the folder is read.
            name: of the file.
            read: returns the next bytes of the stream, at most the requested number, and none at the end.

        Raises:
            UsageError: the name cannot be a file's name.
        """
        try:
            self._name = check_name(os.fsencode(name))
        except ValueError as error:
            raise UsageError(str(error)) from None
        self.progress = BackupProgress()
        self._server = server
        self._order = order
        self._read = read

    def run(self) -> BackupResult:
        """Save the stream, and return the result.

        Raises:
            AccessDenied: this client is read-only.
            PeerError, UploadRefused: the server does not answer, or has no room.
            OSError: the stream cannot be read.
        """
        started, clock = time.time_ns(), time.monotonic()
        order = self._order
        with begun_run(self._server, order.host, order.folder) as (run, key):
            sender = self.progress.sender = ChunkSender(run)
            reader = self.progress.reader = ChunkingReader(key, sender.take)
            try:
                content, ids = reader.stream(self._read)
                owner = {"uid": os.getuid(), "gid": os.getgid(), "mtime": time.time_ns()}
                file: Fields = {**content, **owner, "name": self._name, "mode": _FILE_MODE}
                segment = self._send_listing(key, sender, file)
                sender.finish()
            except BaseException:
                sender.abandon()
                raise
            sums = FolderSums(1, 1, file["size"])
            root: Fields = {"kind": "folder", **owner, "mode": _FOLDER_MODE, "segments": [segment]}
            facts = SnapshotFacts(
                order.folder, order.host, order.user, order.tags, order.command, started,
                sender.sent_bytes, 0,
            )  # fmt: skip
            found = commit_snapshot(run, facts, root, sums, [segment + ids])
        if not isinstance(found, str):
            raise BadAnswer(self._server.url, "the server lacks chunks that were just sent; try again")
        return BackupResult(found, sums, reader.bytes, sender.sent_bytes, 0, 0, 0, time.monotonic() - clock)

    def _send_listing(self, key: bytes, sender: ChunkSender, file: Mapping[str, Any]) -> bytes:
        """Hand on the listing with the file for sending, and return the listing's id."""
        plain = fields_line(file)
        segment = chunk_id(key, ChunkKind.LISTING, plain)
        sender.take(ChunkKind.LISTING, segment, plain)
        return segment
