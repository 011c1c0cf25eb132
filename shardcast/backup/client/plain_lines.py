"""Lines of plain files: what many of them share is encoded once, and the rest written between."""

from __future__ import annotations

import os
import stat
from functools import lru_cache
from json.encoder import encode_basestring
from typing import Any

from shardcast.backup.attributes import owner_names
from shardcast.backup.entries import encode_json, text_or_base64

_BLOCK = 512
"""Bytes of the blocks in which a file's room on the disk is counted."""


def is_sparse(found: os.stat_result, size: int) -> bool:
    """Return whether a file of so many bytes takes less room on the disk."""
    return found.st_blocks * _BLOCK < size


def is_plain(found: os.stat_result) -> bool:
    """Return whether a file is regular, and has one name and no holes."""
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and not is_sparse(found, found.st_size)


def plain_line(name: bytes, chunk: bytes, found: os.stat_result) -> bytes:
    """Return the line of a plain file without extended attributes, as ``entries.fields_line`` makes it.

    An encoder takes five times as long, which counts for a million files.

    Args:
        name: the file's name.
        chunk: the id of its only chunk; empty for an empty file.
        found: the file's state.
    """
    key, text = text_or_base64("name", name)
    chunks = b'"chunks":["%b"],' % chunk.hex().encode() if chunk else b""
    before, after = _shared(found.st_mode, found.st_uid, found.st_gid)
    text = f'"mtime":{found.st_mtime_ns},"{key}":{encode_basestring(text)},"size":{found.st_size},'
    return b"{%b%b,%b%b}\n" % (chunks, before, text.encode(), after)


@lru_cache(maxsize=1024)
def _shared(mode: int, uid: int, gid: int) -> tuple[bytes, bytes]:
    """Return what files of equal mode and owner have in their lines before ``mtime``, and behind ``size``."""
    names = owner_names(uid, gid)
    fields: dict[str, Any] = {"kind": "file", "mode": stat.S_IMODE(mode), "uid": uid, "gid": gid, **names}
    before = {key: value for key, value in fields.items() if key < "mtime"}
    after = {key: value for key, value in fields.items() if key > "size"}
    return encode_json(before)[1:-1], encode_json(after)[1:-1]
