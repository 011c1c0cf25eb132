"""The growing list of a folder written file by file, read line by line."""

from __future__ import annotations

from shardcast.folders.layout import TooManyShards
from shardcast.folders.listing import ListingReader
from shardcast.folders.written_table import MAX_WRITTEN, WrittenLayout, WrittenTable
from shardcast.json_text import parse_json
from shardcast.protocol.manifest import Header
from shardcast.protocol.manifest_reader import ManifestError


class GrowingList:
    """The laid out entries so far.

    Attributes:
        layout: of the entries; each call of ``take`` may extend it.
    """

    def __init__(self, header: Header) -> None:
        """Begin with no entry.

        Raises:
            ManifestError: the header does not tell the size of shards.
        """
        if header.shard_size is None:
            raise ManifestError("the header of a folder without the size of its shards")
        table = WrittenTable()
        self._reader = ListingReader(MAX_WRITTEN, table)
        self.layout = WrittenLayout(table, header.shard_size)
        self._taken = 0

    def take(self, raw: bytes | bytearray) -> bool:
        """Take new lines of a manifest since the last call; return whether the list has grown.

        Raises:
            ManifestError: an entry is unsafe or malformed.
        """
        known, end = len(self.layout.table), raw.rfind(b"\n") + 1
        for line in bytes(raw[self._taken : end]).splitlines():
            values = parse_json(line)  # a reader of manifests has parsed each before
            if not {"format", "shard", "complete"} & values.keys():
                self._reader.read(values)
        self._taken = end
        try:
            self.layout.extend()
        except TooManyShards as error:
            raise ManifestError(str(error)) from None
        return len(self.layout.table) > known

    def note_digests(self) -> None:
        """Enter the digests received so far for small files."""
        self._reader.note_digests(self.layout)
