"""The entries of a folder in its manifest: laid out, and checked against the shards."""

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
    """An entry of a folder, for people and programs.

    Attributes:
        path: relative to the folder; a folder's ends in ``/``. Bytes other than UTF-8 are surrogates.
        kind: ``file``, ``folder``, ``symlink`` or ``link`` (another name of a file before it).
        size: bytes of a file; 0 for other kinds.
        mode: permission bits.
        mtime: seconds since the epoch, rounded down.
        sha256: the digest in hex; None for other kinds than files, and for a file of several shards (each
            shard has a digest).
        link: the target of a symbolic link, or the first path of a file with another name ``link``.
    """

    path: str
    kind: str
    size: int
    mode: int
    mtime: int
    sha256: str | None = None
    link: str | None = None


def folder_layout(manifest: Manifest) -> FolderLayout | None:
    """Return the entries of a folder with their places in the payload; None for a file.

    Raises:
        ManifestError: an entry is unsafe or missing, or the shards do not match the entries.
    """
    if manifest.header.folder is None:
        return None
    layout = layout_of_lines(manifest.header, manifest.raw)
    check_shards(layout, manifest)
    return layout


def layout_of_lines(header: Header, raw: bytes) -> FolderLayout:
    """Return the entries of a folder from the lines of its manifest, complete or cut after the entries.

    Small files get their digests as far as these have arrived.

    Raises:
        ManifestError: an entry is unsafe or missing, a line is malformed, or there would be too many shards.
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
        raise ManifestError(f"{len(reader.table)} of the {facts.entries} entries announced in the header")
    try:
        layout = FolderLayout(reader.table, header.shard_size)
    except TooManyShards as error:
        raise ManifestError(str(error)) from None
    reader.note_digests(layout)
    return layout


def note_digests(layout: FolderLayout, manifest: Manifest) -> None:
    """Enter the digests of small files from the whole manifest into a layout.

    Raises:
        ManifestError: a line of digests is malformed.
    """
    reader = ListingReader(len(layout.table))
    for values in _folder_lines(manifest.raw, DIGESTS_KEY.encode()):
        if DIGESTS_KEY in values:
            reader.read(values)
    reader.note_digests(layout)


def _written_layout(header: Header, raw: bytes) -> FolderLayout:
    """Return the entries so far of a folder written file by file.

    Raises:
        ManifestError: an entry is unsafe.
    """
    listed = GrowingList(header)
    listed.take(raw)
    listed.note_digests()
    return listed.layout


def check_shards(layout: FolderLayout, manifest: Manifest) -> None:
    """Check that the shards of a manifest are those of its entries.

    Raises:
        ManifestError: a shard has another size, or there are fewer or more shards.
    """
    if manifest.size != layout.size:
        raise ManifestError(f"a payload of {manifest.size} bytes, and its entries make {layout.size}")
    expected = 0
    for expected, shard in enumerate(layout.shards(), 1):
        if expected > len(manifest.shards) or manifest.shards[expected - 1].size != shard.size:
            raise ManifestError(f"shard {expected} has not the {shard.size} bytes made by its entries")
    if expected != len(manifest.shards):
        raise ManifestError(f"{len(manifest.shards)} shards, and its entries make {expected}")


def contained_files(manifest: Manifest) -> Iterator[ContainedFile]:
    """Yield the entries of a folder in their order; none for a file.

    Raises:
        ManifestError: as for ``folder_layout``.
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
    """Return the digests of the large files of one shard each, by their indices."""
    return {
        placed.index: shard.sha256
        for placed, shard in zip(layout.shards(), manifest.shards, strict=True)
        if placed.index is not None and placed.size == layout.table.size(placed.index) and shard.sha256
    }


def _folder_lines(raw: bytes, key: bytes = b"") -> Iterator[dict[str, Any]]:
    """Yield the values of all lines of a manifest with ``key``, except lines about shards.

    The lines are valid JSON: a reader of manifests has parsed each before.
    """
    start = 0
    while (end := raw.find(b"\n", start)) >= 0:
        if raw.find(key, start, end) >= 0:
            values = parse_json(raw[start:end])
            if not {"format", "shard", "complete"} & values.keys():
                yield values
        start = end + 1
