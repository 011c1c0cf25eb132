"""Chunks shared between clients (``start --dedupe-clients``), by a proof of possession.

Clients that share have one key of ids, so equal bytes have equal ids. A client that proves to have the bytes
of another client's chunk gets a row of its own for the chunk, in the other's pack. All requests are answered
from the client's own rows, as without sharing: an id alone, even a right one, opens nothing.

The server verifies a proof against the stored bytes. So a hostile client that stores other bytes under an id
does no harm: the proof fails, and the honest client sends its own bytes.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from shardcast.backup.encoding import decode_chunk
from shardcast.backup.packs import PackedChunk
from shardcast.backup.proofs import prove
from shardcast.backup.server.backup_store import BackupStore
from shardcast.backup.server.chunk_table import THERE, add_chunks, batches, marks
from shardcast.backup.wire import MIN_SHARED
from shardcast.disk_errors import disk_errors
from shardcast.errors import IntegrityError

log = logging.getLogger(__name__)

_MAX_WRONG = 16
"""Wrong proofs in one request before the rest is refused unread: each costs a read of the disk."""


class SharedChunk(NamedTuple):
    """A chunk of another client.

    Attributes:
        pack: the number of the pack.
        digest: SHA-256 of the pack.
        offset: offset of the encoded chunk in the pack.
        length: bytes of the encoded chunk.
        id: the chunk's id.
    """

    pack: int
    digest: bytes
    offset: int
    length: int
    id: bytes


async def share_chunks(
    store: BackupStore, client: int, key: bytes, proofs: Mapping[bytes, bytes]
) -> set[bytes]:
    """Share the chunks that a client proves to have, and return their ids.

    Args:
        store: the store.
        client: the client's number.
        key: the key of the proofs, from the client's run.
        proofs: the proof of each chunk, by the chunk's id.

    Raises:
        LocalDiskError: the disk failed.
    """
    found = await store.database.read(_find_shared, client, list(proofs))
    proven = await asyncio.to_thread(lambda: list(_proven(store, found, key, proofs)))
    return await store.database.write(_add_shared, client, proven) if proven else set()


def _find_shared(database: sqlite3.Connection, client: int, ids: Sequence[bytes]) -> list[SharedChunk]:
    """Return available chunks of other clients that share, in the order in which they lie in their packs."""
    found = set[SharedChunk]()
    for batch in batches(ids):
        rows = database.execute(
            "SELECT pack, digest, offset, length, id FROM chunk JOIN pack ON pack.number = chunk.pack "
            "WHERE chunk.client IN (SELECT number FROM client WHERE shares AND number <> ?) "
            f"AND id IN ({marks(batch)}) AND length >= ? AND {THERE}",
            (client, *batch, MIN_SHARED),
        )
        found.update(SharedChunk(*row) for row in rows)
    return sorted(found)


def _proven(
    store: BackupStore, found: Iterable[SharedChunk], key: bytes, proofs: Mapping[bytes, bytes]
) -> Iterator[SharedChunk]:
    """Yield the chunks whose bytes have the right proof, each id once.

    Stop after ``_MAX_WRONG`` wrong proofs. Blocks on the disk. A pack without a file is passed over.

    Raises:
        LocalDiskError: a pack cannot be read.
    """
    wrong, right = 0, set[bytes]()
    for digest, chunks in groupby(found, lambda chunk: chunk.digest):
        file = store.pack_path(digest.hex())
        if wrong >= _MAX_WRONG:
            return
        if not file.exists():
            continue  # `check` finds out, and tells
        with disk_errors("could not read", file), file.open("rb") as pack:
            for chunk in chunks:
                if chunk.id in right or wrong >= _MAX_WRONG:
                    continue
                if _is_right(os.pread(pack.fileno(), chunk.length, chunk.offset), key, proofs[chunk.id]):
                    right.add(chunk.id)
                    yield chunk
                else:
                    wrong += 1


def _is_right(encoded: bytes, key: bytes, proof: bytes) -> bool:
    """Return whether a proof is that of an encoded chunk."""
    try:
        return hmac.compare_digest(prove(key, decode_chunk(encoded)), proof)
    except IntegrityError:
        return False


def _add_shared(database: sqlite3.Connection, client: int, proven: Sequence[SharedChunk]) -> set[bytes]:
    """Give a client rows for chunks in packs that are still available, and return the chunks' ids."""
    added = set[bytes]()
    for pack, group in groupby(proven, lambda chunk: chunk.pack):
        if database.execute(f"SELECT 1 FROM pack WHERE number = ? AND {THERE}", (pack,)).fetchone():
            chunks = [PackedChunk(chunk.id, chunk.offset, chunk.length) for chunk in group]
            add_chunks(database, client, pack, chunks)
            added.update(chunk.id for chunk in chunks)
    return added
