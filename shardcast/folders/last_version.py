"""The last version published from a folder, and the parts of it that the next version can use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from shardcast.folders.contents import folder_layout
from shardcast.folders.layout import FolderLayout
from shardcast.folders.reuse import UnchangedEntries, compare_entries, reusable_shards
from shardcast.folders.source_record import SourceRecord, read_record
from shardcast.folders.survey import FolderSurvey
from shardcast.protocol.manifest import Manifest, Shard
from shardcast.protocol.manifest_reader import ManifestError

FindManifest = Callable[[str], Manifest | None]
"""Returns the manifest of a complete version by name; None for an unknown version."""


@dataclass(frozen=True)
class KnownShards:
    """The parts of a payload known before reading.

    Attributes:
        shards: the unchanged shards, by number.
        digests: those of the whole payload, if nothing changed at all; else None.
    """

    shards: Mapping[int, Shard] = field(default_factory=dict)
    digests: Mapping[str, str] | None = None


@dataclass(frozen=True)
class LastVersion:
    """The last version of a folder.

    Attributes:
        manifest: the version's manifest.
        layout: of the entries.
        record: the identities of the files at that time.
    """

    manifest: Manifest
    layout: FolderLayout
    record: SourceRecord


def find_last_version(records: Path, source: Path, find: FindManifest) -> LastVersion | None:
    """Return the last version of a folder; None without a usable record and manifest. Blocks on the disk.

    Args:
        records: the folder with the records.
        source: the published folder.
        find: finds the version's manifest.
    """
    record = read_record(records, source)
    manifest = find(record.version) if record else None
    if record is None or manifest is None or manifest.identity != record.manifest:
        return None
    try:
        layout = folder_layout(manifest)
    except ManifestError:
        return None
    if layout is None or len(layout.table) != len(record.identities):
        return None
    return LastVersion(manifest, layout, record)


def known_shards(
    survey: FolderSurvey, layout: FolderLayout, last: LastVersion, algorithms: tuple[str, ...]
) -> KnownShards:
    """Return the shards known from the last version, and enter the digests of unchanged files.

    Args:
        survey: the present state of the folder.
        layout: of the folder's entries.
        last: the last version.
        algorithms: those of the payload's digests.
    """
    before = last.layout
    entries = compare_entries(
        (survey.table, survey.identities), (before.table, last.record.identities), last.record.settled
    )
    _note_digests(layout, before, entries)
    shards_before = last.manifest.shards
    shards, offset = {}, 0
    numbers = reusable_shards(layout, before, entries)
    for number, shard in enumerate(layout.shards(), 1):
        if number in numbers:
            known = shards_before[numbers[number] - 1]
            if known.sha256 and known.pieces:
                shards[number] = replace(known, number=number, offset=offset)
        offset += shard.size
    stands = entries.same_list and layout.shard_size == before.shard_size
    digests = {name: last.manifest.digests[name] for name in algorithms if name in last.manifest.digests}
    return KnownShards(shards, digests if stands and len(digests) == len(algorithms) else None)


def _note_digests(layout: FolderLayout, before: FolderLayout, entries: UnchangedEntries) -> None:
    """Give unchanged small files their digests from the last version's list."""
    for index in layout.small_files():
        if entries.unchanged[index]:
            digest = before.table.digest(entries.before[index])
            if digest:
                layout.table.set_digest(index, digest)
