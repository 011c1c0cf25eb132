"""Manifests from other nodes, read while they grow.

A reader takes bytes as they arrive and checks each bound, so a stranger's manifest does no harm.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from typing import Any

from shardcast.constants import ENVIRONMENT_PREFIX, TRANSFER_MEMORY
from shardcast.digest import PIECE_DIGEST_SIZE, is_digest
from shardcast.json_text import parse_json
from shardcast.plain_text import short_name
from shardcast.protocol.lines import MAX_LINE, LineReader, LineTooLong
from shardcast.protocol.manifest import (
    DIGESTS_KEY,
    ENTRIES_KEY,
    FORMAT,
    MAX_ENTRIES,
    MAX_METADATA,
    MAX_PIECE_SIZE,
    FolderFacts,
    Header,
    Manifest,
    Shard,
)
from shardcast.protocol.shard_table import ShardTable
from shardcast.protocol.wire import MAX_SHARDS, version_number

MAX_MANIFEST = 256 << 20
"""Bytes of a manifest: some 1.5 TB of payload in shards of 50 MB."""
_MAX_REASON = 200
"""Maximum characters of the reason of an aborted version."""
MAX_SIZE = 1 << 62
"""Bytes of a payload."""
MAX_MEMORY = TRANSFER_MEMORY * 7 // 8
"""Bytes of memory for a manifest, its lines and its shards; the rest is for pieces in reception."""
MAX_UNKNOWN_LINES = 1000
"""Lines of an unknown kind."""
MAX_FOLDER_LINES = 10_000
"""Lines with entries of a folder and their digests, more than ``MAX_MANIFEST`` has room for."""


class ManifestError(ValueError):
    """Bytes that are no manifest, or a manifest beyond its bounds."""


class Aborted(ManifestError):
    """The manifest ends with the line of an aborted version.

    Attributes:
        why: the reason in the publisher's words.
    """

    def __init__(self, why: str) -> None:
        super().__init__(f"the version was aborted: {why!r}")
        self.why = why


class ManifestReader:
    """A parser of a growing manifest.

    Attributes:
        header: the first line; None until its arrival.
        shards: the shards with an arrived line.
        digests: digests of the payload; None until the closing line has arrived.
    """

    def __init__(
        self, version: str | None = None, memory: int = MAX_MEMORY, *, keeps_lines: bool = True
    ) -> None:
        """Read the manifest of a version.

        Args:
            version: the version requested, any other is refused; None for any.
            memory: maximum bytes of the lines and the shards together.
            keeps_lines: whether to keep the lines for ``manifest``; else the caller does.
        """
        self._version = version
        self._memory = memory
        self._received = 0
        self._lines = LineReader()
        self._raw = io.BytesIO() if keeps_lines else None  # complete lines; getvalue() does not copy
        self._length = 0  # of the complete lines
        self._strange = 0
        self._folder_lines = 0
        self.header: Header | None = None
        self.shards = ShardTable()
        self.digests: dict[str, str] | None = None

    def feed(self, data: bytes) -> None:
        """Parse the next bytes.

        Raises:
            ManifestError: they are not a manifest's, or break a bound.
            Aborted: the publisher aborted the version.
        """
        self._received += len(data)
        if self._received > MAX_MANIFEST:
            raise ManifestError(f"more than {MAX_MANIFEST} bytes")
        try:
            for line in self._lines.feed(data):
                self._read_line(line)
                self._length += len(line) + 1
                if self._raw:
                    self._raw.write(line + b"\n")
        except LineTooLong as error:
            raise ManifestError(str(error)) from None
        if self._length + self.shards.memory > self._memory:
            raise ManifestError(
                f"its lines and {len(self.shards)} shards take more than {self._memory} bytes of memory; "
                f"{ENVIRONMENT_PREFIX}TRANSFER_MEMORY sets how much there may be"
            )

    def manifest(self, lines: bytes | None = None) -> Manifest:
        """Return the complete manifest; a reader that keeps no lines needs the bytes of all of them.

        Raises:
            ManifestError: its closing line has not arrived.
        """
        if self.header is None or self.digests is None:
            raise ManifestError("it ends without its closing line")
        raw = self._raw.getvalue() if self._raw else lines
        assert raw is not None
        return Manifest(self.header, self.shards, self.digests, raw)

    def _read_line(self, line: bytes) -> None:
        """Take the next line.

        Raises:
            ManifestError: the line is none of a manifest, or breaks a bound.
            Aborted: the publisher aborted the version.
        """
        try:
            values = parse_json(line)
        except ValueError:
            raise ManifestError("a line that is not JSON") from None
        if not isinstance(values, dict):
            raise ManifestError("a line that is no JSON object")
        if self.digests is not None:
            self._skip_line()
        elif self.header is None:
            self.header = self._header(values)
        elif "shard" in values:
            self.shards.append(self._shard(values, self.header))
        elif "complete" in values:
            self.digests = self._closing(values, self.header)
        elif "aborted" in values:
            raise Aborted(short_name(str(values["aborted"]), _MAX_REASON))
        elif self.header.folder and (ENTRIES_KEY in values or DIGESTS_KEY in values):
            self._pass_folder_line()
        else:
            self._skip_line()

    def _pass_folder_line(self) -> None:
        """Count a line about a folder's entries, for their receiver to read (``folders.listing``).

        Raises:
            ManifestError: there are too many of them.
        """
        self._folder_lines += 1
        if self._folder_lines > MAX_FOLDER_LINES:
            raise ManifestError(f"more than {MAX_FOLDER_LINES} lines with entries of a folder")

    def _skip_line(self) -> None:
        """Count a line of an unknown kind, or after the closing line.

        Raises:
            ManifestError: there are too many of them.
        """
        self._strange += 1
        if self._strange > MAX_UNKNOWN_LINES:
            raise ManifestError(f"more than {MAX_UNKNOWN_LINES} lines of an unknown kind, or after its end")

    def _header(self, values: dict[str, Any]) -> Header:
        """Return the header, every bound checked.

        Raises:
            ManifestError: the line is no header, or breaks a bound.
        """
        format_number = _integer(values, "format", 1, MAX_SIZE)
        if format_number > FORMAT:
            raise ManifestError(
                f"its format is {format_number}, and this shardcast reads up to {FORMAT}; update it"
            )
        version, name, kind = (_text(values, key, 255) for key in ("version", "name", "kind"))
        if version_number(version) is None or self._version not in (None, version):
            raise ManifestError(f"it is the manifest of {version!r}")
        if "/" in name or "\\" in name or not name.isprintable():
            raise ManifestError("its name is no file's name")
        if not kind.isprintable():
            raise ManifestError("its kind is no word")
        metadata = values.get("metadata") or {}
        try:
            fits = isinstance(metadata, dict) and len(json.dumps(metadata, allow_nan=False)) <= MAX_METADATA
        except (ValueError, RecursionError):  # NaN, infinity, or too deep
            fits = False
        if not fits:
            raise ManifestError(f"its metadata is no object of at most {MAX_METADATA} bytes")
        created = values.get("created")
        if created is not None and not (isinstance(created, (int, float)) and abs(created) < MAX_SIZE):
            raise ManifestError("its time of creation is no number that a time can be")
        return Header(
            version=version,
            origin=None if values.get("origin") is None else _text(values, "origin", 100),
            name=name,
            kind=kind,
            size=None if values.get("size") is None else _integer(values, "size", 0, MAX_SIZE),
            shard_size=(
                None if values.get("shard_size") is None else _integer(values, "shard_size", 1, MAX_SIZE)
            ),
            piece_size=_integer(values, "piece_size", 1024, MAX_PIECE_SIZE),
            created=created,
            metadata=metadata,
            folder=self._folder(values),
        )

    def _folder(self, header: dict[str, Any]) -> FolderFacts | None:
        """Return the header's facts about a folder, every bound checked; None for a file.

        Raises:
            ManifestError: the facts are malformed, or break a bound.
        """
        is_written = header.get("folder") is None
        values = header.get("written_folder" if is_written else "folder")
        if values is None:
            return None
        if not isinstance(values, dict):
            raise ManifestError("its folder is no JSON object")
        name = _text(values, "name", 255)
        if not is_folder_name(name):
            raise ManifestError("the name of its folder is no folder's name")
        return FolderFacts(name, None if is_written else _integer(values, "entries", 0, MAX_ENTRIES))

    def _shard(self, values: dict[str, Any], header: Header) -> Shard:
        """Return the next shard, every bound checked.

        Raises:
            ManifestError: the line is not that of the next shard, or breaks a bound.
        """
        number = len(self.shards) + 1
        if number > MAX_SHARDS:
            raise ManifestError(f"more than {MAX_SHARDS} shards")
        if _integer(values, "shard", 1, MAX_SHARDS) != number:
            raise ManifestError(f"shard {values['shard']} stands where shard {number} belongs")
        offset = self.shards.end
        size = _integer(values, "size", 0, MAX_SIZE - offset)
        if header.size is not None and offset + size > header.size:
            raise ManifestError(f"shard {number} goes beyond the payload's {header.size} bytes")
        if (not size and number > 1) or (number > 1 and not offset):
            raise ManifestError("an empty shard that is not alone")
        try:
            pieces = base64.b64decode(_text(values, "blake3", MAX_LINE), validate=True)
        except ValueError:
            raise ManifestError(f"the digests of shard {number}'s pieces are not base64") from None
        if len(pieces) != -(-size // header.piece_size) * PIECE_DIGEST_SIZE:
            raise ManifestError(f"shard {number} has {len(pieces)} bytes of digests for {size} bytes")
        return Shard(number, offset, size, _digest(values, "sha256"), pieces)

    def _closing(self, values: dict[str, Any], header: Header) -> dict[str, str]:
        """Return the payload's digests, every sum checked.

        Raises:
            ManifestError: the line does not fit the shards or the header.
        """
        size = self.shards.end
        if not self.shards or _integer(values, "shards", 1, MAX_SHARDS) != len(self.shards):
            raise ManifestError(
                f"it closes after {len(self.shards)} shards and says {values.get('shards')!r}"
            )
        named = _integer(values, "size", 0, MAX_SIZE)
        if named != size or header.size not in (None, size):
            other = named if named != size else header.size
            raise ManifestError(f"its shards have {size} bytes together, and it says {other}")
        digests = {"sha256": _digest(values, "sha256")}
        if "blake3" in values:
            digests["blake3"] = _digest(values, "blake3")
        return digests


def parse(raw: bytes, version: str | None = None) -> Manifest:
    """Return the manifest in ``raw``.

    Raises:
        ManifestError: the bytes are no manifest, an incomplete one, or one of another version.
        Aborted: the publisher aborted the version.
    """
    reader = ManifestReader(version)
    reader.feed(raw)
    return reader.manifest()


def _integer(values: Mapping[str, Any], key: str, minimum: int, maximum: int) -> int:
    """Return an integer within bounds.

    Raises:
        ManifestError: the value is no integer, or out of bounds.
    """
    value = values.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
        raise ManifestError(f"{key!r} is {str(value)[:40]!r}, no whole number from {minimum} to {maximum}")
    return value


def _text(values: Mapping[str, Any], key: str, max_length: int) -> str:
    """Return text of bounded length.

    Raises:
        ManifestError: the value is no text, or too long.
    """
    value = values.get(key)
    if not isinstance(value, str) or len(value) > max_length:
        raise ManifestError(f"{key!r} is no text of at most {max_length} characters")
    return value


def _digest(values: Mapping[str, Any], key: str) -> str:
    """Return a digest in hex.

    Raises:
        ManifestError: the value is something else.
    """
    value = values.get(key)
    if not is_digest(value):
        raise ManifestError(f"{key!r} is no digest of 64 hex digits")
    return str(value)


def is_folder_name(name: str) -> bool:
    """Return whether a text is the name of a folder, and no path."""
    slashes = "/" in name or "\\" in name
    return name not in ("", ".", "..") and not slashes and len(name) <= 255 and name.isprintable()
