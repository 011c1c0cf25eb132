"""A tree whose chunks are at the server ─▶ a snapshot."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from shardcast.backup.client.file_reader import Fields
from shardcast.backup.client.folder_cache import FolderSums
from shardcast.backup.client.run import BackupRun
from shardcast.backup.entries import encode_json, json_fields, parse_entry, text_or_base64
from shardcast.backup.snapshots import TOP_NAME, Snapshot, snapshot_record


@dataclass(frozen=True, slots=True)
class SnapshotFacts:
    """Facts of a snapshot beside its tree.

    Attributes:
        path: absolute path of the folder.
        host: the name of this machine.
        user: the user who runs the backup.
        tags: words of the user.
        command: options of the backup.
        started: time of the start, in nanoseconds since 1970.
        sent_bytes: bytes sent for the snapshot.
        problems: number of entries not saved whole.
        base: the snapshot to compare with; None for none.
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
        """Return the facts of a snapshot without a base; its commit lists every id."""
        return replace(self, base=None)


def commit_snapshot(
    run: BackupRun,
    facts: SnapshotFacts,
    root: Fields,
    sums: FolderSums,
    added: Iterable[bytes],
    removed: Iterable[bytes] = (),
) -> str | list[bytes]:
    """Make a snapshot; return its id, or the ids of chunks missing at the server.

    Args:
        run: the backup at the server.
        facts: of the snapshot.
        root: fields of the top folder's entry.
        sums: of the tree.
        added: needed ids, beside those of the base; one string may hold several ids, joined.
        removed: ids of the base no longer needed.

    Raises:
        ServerLacks: the base was deleted.
        PeerError: the request failed.
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
