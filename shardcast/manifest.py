"""The manifest: what a version is. A header line, a line a shard, a closing line, each JSON.

::

    {"format": 1, "version": "v3", "origin": "…", "name": "model.bin", "kind": "file", "size": 123, …}
    {"shard": 1, "size": 50000000, "sha256": "…", "blake3": "<base64 of its pieces' digests>"}
    {"complete": true, "size": 123, "shards": 1, "sha256": "…"}

The bytes are kept and passed on verbatim; keys and lines that are not known here are ignored. A reader
is fed bytes as they come and checks every bound, so that a manifest from a stranger can do no harm.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shardcast.constants import PIECE_SIZE
from shardcast.digest import PIECE_DIGEST_SIZE, is_digest
from shardcast.errors import UsageError
from shardcast.wire import MAX_SHARDS, version_number

FORMAT = 1
MAX_LINE = 64 * 1024
"""Bytes of a line."""
MAX_METADATA = 16 * 1024
"""Bytes of the metadata as JSON."""
MAX_PIECE_SIZE = 64 << 20
"""Bytes of a piece: what a receiver must hold to verify one."""
MAX_MANIFEST = 256 << 20
"""Bytes of a manifest: some 1.5 TB of payload in shards of 50 MB."""
MAX_SIZE = 1 << 62
"""Bytes of a payload."""
MAX_STRANGE_LINES = 1000
"""Lines of a kind not known here."""
FILE = "file"

_LINE_OVERHEAD = 1024
"""Bytes of a shard's line beside its pieces' digests, generously."""


class ManifestError(ValueError):
    """The bytes are no manifest, or one that breaks a bound."""


class Aborted(ManifestError):
    """The manifest says that publishing was given up.

    Attributes:
        why: in the publisher's words.
    """

    def __init__(self, why: str) -> None:
        super().__init__(f"the version was given up: {why!r}")
        self.why = why


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of a version when it opens.

    Attributes:
        version: ``v3``.
        origin: the origin id; None where an old node, which has none, published it.
        name: the payload's file name, for people; never a path.
        kind: ``file``.
        size: bytes of the payload; None while unknown.
        shard_size: bytes of a shard, but for the last; None where that is not known.
        piece_size: bytes of a piece, but for a shard's last.
        created: seconds since the epoch; None where an old node published it.
        metadata: whatever the publisher adds.
    """

    version: str
    origin: str | None
    name: str
    kind: str = FILE
    size: int | None = None
    shard_size: int | None = None
    piece_size: int = PIECE_SIZE
    created: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard of a version.

    Attributes:
        number: from 1.
        offset: where it begins in the payload: the sum of the sizes before it.
        size: its bytes.
        sha256: its digest in hex; None where it isn't known (old nodes).
        pieces: the BLAKE3 digests of its pieces, 32 bytes each; empty where they aren't known.
    """

    number: int
    offset: int
    size: int
    sha256: str | None = None
    pieces: bytes = b""

    @property
    def end(self) -> int:
        return self.offset + self.size


@dataclass(frozen=True, slots=True)
class Manifest:
    """A whole manifest.

    Attributes:
        header: its first line.
        shards: in order.
        digests: of the payload, by algorithm: ``sha256``, and ``blake3`` for 0.3.x's readers.
        raw: its bytes, verbatim; empty for one that was put together from what an old node tells.
    """

    header: Header
    shards: tuple[Shard, ...]
    digests: Mapping[str, str]
    raw: bytes = b""

    @property
    def version(self) -> str:
        return self.header.version

    @property
    def size(self) -> int:
        return self.shards[-1].end if self.shards else 0

    @property
    def verifiable(self) -> bool:
        """Whether single shards can be verified; else only the whole payload can."""
        return all(shard.pieces or not shard.size for shard in self.shards)


def piece_size_for(shard_size: int) -> int:
    """Bytes of a piece for shards of this size: 256 KiB, doubled until a shard's line fits its bound.

    Raises:
        UsageError: the shard is so large that its pieces would be too large to hold.
    """
    piece_size = PIECE_SIZE
    while -(-shard_size // piece_size) * PIECE_DIGEST_SIZE * 4 // 3 > MAX_LINE - _LINE_OVERHEAD:
        piece_size *= 2
    if piece_size > MAX_PIECE_SIZE:
        raise UsageError(f"a shard of {shard_size} bytes is too large; at most some 98 GB can be one")
    return piece_size


def check_metadata(metadata: object) -> None:
    """
    Raises:
        UsageError: it is no JSON object, or is too long.
    """
    if not isinstance(metadata, Mapping):
        raise UsageError(f"metadata must be a JSON object, not {type(metadata).__name__}")
    try:
        text = json.dumps(dict(metadata), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"metadata that JSON can't hold: {error}") from None
    if len(text) > MAX_METADATA:
        raise UsageError(f"metadata of {len(text)} bytes as JSON; at most {MAX_METADATA} fit a manifest")


def header_line(header: Header) -> bytes:
    """The first line.

    Raises:
        UsageError: the metadata is no JSON object, or is too long.
    """
    check_metadata(header.metadata)
    return _line(
        {
            "format": FORMAT,
            "version": header.version,
            "origin": header.origin,
            "name": header.name,
            "kind": header.kind,
            "size": header.size,
            "shard_size": header.shard_size,
            "piece_size": header.piece_size,
            "created": header.created,
            "metadata": dict(header.metadata),
        }
    )


def shard_line(shard: Shard) -> bytes:
    """The line of one shard, whose digests are known."""
    return _line(
        {
            "shard": shard.number,
            "size": shard.size,
            "sha256": shard.sha256,
            "blake3": base64.b64encode(shard.pieces).decode(),
        }
    )


def closing_line(size: int, shards: int, digests: Mapping[str, str]) -> bytes:
    """The last line of a complete version."""
    return _line({"complete": True, "size": size, "shards": shards, **digests})


def aborted_line(why: str) -> bytes:
    """The last line of a version that was given up."""
    return _line({"aborted": why[:1000]})


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, separators=(",", ":"), allow_nan=False).encode() + b"\n"


class ManifestReader:
    """Reads a manifest as it grows: feed it bytes, take shards and, at the end, the whole.

    Attributes:
        header: None until its line has come.
        shards: those whose lines have come.
        digests: of the payload; None until the closing line has come.
    """

    def __init__(self, version: str | None = None) -> None:
        """``version`` is the one asked for; a manifest of another is refused."""
        self._version = version
        self._raw = bytearray()
        self._read = 0  # bytes of _raw that were whole lines
        self._strange = 0
        self.header: Header | None = None
        self.shards: list[Shard] = []
        self.digests: dict[str, str] | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            ManifestError: they are not a manifest's, or break a bound.
            Aborted: publishing was given up.
        """
        self._raw += data
        if len(self._raw) > MAX_MANIFEST:
            raise ManifestError(f"more than {MAX_MANIFEST} bytes")
        while (end := self._raw.find(b"\n", self._read)) >= 0:
            if end - self._read > MAX_LINE:
                raise ManifestError(f"a line of more than {MAX_LINE} bytes")
            self._take(bytes(self._raw[self._read : end]))
            self._read = end + 1
        if len(self._raw) - self._read > MAX_LINE:
            raise ManifestError(f"a line of more than {MAX_LINE} bytes")

    def manifest(self) -> Manifest:
        """The whole manifest.

        Raises:
            ManifestError: its closing line has not come.
        """
        if self.header is None or self.digests is None:
            raise ManifestError("it ends without its closing line")
        return Manifest(self.header, tuple(self.shards), self.digests, bytes(self._raw[: self._read]))

    def _take(self, line: bytes) -> None:
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            raise ManifestError("a line that is not JSON") from None
        if not isinstance(values, dict):
            raise ManifestError("a line that is no JSON object")
        if self.digests is not None:
            self._pass_over()
        elif self.header is None:
            self.header = self._header(values)
        elif "shard" in values:
            self.shards.append(self._shard(values, self.header))
        elif "complete" in values:
            self.digests = self._closing(values, self.header)
        elif "aborted" in values:
            raise Aborted(str(values["aborted"])[:200])
        else:
            self._pass_over()

    def _pass_over(self) -> None:
        self._strange += 1
        if self._strange > MAX_STRANGE_LINES:
            raise ManifestError(f"more than {MAX_STRANGE_LINES} lines of an unknown kind")

    def _header(self, values: dict[str, Any]) -> Header:
        known = _integer(values, "format", 1, MAX_SIZE)
        if known > FORMAT:
            raise ManifestError(f"its format is {known}, and this shardcast reads up to {FORMAT}; update it")
        version, name, kind = (_text(values, key, 255) for key in ("version", "name", "kind"))
        if version_number(version) is None or self._version not in (None, version):
            raise ManifestError(f"it is the manifest of {version!r}")
        if "/" in name or "\\" in name or not name.isprintable():
            raise ManifestError("its name is no file's name")
        metadata = values.get("metadata") or {}
        try:
            fits = isinstance(metadata, dict) and len(json.dumps(metadata, allow_nan=False)) <= MAX_METADATA
        except ValueError:  # NaN, infinity
            fits = False
        if not fits:
            raise ManifestError(f"its metadata is no object of at most {MAX_METADATA} bytes")
        created = values.get("created")
        if created is not None and not (isinstance(created, (int, float)) and math.isfinite(created)):
            raise ManifestError("its time of creation is no number")
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
        )

    def _shard(self, values: dict[str, Any], header: Header) -> Shard:
        number = len(self.shards) + 1
        if number > MAX_SHARDS:
            raise ManifestError(f"more than {MAX_SHARDS} shards")
        if _integer(values, "shard", 1, MAX_SHARDS) != number:
            raise ManifestError(f"shard {values['shard']} stands where shard {number} belongs")
        offset = self.shards[-1].end if self.shards else 0
        size = _integer(values, "size", 0, MAX_SIZE - offset)
        if header.size is not None and offset + size > header.size:
            raise ManifestError(f"shard {number} goes beyond the payload's {header.size} bytes")
        if (not size and number > 1) or (self.shards and not self.shards[0].size):
            raise ManifestError("an empty shard that is not alone")
        try:
            pieces = base64.b64decode(_text(values, "blake3", MAX_LINE), validate=True)
        except ValueError:
            raise ManifestError(f"the digests of shard {number}'s pieces are not base64") from None
        if len(pieces) != -(-size // header.piece_size) * PIECE_DIGEST_SIZE:
            raise ManifestError(f"shard {number} has {len(pieces)} bytes of digests for {size} bytes")
        return Shard(number, offset, size, _digest(values, "sha256"), pieces)

    def _closing(self, values: dict[str, Any], header: Header) -> dict[str, str]:
        size = self.shards[-1].end if self.shards else 0
        if not self.shards or _integer(values, "shards", 1, MAX_SHARDS) != len(self.shards):
            raise ManifestError(
                f"it closes after {len(self.shards)} shards and says {values.get('shards')!r}"
            )
        if _integer(values, "size", 0, MAX_SIZE) != size or header.size not in (None, size):
            raise ManifestError(f"its shards have {size} bytes together, and it says {values.get('size')!r}")
        digests = {"sha256": _digest(values, "sha256")}
        if "blake3" in values:
            digests["blake3"] = _digest(values, "blake3")
        return digests


def _integer(values: Mapping[str, Any], key: str, least: int, most: int) -> int:
    value = values.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ManifestError(f"{key!r} is {str(value)[:40]!r}, no whole number from {least} to {most}")
    return value


def _text(values: Mapping[str, Any], key: str, longest: int) -> str:
    value = values.get(key)
    if not isinstance(value, str) or len(value) > longest:
        raise ManifestError(f"{key!r} is no text of at most {longest} characters")
    return value


def _digest(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key)
    if not is_digest(value):
        raise ManifestError(f"{key!r} is no digest of 64 hex digits")
    return str(value)


def parse(raw: bytes, version: str | None = None) -> Manifest:
    """A whole manifest from its bytes.

    Raises:
        ManifestError: they are none, or are not complete.
    """
    reader = ManifestReader(version)
    reader.feed(raw)
    return reader.manifest()


def provisional(version: str, sizes: Sequence[int], digests: Mapping[str, str]) -> Manifest:
    """What is known of a version that an old node serves: its shards' sizes and its whole digest."""
    shards, offset = [], 0
    for number, size in enumerate(sizes, 1):
        shards.append(Shard(number, offset, size))
        offset += size
    header = Header(version, None, f"{version}.bin", size=offset)
    return Manifest(header, tuple(shards), dict(digests))


def complete(header: Header, shards: Sequence[Shard], digests: Mapping[str, str]) -> Manifest:
    """A whole manifest from its parts, with the bytes that say so."""
    size = shards[-1].end if shards else 0
    raw = header_line(header) + b"".join(map(shard_line, shards)) + closing_line(size, len(shards), digests)
    return Manifest(header, tuple(shards), dict(digests), raw)
