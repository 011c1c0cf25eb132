"""A tree whose chunks are at the server ─▶ a snapshot."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from shardcast.backup.client.file_reader import Fields
from shardcast.backup.client.folder_cache import FolderSums
from shardcast.backup.client.remote import BackupRun
from shardcast.backup.entries import encode_json, json_fields, parse_entry, text_or_base64
from shardcast.backup.snapshots import TOP_NAME, Snapshot, snapshot_record


@dataclass(frozen=True, slots=True)
class SnapshotFacts:
    """What is told of a snapshot beside its tree.

    Attributes:
        path: absolute path of the folder.
        host: the name of this machine.
        user: who saves.
        tags: words of the user.
        command: what the user asked for.
        started: when it began, in nanoseconds since 1970.
        sent_bytes: bytes that were sent for it.
        problems: entries that could not be saved whole.
        base: the snapshot that it is compared with; None for none.
    """

    path: bytes
    host: str
    user: str
    tags: tuple[str, ...]
    command: Mapping[str, Any]
    started: int
    sent_bytes: int
    problems: int
    base: str | None = None

    def without_base(self) -> SnapshotFacts:
        """Return the facts of a snapshot that names every id."""
        return replace(self, base=None)


def commit_snapshot(
    run: BackupRun,
    facts: SnapshotFacts,
    root: Fields,
    sums: FolderSums,
    added: Iterable[bytes],
    removed: Iterable[bytes] = (),
) -> str | list[bytes]:
    """Make a snapshot; return its id, or the ids of chunks that the server lacks.

    Args:
        run: the backup at the server.
        facts: of the snapshot.
        root: fields of the top folder's entry.
        sums: of the tree.
        added: ids that it needs, beside those of the base.
        removed: ids of the base that it does not need.

    Raises:
        ServerLacks: the base is not there any more.
        PeerError: the server can't be asked.
    """
    snapshot = Snapshot(
        root=parse_entry(encode_json(json_fields(root | {"name": TOP_NAME}))),
        path=facts.path,
        host=facts.host,
        user=facts.user,
        started=facts.started,
        ended=time.time_ns(),
        files=sums.files,
        folders=sums.folders,
        bytes=sums.bytes,
        new_bytes=facts.sent_bytes,
        problems=facts.problems,
        tags=facts.tags,
        command=facts.command,
        parent=facts.base,
    )
    head = {
        **dict([text_or_base64("path", facts.path)]),
        "host": facts.host,
        "tags": list(facts.tags),
        "files": sums.files,
        "bytes": sums.bytes,
        "new_bytes": facts.sent_bytes,
        "base": facts.base,
    }
    return run.commit(head, snapshot_record(snapshot), added, removed)
