"""The entries of a folder as its manifest tells them: laid out, and checked against the shards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shardcast.folders.entries import EntryKind
from shardcast.folders.growing_list import GrowingList
from shardcast.folders.layout import FolderLayout, TooManyShards
from shardcast.folders.listing import ListingReader
from shardcast.json_text import parse_json
from shardcast.protocol.manifest import DIGESTS_KEY, Header, Manifest
from shardcast.protocol.manifest_reader import ManifestError

_KIND_NAMES = {
    EntryKind.FILE: "file",
    EntryKind.FOLDER: "folder",
    EntryKind.SYMLINK: "symlink",
    EntryKind.HARD_LINK: "link",
}


@dataclass(frozen=True, slots=True)
class ContainedFile:
    """An entry of a folder, as people and programs are told of it.

    Attributes:
        path: relative to the folder; a folder's ends in ``/``. Bytes that are not UTF-8 are surrogates.
        kind: ``file``, ``folder``, ``symlink`` or ``link`` (another name of a file before it).
        size: bytes; 0 of all but files.
        mode: permission bits.
        mtime: seconds since the epoch, rounded down.
        sha256: the digest in hex; None of what is no file, and of a file of several shards, whose shards have
            digests.
        link: the target of a symbolic link, or the path of the file that a ``link`` is another name of.
    """

    path: str
    kind: str
    size: int
    mode: int
    mtime: int
    sha256: str | None = None
    link: str | None = None


def folder_layout(manifest: Manifest) -> FolderLayout | None:
    """Return the entries of a folder with their places in its payload; None for a version that is a file.

    Raises:
        ManifestError: an entry is unsafe or missing, or the shards are not those of these entries.
    """
    if manifest.header.folder is None:
        return None
    layout = layout_of_lines(manifest.header, manifest.raw)
    check_shards(layout, manifest)
    return layout


def layout_of_lines(header: Header, raw: bytes) -> FolderLayout:
    """Return the entries of a folder from the lines of its manifest, which may end behind them.

    Small files have those of their digests that have arrived.

    Raises:
        ManifestError: an entry is unsafe or missing.
    """
    facts = header.folder
    assert facts
    if header.shard_size is None:
        raise ManifestError("the header of a folder without the size of its shards")
    if facts.entries is None:
        return _written_layout(header, raw)
    reader = ListingReader(facts.entries)
    for values in _folder_lines(raw):
        reader.read(values)
    if not reader.whole:
        raise ManifestError(f"{len(reader.table)} of the {facts.entries} entries that its header says")
    try:
        layout = FolderLayout(reader.table, header.shard_size)
    except TooManyShards as error:
        raise ManifestError(str(error)) from None
    reader.note_digests(layout)
    return layout


def note_digests(layout: FolderLayout, manifest: Manifest) -> None:
    """Give the small files of a layout the digests in its whole manifest.

    Raises:
        ManifestError: a line of digests is none.
    """
    reader = ListingReader(len(layout.table))
    for values in _folder_lines(manifest.raw, DIGESTS_KEY.encode()):
        if DIGESTS_KEY in values:
            reader.read(values)
    reader.note_digests(layout)


def _written_layout(header: Header, raw: bytes) -> FolderLayout:
    """Return the entries so far of a folder that is written file by file.

    Raises:
        ManifestError: an entry is unsafe.
    """
    listed = GrowingList(header)
    listed.take(raw)
    listed.note_digests()
    return listed.layout


def check_shards(layout: FolderLayout, manifest: Manifest) -> None:
    """Check that the shards of a manifest are those that follow from its entries.

    Raises:
        ManifestError: a shard has another size, or there are fewer or more.
    """
    if manifest.size != layout.size:
        raise ManifestError(f"a payload of {manifest.size} bytes, where its entries make {layout.size}")
    expected = 0
    for expected, shard in enumerate(layout.shards(), 1):
        if expected > len(manifest.shards) or manifest.shards[expected - 1].size != shard.size:
            raise ManifestError(f"shard {expected} has not the {shard.size} bytes that its entries make")
    if expected != len(manifest.shards):
        raise ManifestError(f"{len(manifest.shards)} shards, where its entries make {expected}")


def contained_files(manifest: Manifest) -> Iterator[ContainedFile]:
    """Yield the entries of a folder in their order; none for a version that is a file.

    Raises:
        ManifestError: as ``folder_layout`` does.
    """
    layout = folder_layout(manifest)
    if layout is None:
        return
    digests = _large_digests(layout, manifest)
    for index, entry in enumerate(layout.table):
        digest = layout.table.digest(index)
        yield ContainedFile(
            path=entry.text,
            kind=_KIND_NAMES[entry.kind],
            size=entry.size,
            mode=entry.mode,
            mtime=entry.mtime,
            sha256=digest.hex() if digest else digests.get(index),
            link=entry.link.decode("utf-8", "surrogateescape") if entry.link else None,
        )


def _large_digests(layout: FolderLayout, manifest: Manifest) -> dict[int, str]:
    """Return the digests of the large files that are one shard each, by their indices."""
    return {
        placed.index: shard.sha256
        for placed, shard in zip(layout.shards(), manifest.shards, strict=True)
        if placed.index is not None and placed.size == layout.table.size(placed.index) and shard.sha256
    }


def _folder_lines(raw: bytes, key: bytes = b"") -> Iterator[dict[str, Any]]:
    """Yield the values of the lines of a manifest that tell of no shard, of those with ``key`` in them.

    A reader of manifests has parsed each line before.
    """
    start = 0
    while (end := raw.find(b"\n", start)) >= 0:
        if raw.find(key, start, end) >= 0:
            values = parse_json(raw[start:end])
            if not {"format", "shard", "complete"} & values.keys():
                yield values
        start = end + 1
