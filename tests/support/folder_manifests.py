"""Manifests and payloads of folders, made from a table and the bytes of its files."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable

from shardcast.digest import PieceDigests
from shardcast.folders.layout import FileRange, FolderLayout
from shardcast.folders.listing import digest_lines, entry_lines
from shardcast.folders.table import FolderTable
from shardcast.protocol.manifest import (
    FolderFacts,
    Header,
    Manifest,
    Shard,
    closing_line,
    header_line,
    piece_size_for,
    shard_line,
)
from shardcast.protocol.manifest_reader import parse

Content = Callable[[int, int, int], bytes]
"""Returns the bytes of a file: index in the table, offset, length."""


def counted(index: int, offset: int, length: int) -> bytes:
    """Return bytes of a file where byte ``n`` of file ``i`` is ``i + n`` modulo 251."""
    return bytes((index + offset + number) % 251 for number in range(length))


def folder_payload(layout: FolderLayout, content: Content = counted) -> bytes:
    """Return the whole payload."""

    def bytes_of(part: bytes | FileRange) -> bytes:
        return part if isinstance(part, bytes) else content(part.index, part.offset, part.length)

    return b"".join(map(bytes_of, layout.parts(0, layout.size)))


def folder_manifest(
    table: FolderTable,
    content: Content = counted,
    *,
    shard_size: int = 1 << 20,
    version: str = "v1",
    name: str = "model",
) -> tuple[Manifest, bytes]:
    """Return the manifest of a folder as a publisher writes it, and the payload."""
    layout = FolderLayout(table, shard_size)
    payload = folder_payload(layout, content)
    header = Header(
        version,
        "0123456789abcdef",
        f"{name}.tar",
        size=layout.size,
        shard_size=shard_size,
        piece_size=piece_size_for(shard_size),
        created=1.0,
        folder=FolderFacts(name, len(table)),
    )
    lines = [header_line(header), *entry_lines(table)]
    small, told, number = list(layout.small_files()), 0, 0
    for number, placed in enumerate(layout.shards(), 1):
        data = payload[placed.offset : placed.offset + placed.size]
        pieces = PieceDigests(header.piece_size)
        pieces.update(data)
        lines.append(
            shard_line(
                Shard(number, placed.offset, placed.size, hashlib.sha256(data).hexdigest(), pieces.finish())
            )
        )
        ended = [
            index
            for index in small[told:]
            if layout.body(index) + table.size(index) <= placed.offset + placed.size
        ]
        lines += digest_lines(
            told, [hashlib.sha256(content(index, 0, table.size(index))).digest() for index in ended]
        )
        told += len(ended)
    lines.append(closing_line(layout.size, number, {"sha256": hashlib.sha256(payload).hexdigest()}))
    return parse(b"".join(lines), version), payload


def with_first_line(raw: bytes, **changes: object) -> bytes:
    """Return a manifest's bytes with other values in its header."""
    first, _, rest = raw.partition(b"\n")
    return json.dumps(json.loads(first) | changes).encode() + b"\n" + rest


def encoded(path: bytes) -> dict[str, str]:
    """Return a path as a list has one that is not UTF-8."""
    return {"base64": base64.b64encode(path).decode()}
