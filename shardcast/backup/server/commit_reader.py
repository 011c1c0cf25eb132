"""The body that commits a snapshot, read in parts: ids become numbers, to save memory."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

from shardcast.backup.server.backup_store import BackupStore
from shardcast.backup.server.chunk_sets import ChunkSet
from shardcast.backup.server.chunk_table import find_numbers, numbers_of
from shardcast.backup.server.refusals import BackupRefused, ChunksMissing
from shardcast.backup.server.runs import ActiveRun
from shardcast.backup.server.snapshot_table import NewSnapshot, read_needs
from shardcast.backup.wire import (
    ID_BYTES,
    MAX_HEAD,
    MAX_IDS,
    MAX_RECORD,
    MAX_SNAPSHOT_IDS,
    MAX_TAGS,
    MAX_TEXT,
    decode_count,
    split_ids,
)
from shardcast.json_text import parse_json

_BATCH = 8192
"""Ids looked up at a time."""
_SIZES = ("files", "bytes", "new_bytes")
_MAX_SIZE = 1 << 62
_TEXT_FIELDS = ("host", "path", "path64", "user")
_ID = re.compile(r"[0-9a-f]{1,64}", re.ASCII)
_TOO_MANY = f"the snapshot needs more than {MAX_SNAPSHOT_IDS} chunks; back up its subfolders one by one"


class BodyReader:
    """A body as a stream of exact lengths."""

    def __init__(self, parts: AsyncIterator[bytes]) -> None:
        self._parts = parts
        self._buffer = bytearray()

    async def read(self, size: int) -> bytes:
        """Return the next ``size`` bytes, or the rest of the body if shorter."""
        while len(self._buffer) < size:
            part = await anext(self._parts, None)
            if part is None:
                break
            self._buffer += part
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    async def read_block(self, max_size: int, what: str) -> bytes:
        """Return a block after reading its length.

        Raises:
            BackupRefused: the body ends too early, or the block is too long.
        """
        size = await self.read_count()
        if size > max_size:
            raise BackupRefused(
                f"the {what} of a snapshot has at most {max_size} bytes, not {size}", status=413
            )
        data = await self.read(size)
        if len(data) != size:
            raise BackupRefused(f"the body ends inside the {what}", status=400)
        return data

    async def read_count(self) -> int:
        """Return the next length or count.

        Raises:
            BackupRefused: the body ends before.
        """
        try:
            return decode_count(await self.read(4))
        except ValueError as error:
            raise BackupRefused(str(error), status=400) from None

    async def ids(self, count: int | None) -> AsyncIterator[list[bytes]]:
        """Yield the next ``count`` ids in batches; None for the rest of the body.

        Raises:
            BackupRefused: the body ends inside an id or too early, or has too many ids.
        """
        left = MAX_SNAPSHOT_IDS + 1 if count is None else count
        while left:
            data = await self.read(min(left, _BATCH) * ID_BYTES)
            if not data and count is None:
                return
            try:
                batch = split_ids(data)
            except ValueError as error:
                raise BackupRefused(str(error), status=400) from None
            if not batch:
                raise BackupRefused(f"{left} ids are missing at the end of the body", status=400)
            left -= len(batch)
            yield batch
        if count is None:
            raise BackupRefused(_TOO_MANY, status=413)


async def read_commit(store: BackupStore, run: ActiveRun, parts: AsyncIterator[bytes]) -> NewSnapshot:
    """Read a new snapshot from the body of a request, and look up its chunks.

    Raises:
        BackupRefused: the body is malformed, or the base snapshot was deleted.
        ChunksMissing: chunks are not available.
        IntegrityError: the base snapshot's list of chunks is damaged.
    """
    body = BodyReader(parts)
    head = parse_head(await body.read_block(MAX_HEAD, "head"))
    record = await body.read_block(MAX_RECORD, "record")
    base = head.pop("base")
    count = None
    needs = ChunkSet()
    if base is not None:
        needs = await store.database.read(read_needs, run.client, base)
        count = await body.read_count()
        if count > MAX_SNAPSHOT_IDS:
            raise BackupRefused(_TOO_MANY, status=413)
    added, missing = ChunkSet(), list[bytes]()
    async for batch in body.ids(count):
        if len(missing) >= MAX_IDS:
            continue  # the rest is only read: the answer names some of the missing ones
        found = await store.database.read(find_numbers, run.client, run.number, batch)
        added.update(chunk.number for chunk in found)
        there = {chunk.id for chunk in found}
        missing += [chunk for chunk in batch if chunk not in there]
    if base is not None:
        async for batch in body.ids(None):
            needs.remove(await store.database.read(numbers_of, run.client, batch))
    if missing:
        raise ChunksMissing.of(list(dict.fromkeys(missing))[:MAX_IDS])
    needs.unite(added)
    return NewSnapshot(head, record, needs)


def parse_head(data: bytes) -> dict[str, Any]:
    """Return the known fields in the head of a snapshot, each within bounds, and ``base``.

    Raises:
        BackupRefused: the head is malformed.
    """
    try:
        fields = parse_json(data)
        if not isinstance(fields, dict):
            raise ValueError("no JSON object")
        return {
            **{name: _text(fields[name]) for name in _TEXT_FIELDS if name in fields},
            **{name: _size(fields.get(name, 0)) for name in _SIZES},
            "tags": _tags(fields.get("tags", [])),
            "base": _base(fields.get("base")),
        }
    except ValueError as error:
        raise BackupRefused(f"the head of the snapshot is malformed: {error}", status=400) from None


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ValueError(f"a field is no text, or has more than {MAX_TEXT} characters")
    value.encode()  # a lone surrogate is a ValueError
    return value


def _size(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_SIZE:
        raise ValueError("a size is no whole number, or out of bounds")
    return value


def _tags(value: object) -> list[str]:
    if not isinstance(value, list) or len(value) > MAX_TAGS:
        raise ValueError(f"the tags are no list of at most {MAX_TAGS}")
    return [_text(tag) for tag in value]


def _base(value: object) -> str | None:
    if value is not None and not (isinstance(value, str) and _ID.fullmatch(value)):
        raise ValueError("the base is no id of a snapshot")
    return value
