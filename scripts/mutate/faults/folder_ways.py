"""Faults in the further ways of publishing a folder: without a copy, from elsewhere, file by file."""

from __future__ import annotations

from fault import Fault

GROWN = ["tests/unit/folders/test_written_folders.py", "tests/integration/test_open_broadcast_folder.py"]
LINKED = ["tests/integration/test_folder_link.py"]
SENT = ["tests/integration/test_folder_uploads.py"]
WRITER = "shardcast/api/open_folder.py"

FAULTS = [
    Fault(
        name="linked-file-that-was-written-to-is-served",
        file="shardcast/store/completed.py",
        old="return None if file.is_changed else Span(",
        new="return Span(",
        tests=LINKED,
    ),
    Fault(
        name="file-changed-between-walk-and-link-is-adopted",
        file="shardcast/store/adopted_payload.py",
        old="if file.is_changed:",
        new="if False:",
        tests=LINKED,
    ),
    Fault(
        name="links-of-ours-count-as-changes",
        file="shardcast/nodes/publisher.py",
        old="folders.data_dir.links.tell = records.note_links",
        new="records.note_links([])",
        tests=LINKED,
    ),
    Fault(
        name="record-is-renewed-whatever-the-file-was-before",
        file="shardcast/folders/source_record.py",
        old="if change and settled[index] and identities.agree(index, change.before):",
        new="if change and settled[index]:",
        tests=LINKED,
    ),
    Fault(
        name="linked-version-that-goes-leaves-stale-records",
        file="shardcast/folders/kept.py",
        old="        _renew_beside(folder.parent, changes)\n",
        new="        pass\n",
        tests=["tests/unit/folders/test_folder_reuse.py"],
    ),
    Fault(
        name="tar-that-differs-from-its-list-is-published",
        file="shardcast/folders/tar_publishing.py",
        old="elif data != part:",
        new="elif False:",
        tests=SENT,
    ),
    Fault(
        name="digests-of-a-sender-are-believed",
        file="shardcast/folders/tar_publishing.py",
        old="        layout.table.clear_digests()",
        new="        pass",
        tests=SENT,
    ),
    Fault(
        name="folder-is-sent-to-an-origin-that-knows-none",
        file="shardcast/nodes/remote_broadcast.py",
        old="if self._announcement.folder and not status.is_folder:",
        new="if False:",
        tests=SENT,
    ),
    Fault(
        name="file-with-fewer-bytes-than-its-size-is-closed",
        file=WRITER,
        old="if self._written != self._entry.size:",
        new="if False:",
        tests=GROWN,
    ),
    Fault(
        name="list-of-an-open-folder-does-not-grow",
        file="shardcast/folders/output.py",
        old="        self._grow()\n        placed =",
        new="        placed =",
        tests=GROWN,
    ),
    Fault(
        name="path-is-written-twice",
        file="shardcast/folders/written_table.py",
        old="        if self.has(path):",
        new="        if False:",
        tests=GROWN,
    ),
    Fault(
        name="folder-that-is-here-is-not-shared",
        file="shardcast/nodes/download.py",
        old="shared = await self._share_unchanged(live, known, output, peers) if joins else None",
        new="shared = None",
        tests=["tests/integration/test_folder_sharing.py"],
    ),
]
